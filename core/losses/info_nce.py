"""Symmetric InfoNCE, the loss of CLIP: dense, or in tiles without the matrix of logits."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean, rank, ring_shift
from core.losses.precision import full_precision
from core.losses.rows import GatherOrRing, Rows, unit
from core.losses.tiled import tiled_logsumexp


@full_precision
def info_nce(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float | Tensor = 0.07,
    *,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: GatherOrRing = "full",
    tile: int | None = None,
    symmetric: bool = True,
) -> Float[Tensor, ""]:
    """½ [-mean log softmax_row(s)_ii - mean log softmax_column(s)_ii], s_ij = a_i·b_j/τ.

    van den Oord et al. 2018, eq. 4, in both directions as in Radford et al. 2021. Each rank holds
    its own rows of the matrix; the column sums are merged over the ranks, so that the matrix is
    computed once for both directions.

    Args:
        a: (B, D) embeddings of one view or modality.
        b: (B, D) embeddings of the other; row i belongs to row i of a.
        temperature: divisor τ, a number or a tensor that is learned (see `LogitScale`).
        normalize: bring the rows to unit length first.
        valid: (B,) False where a pair is missing.
        ids: (B,) pairs with equal ids are no negatives of each other.
        gather: candidates are this rank's rows ("none"), those of all ranks ("full"), or those of
            all ranks passed around block by block ("ring": no rank holds all logits at a time).
        tile: rows and columns of a tile (1024 to 4096) to keep the logits out of memory: two
            vectors are stored instead of B x N numbers, at the price of computing them twice.
        symmetric: both directions; otherwise the rows of a are the only anchors.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(a, gather, valid, ids)
    a = unit(rows.keep_valid(a), normalize) / temperature
    b = unit(rows.keep_valid(b), normalize)
    if gather == "ring" and rows.shared:
        row_sums, column_sums = _around_the_ring(a, b, rows, tile)
    else:
        row_sums, column_sums = _log_sums(a, rows.everywhere(b), rows, 0, tile)
    log_sums = row_sums
    if symmetric:
        log_sums = (row_sums + rows.own(rows.log_sum_columns(column_sums))) / 2
    return global_mean(log_sums - (a * b).sum(1), valid)


def _log_sums(
    a: Tensor, b: Tensor, rows: Rows, first: int, tile: int | None
) -> tuple[Tensor, Tensor]:
    """Row and column log-sums of a bᵀ, where b are the candidates from number `first` on."""

    def excluded(row: slice, column: slice) -> Tensor | None:
        return rows.excluded(row, slice(first + column.start, first + column.stop))

    if tile is not None:
        return tiled_logsumexp(a, b, tile, excluded)
    scores = a @ b.T
    left_out = excluded(slice(None), slice(0, len(b)))
    if left_out is not None:
        scores = scores.masked_fill(left_out, -torch.inf)
    return scores.logsumexp(1), scores.logsumexp(0)


def _around_the_ring(a: Tensor, b: Tensor, rows: Rows, tile: int | None) -> tuple[Tensor, Tensor]:
    """The log-sums of all candidates, while the blocks of b pass from rank to rank."""
    world = len(rows.counts)
    row_parts: list[Tensor] = []
    column_parts: list[Tensor] = [b.new_empty(0)] * world
    block = torch.cat([b, b.new_zeros(max(rows.counts) - len(b), b.shape[1])])
    for step in range(world):
        owner = (rank() + step) % world
        candidates = block[: rows.counts[owner]]
        first = sum(rows.counts[:owner])
        row_sums, column_parts[owner] = _log_sums(a, candidates, rows, first, tile)
        row_parts.append(row_sums)
        if step < world - 1:
            block = ring_shift(block)
    return torch.stack(row_parts).logsumexp(0), torch.cat(column_parts)
