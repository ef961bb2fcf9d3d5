"""Collectives that carry gradients, so that a loss is the same on one process and on many.

The rule behind all of them: the gradient that reaches a rank is the gradient of the sum of the
losses of all ranks, and DistributedDataParallel then averages the parameter gradients. Training is
therefore exact whenever the mean over ranks of the losses is the loss of the whole batch. That
holds for `global_mean` of a rank's own rows, and for a loss that every rank computes from an
`all_reduce_sum` of batch statistics. Without an initialised process group every function is the
identity of one process.
"""

import functools
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

T = TypeVar("T")


def is_distributed() -> bool:
    """True when a process group of more than one process is initialised."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Index of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def row_counts(rows: int) -> list[int]:
    """Rows that each rank holds, in the order of the ranks.

    The numbers travel between the hosts, so that the device does not have to wait for them.
    """
    if not is_distributed():
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([rows]), group=_host_group(dist.group.WORLD))
    return [int(count) for count in counts]


def all_gather(x: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows of all ranks, rank 0 first; the gradient of a row is summed over the ranks that used it.

    Args:
        x: (n, ...) rows of this rank; n may differ between ranks and may be 0.
        counts: what `row_counts(n)` says, where the caller knows it already.

    Returns:
        (N, ...) with N the sum of the counts.
    """
    if not is_distributed():
        return x
    counts = row_counts(len(x)) if counts is None else counts
    largest = max(counts)
    gathered: Tensor = _AllGather.apply(_pad_rows(x, largest))
    if min(counts) == largest:
        return gathered.flatten(0, 1)
    return torch.cat([block[:count] for block, count in zip(gathered, counts, strict=True)])


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of x over all ranks; the backward sums the gradients of all ranks likewise."""
    return _AllReduceSum.apply(x) if is_distributed() else x


def all_reduce_max(x: Tensor) -> Tensor:
    """Elementwise maximum of x over all ranks, without gradient."""
    x = x.detach().clone()
    if is_distributed():
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def logsumexp_over_ranks(x: Tensor) -> Tensor:
    """Elementwise log Σ exp(x) over all ranks, with gradient.

    An element may be -inf on some ranks (nothing to sum there), not on all.
    """
    if not is_distributed():
        return x
    largest = all_reduce_max(x)
    return largest + all_reduce_sum((x - largest).exp()).log()


def ring_shift(x: Tensor) -> Tensor:
    """The x of the next rank, of the same shape; its gradient travels back to that rank."""
    return _RingShift.apply(x) if is_distributed() else x


def global_sum(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Sum over the values of all ranks, as a term whose mean over the ranks is that sum.

    Args:
        values: values of this rank, any shape, 0 elements allowed.
        valid: bool of the same shape; the values where it is False are left out.

    Returns:
        Scalar: the sum of this rank's values times the number of ranks.
    """
    return _sum(values, valid) * world_size()


def global_mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the values of all ranks, as a term whose mean over the ranks is that mean.

    A rank's term is the sum of its own values times the number of ranks over the number of values
    on all ranks. DistributedDataParallel averages the gradients of these terms to the gradient of
    the mean over the whole batch, also when the ranks hold different numbers of values.

    Args:
        values: values of this rank, any shape, 0 elements allowed.
        valid: bool of the same shape; the values where it is False are neither summed nor counted.

    Returns:
        Scalar; 0 when no rank has a value.
    """
    if valid is None:
        count = values.new_full((), values.numel(), dtype=torch.int64)
    else:
        count = valid.expand_as(values).sum()
    if is_distributed():
        dist.all_reduce(count)
    return _sum(values, valid) * (world_size() / count.clamp(min=1).to(_at_least_float32(values)))


def broadcast_object(value: T, source: int = 0) -> T:
    """The picklable value of rank `source`, on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _sum(values: Tensor, valid: Tensor | None) -> Tensor:
    # A masked value may be inf or NaN, so it is replaced rather than multiplied by 0.
    kept = values if valid is None else values.masked_fill(~valid, 0)
    return kept.sum(dtype=_at_least_float32(values))


def _pad_rows(x: Tensor, rows: int) -> Tensor:
    if len(x) == rows:
        return x
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


@functools.lru_cache(maxsize=1)
def _host_group(world: dist.ProcessGroup) -> dist.ProcessGroup | None:
    """A group for tensors in host memory: the world itself (None), or gloo beside it."""
    return None if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        gathered = x.new_empty(world_size(), *x.shape)
        dist.all_gather_into_tensor(gathered.view(-1), x.contiguous().view(-1))
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        own = torch.empty_like(grad[0])
        dist.reduce_scatter_tensor(own.view(-1), grad.view(-1))
        return own


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _RingShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return _pass_on(x, step=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return _pass_on(grad, step=1)


def _pass_on(x: Tensor, step: int) -> Tensor:
    """Sends x to the rank `step` further on the ring and returns what comes from the other side."""
    world, here = world_size(), rank()
    x, received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    exchange = [
        dist.P2POp(dist.isend, x, (here + step) % world),
        dist.P2POp(dist.irecv, received, (here - step) % world),
    ]
    for request in dist.batch_isend_irecv(exchange):
        request.wait()
    return received
