"""Contrast of queries with keys of a slowly moving encoder: a queue, or the batch."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit


class MoCoLoss(nn.Module):
    """Cross entropy of a query with its key among a queue of earlier keys.

    He et al. 2020, eq. 1. The queue holds unit vectors of the last batches of all ranks, first in,
    first out; the keys of the batch enter it after the loss, in training mode only (an invalid key
    leaves its place as it was). No key of the batch itself is a negative, and no gradient goes to
    the keys.

    Args:
        dim: width of the embeddings.
        size: length of the queue, a multiple of the global batch in the paper.
        temperature: divisor τ.

    Attributes:
        queue: (size, dim) unit rows, random before they are replaced.
        position: scalar int64, where the next key goes.
    """

    queue: Tensor
    position: Tensor

    def __init__(self, dim: int, size: int = 65536, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature
        # A seed of its own: the queue must be the same on all ranks.
        start = torch.randn(size, dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("queue", unit(start, normalize=True))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @full_precision
    def forward(
        self,
        queries: Float[Tensor, "batch dim"],
        keys: Float[Tensor, "batch dim"],
        *,
        valid: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross entropy of raw (B, dim) queries with raw (B, dim) keys."""
        rows = Rows.of(queries, "none", valid)
        queries = unit(rows.keep_valid(queries), normalize=True) / self.temperature
        keys = unit(rows.keep_valid(keys.detach()), normalize=True)
        positive = (queries * keys).sum(1)
        # A copy: the queue changes before the backward of this step needs it.
        negatives = queries @ self.queue.clone().to(queries.dtype).T
        scores = torch.cat([positive[:, None], negatives], dim=1)
        loss = global_mean(scores.logsumexp(1) - positive, valid)
        if self.training:
            self._enqueue(keys, valid)
        return loss

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, valid: Tensor | None) -> None:
        size = len(self.queue)
        rows = Rows.of(keys, "full", valid)
        keys = rows.everywhere(keys)[-size:].to(self.queue.dtype)
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        if rows.valid is not None:
            keys = torch.where(rows.valid[-size:, None], keys, self.queue[places])
        self.queue.index_copy_(0, places, keys)
        self.position.add_(len(keys)).remainder_(size)


@full_precision
def moco_v3(
    queries: Float[Tensor, "batch dim"],
    keys: Float[Tensor, "batch dim"],
    temperature: float = 0.2,
    *,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """2τ times the mean cross entropy of queries with the keys of the batch, one direction.

    Chen et al. 2021, algorithm 1; the caller adds the other direction. No gradient goes to the
    keys. Arguments as in `info_nce`.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(queries, gather, valid, ids)
    queries = unit(rows.keep_valid(queries), normalize) / temperature
    keys = unit(rows.keep_valid(keys.detach()), normalize)
    scores = queries @ rows.everywhere(keys).T
    left_out = rows.excluded()
    if left_out is not None:
        scores = scores.masked_fill(left_out, -torch.inf)
    positive = (queries * keys).sum(1)
    return 2 * temperature * global_mean(scores.logsumexp(1) - positive, valid)
