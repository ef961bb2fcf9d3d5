"""Regression of a target projection."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import zero_invalid


@full_precision
def byol(
    prediction: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    *,
    valid: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of 2 - 2 cos(prediction, target), without gradient to the target.

    Grill et al. 2020, eq. 2; the caller adds the other direction.

    Args:
        prediction: (B, D) output of the predictor for one view.
        target: (B, D) projection of the other view by the target network.
        valid: (B,) False where a row does not count.

    Returns:
        Scalar in [0, 4], in float32 at least.
    """
    prediction, target = (zero_invalid(x, valid) for x in (prediction, target.detach()))
    return global_mean(2 - 2 * F.cosine_similarity(prediction, target, dim=-1), valid)
