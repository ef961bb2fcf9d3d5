"""Embedding tables whose rows are spread over the processes of a group."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from core.distributed import all_gather, is_distributed, rank, world_size


class ShardedEmbedding(nn.EmbeddingBag):
    """An `EmbeddingBag` that sums, of which each process can keep a part of the rows.

    Built whole, so that every number of processes begins with the same table; `shard`, called
    when there is a process group, leaves row r on process r mod N. A lookup then sends the numbers
    of the rows to where they are and their vectors back, and the backward sends the gradients the
    same way. The gradient of a row is the mean over the processes of the gradients of their losses,
    which is what DistributedDataParallel makes of replicated parameters; the weight must be
    left out of its averaging (`_ddp_params_and_buffers_to_ignore`).

    The state dict always holds the whole table: written on N processes, read on any number.
    All processes must call the forward, and write the state, together.

    Args:
        num_embeddings: rows.
        embedding_dim: width of a row.
        sparse: sparse gradients, for optimizers that know them.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, sparse: bool = False) -> None:
        super().__init__(num_embeddings, embedding_dim, mode="sum", sparse=sparse)
        self.is_sharded = False

    def shard(self) -> None:
        """Keeps this process's rows alone; nothing where there is one process."""
        if is_distributed() and not self.is_sharded:
            self.weight = nn.Parameter(self.part_of(self.weight.detach()))
            self.is_sharded = True

    def part_of(self, table: Float[Tensor, "rows dim"]) -> Float[Tensor, "part dim"]:
        """This process's rows of something that has a row for each of the table's."""
        return table[rank() :: world_size()].clone()

    def whole_of(self, part: Float[Tensor, "part dim"]) -> Float[Tensor, "rows dim"]:
        """Something with a row for each of the table's, from the parts of all processes."""
        world = world_size()
        counts = [len(range(owner, self.num_embeddings, world)) for owner in range(world)]
        whole = part.new_empty(self.num_embeddings, *part.shape[1:])
        for owner, rows in enumerate(all_gather(part.detach(), counts).split(counts)):
            whole[owner::world] = rows
        return whole

    def forward(
        self,
        input: Int[Tensor, "batch values"],
        offsets: Tensor | None = None,
        per_sample_weights: Float[Tensor, "batch values"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Σ_v w_bv · table[input_bv]; weights of 1 where none are given."""
        if not self.is_sharded:
            return super().forward(input, offsets, per_sample_weights)
        vectors = self._lookup(input.flatten().long()).view(*input.shape, self.embedding_dim)
        if per_sample_weights is not None:
            vectors = vectors * per_sample_weights[..., None]
        return vectors.sum(1)

    def _lookup(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        world = world_size()
        # A row is asked for once, however often the batch has it.
        distinct, place = ids.unique(return_inverse=True)
        order = (distinct % world).argsort(stable=True)
        asked = torch.bincount(distinct % world, minlength=world)
        owed = torch.empty_like(asked)
        dist.all_to_all_single(owed, asked)
        to_ask, to_give = asked.tolist(), owed.tolist()
        wanted = torch.empty(sum(to_give), dtype=torch.int64, device=ids.device)
        dist.all_to_all_single(wanted, distinct[order], to_give, to_ask)
        given = F.embedding(wanted // world, self.weight, sparse=self.sparse)
        vectors: Tensor = _AllToAll.apply(given, to_ask, to_give)
        # Row k of what came back is row order[k] of the distinct ones.
        return vectors.index_select(0, order.argsort().index_select(0, place))

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_sharded:
            destination[prefix + "weight"] = self.whole_of(self.weight)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: object
    ) -> None:
        name = prefix + "weight"
        if self.is_sharded and name in state_dict:
            state_dict = state_dict | {name: self.part_of(state_dict[name])}
        super()._load_from_state_dict(state_dict, prefix, *args)


def whole_optimizer_state(
    tables: list[ShardedEmbedding | None], state: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """An optimizer's state with whole tables instead of this process's rows of them.

    Args:
        tables: for each parameter, in the optimizer's order, the sharded table whose weight it is.
        state: number of the parameter -> name -> value, as in `state_dict()["state"]`.
    """
    return _of_tables(tables, state, ShardedEmbedding.whole_of)


def own_optimizer_state(
    tables: list[ShardedEmbedding | None], state: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """The reverse of `whole_optimizer_state`, on any number of processes."""
    return _of_tables(tables, state, ShardedEmbedding.part_of)


def _of_tables(
    tables: list[ShardedEmbedding | None],
    state: dict[int, dict[str, Any]],
    change: Callable[[ShardedEmbedding, Tensor], Tensor],
) -> dict[int, dict[str, Any]]:
    changed = dict(state)
    for number, table in enumerate(tables):
        if table is not None and number in state:
            # Beside what is kept for every row there are counts of steps, without dimension.
            changed[number] = {
                name: change(table, value) if isinstance(value, Tensor) and value.ndim else value
                for name, value in state[number].items()
            }
    return changed


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, received: list[int], sent: list[int]) -> Tensor:
        ctx.received, ctx.sent = received, sent  # type: ignore[attr-defined]
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        received: list[int] = ctx.received  # type: ignore[attr-defined]
        sent: list[int] = ctx.sent  # type: ignore[attr-defined]
        out = grad.new_empty(sum(sent), *grad.shape[1:])
        dist.all_to_all_single(out, grad.contiguous(), sent, received)
        return out / world_size(), None, None
