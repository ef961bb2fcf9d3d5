"""Softmax over the items of a batch, corrected for how often an item is in one."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.losses.info_nce import info_nce
from core.losses.precision import full_precision
from core.losses.rows import GatherOrRing, unit


@full_precision
def in_batch_softmax(
    query: Float[Tensor, "batch dim"],
    item: Float[Tensor, "batch dim"],
    log_probability: Float[Tensor, " batch"],
    temperature: float | Tensor = 0.1,
    *,
    normalize: bool = True,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: GatherOrRing = "full",
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """-mean log softmax_j(s(q_i, x_j)/τ - log p_j)_ii: sampled softmax with the batch as sample.

    Yi et al. 2019 (RecSys, "Sampling-bias-corrected neural modeling"), eq. 4 and 5. The correction
    belongs to the column, so the positive on the diagonal has it too; serving does not.

    Args:
        query: (B, D) embeddings of the queries.
        item: (B, D) embeddings of their positive items, the negatives of the others.
        log_probability: (B,) log p of each item to be in a batch; a common factor of p is lost.
        temperature: divisor τ.
        normalize: bring the rows to unit length first.
        ids: (B,) items with equal ids are no negatives of each other (accidental hits).
        gather: as in `info_nce`.
        tile: rows and columns of a tile, to keep the B x N logits out of memory.

    Returns:
        Scalar in float32 at least.
    """
    query, item = unit(query, normalize) / temperature, unit(item, normalize)
    # One more coordinate carries the correction through the product, tiled or not.
    query = torch.cat([query, torch.ones_like(query[:, :1])], 1)
    item = torch.cat([item, -log_probability[:, None].to(item.dtype)], 1)
    return info_nce(
        query, item, 1.0, normalize=False, ids=ids, gather=gather, tile=tile, symmetric=False
    )
