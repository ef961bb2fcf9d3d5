"""Redundancy reduction by the cross-correlation of two views."""

from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import all_reduce_sum
from core.losses.precision import full_precision
from core.losses.statistics import centred, row_count


@full_precision
def barlow_twins(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    off_diagonal_weight: float = 5e-3,
    *,
    valid: Bool[Tensor, " batch"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, ""]:
    """Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij², C the cross-correlation over the batch of all ranks.

    Zbontar et al. 2021, eq. 1. Columns are standardised with the biased variance; the sum has no
    further scale (some implementations multiply it by 0.025).

    Args:
        a: (B, D) projections of one view.
        b: (B, D) projections of the other.
        off_diagonal_weight: λ.
        valid: (B,) False where a pair does not count.
        eps: added to the variance.

    Returns:
        Scalar in float32 at least, the same on all ranks.
    """
    count = row_count(a, valid)
    a, b = (_standardised(x, count, valid, eps) for x in (a, b))
    correlation = all_reduce_sum(a.T @ b) / count
    diagonal = correlation.diagonal()
    off_diagonal = correlation - diagonal.diag()
    return (1 - diagonal).square().sum() + off_diagonal_weight * off_diagonal.square().sum()


def _standardised(x: Tensor, count: Tensor, valid: Tensor | None, eps: float) -> Tensor:
    x = centred(x, count, valid)
    return x / (all_reduce_sum(x.square().sum(0)) / count + eps).sqrt()
