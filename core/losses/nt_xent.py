"""Normalised temperature-scaled cross entropy, the loss of SimCLR."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, both, two_view_scores, unit


@full_precision
def nt_xent(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over 2B anchors of the cross entropy with the other 2B - 1 rows as candidates.

    Chen et al. 2020, eq. 1. Arguments as in `info_nce`.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(a, gather, valid, ids)
    a, b = (unit(rows.keep_valid(x), normalize) for x in (a, b))
    positive, negatives = two_view_scores(a, b, temperature, rows)
    scores = torch.cat([positive[:, None], negatives], dim=1)
    return global_mean(scores.logsumexp(1) - positive, both(valid))
