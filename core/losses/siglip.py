"""Pairwise sigmoid loss."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean, rank, ring_shift
from core.losses.precision import full_precision
from core.losses.rows import GatherOrRing, Rows, unit


@full_precision
def siglip(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    *,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: GatherOrRing = "full",
) -> Float[Tensor, ""]:
    """(1/B) Σ_ij softplus(-y_ij (t a_i·b_j + c)), y = 1 on the diagonal and -1 elsewhere.

    Zhai et al. 2023, eq. 1; divided by the number of pairs B, not by B².

    Args:
        a: (B, D) embeddings of one modality.
        b: (B, D) embeddings of the other; row i belongs to row i of a.
        logit_scale: multiplier t, learned from 10 in the paper (`LogitScale(10.0)`).
        logit_bias: offset c, learned from -10 in the paper.
        normalize: bring the rows to unit length first.
        valid: (B,) False where a pair is missing.
        ids: (B,) pairs with equal ids are no negatives of each other.
        gather: see `info_nce`.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(a, gather, valid, ids)
    a = unit(rows.keep_valid(a), normalize) * logit_scale
    b = unit(rows.keep_valid(b), normalize)
    if gather == "ring" and rows.shared:
        total = _around_the_ring(a, b, logit_bias, rows)
    else:
        total = _row_losses(a, rows.everywhere(b), logit_bias, rows, 0)
    return global_mean(total, valid)


def _row_losses(
    a: Tensor, b: Tensor, bias: float | Tensor, rows: Rows, first: int
) -> Float[Tensor, " n"]:
    """Loss of every anchor with the candidates b, which are those from number `first` on."""
    columns = slice(first, first + len(b))
    logits = a @ b.T + bias
    logits = torch.where(rows.pairs(a.device, columns=columns), -logits, logits)
    left_out = rows.excluded(columns=columns)
    if left_out is not None:
        logits = logits.masked_fill(left_out, -torch.inf)
    return F.softplus(logits).sum(1)


def _around_the_ring(a: Tensor, b: Tensor, bias: float | Tensor, rows: Rows) -> Tensor:
    world = len(rows.counts)
    total = a.new_zeros(len(a))
    block = torch.cat([b, b.new_zeros(max(rows.counts) - len(b), b.shape[1])])
    for step in range(world):
        owner = (rank() + step) % world
        candidates = block[: rows.counts[owner]]
        total = total + _row_losses(a, candidates, bias, rows, sum(rows.counts[:owner]))
        if step < world - 1:
            block = ring_shift(block)
    return total
