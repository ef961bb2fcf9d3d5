"""Agreement of a prediction with a projection that is held still."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import zero_invalid


@full_precision
def simsiam(
    prediction: Float[Tensor, "batch dim"],
    projection: Float[Tensor, "batch dim"],
    *,
    valid: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of -cos(prediction, projection), without gradient to the projection.

    Chen and He 2021, eq. 3; the caller takes half of each direction.

    Args:
        prediction: (B, D) output of the predictor for one view.
        projection: (B, D) projection of the other view.
        valid: (B,) False where a row does not count.

    Returns:
        Scalar in [-1, 1], in float32 at least.
    """
    prediction, projection = (zero_invalid(x, valid) for x in (prediction, projection.detach()))
    return global_mean(-F.cosine_similarity(prediction, projection, dim=-1), valid)
