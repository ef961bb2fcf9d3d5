"""Variance, invariance and covariance regularisation."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import all_reduce_sum, global_mean
from core.losses.precision import full_precision
from core.losses.rows import zero_invalid
from core.losses.statistics import centred, row_count


@full_precision
def vicreg(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    valid: Bool[Tensor, " batch"] | None = None,
    eps: float = 1e-4,
) -> Float[Tensor, ""]:
    """λ MSE + μ ½ Σ_views mean_d relu(1 - sqrt(Var + ε)) + ν Σ_views Σ_{i≠j} Cov_ij² / D.

    Bardes et al. 2022, eq. 6; the variance hinge is averaged over the two views as in the authors'
    code. Variance and covariance are unbiased, over the batch of all ranks.

    Args:
        a: (B, D) projections of one view.
        b: (B, D) projections of the other.
        invariance_weight: λ.
        variance_weight: μ.
        covariance_weight: ν.
        valid: (B,) False where a pair does not count.
        eps: added to the variance.

    Returns:
        Scalar in float32 at least.
    """
    a, b = zero_invalid(a, valid), zero_invalid(b, valid)
    count = row_count(a, valid)
    rows = None if valid is None else valid[:, None]
    loss = invariance_weight * global_mean((a - b).square(), rows)
    for x in (a, b):
        x = centred(x, count, valid)
        covariance = all_reduce_sum(x.T @ x) / (count - 1).clamp(min=1)
        variance = covariance.diagonal()
        hinge = F.relu(1 - (variance + eps).sqrt()).mean()
        off_diagonal = (covariance - variance.diag()).square().sum() / x.shape[1]
        loss = loss + variance_weight * hinge / 2 + covariance_weight * off_diagonal
    return loss
