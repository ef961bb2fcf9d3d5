"""Normalised temperature-scaled cross entropy, the loss of SimCLR."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, both, unit


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
    anchors = torch.cat([a, b]) / temperature
    scores = anchors @ torch.cat([rows.everywhere(a), rows.everywhere(b)]).T
    own = torch.arange(rows.start, rows.start + rows.size, device=a.device)
    itself, positive = torch.cat([own, own + rows.total]), torch.cat([own + rows.total, own])
    # Beside autograd, which would copy the matrix: the gradient of what is left out is 0 anyway.
    left_out, excluded = scores.detach(), rows.excluded()
    if excluded is not None:
        left_out.masked_fill_(excluded.repeat(2, 2), -torch.inf)
    left_out[torch.arange(len(scores), device=a.device), itself] = -torch.inf
    return global_mean(cross_entropy(scores, positive, reduction="none"), both(valid))
