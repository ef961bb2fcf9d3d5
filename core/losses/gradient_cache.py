"""In-batch losses for batches that do not fit through the encoder at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]


def cached_backward(
    loss: Callable[..., Tensor], passes: Sequence[tuple[nn.Module, Inputs]], chunk: int
) -> Tensor:
    """Computes `loss` of whole batches and adds its gradients, with the graph of a chunk at a time.

    Gao et al. 2021 (GradCache): all chunks are encoded without a graph; the loss gives the gradient
    of every embedding; each chunk is encoded again, with graph and with the random numbers of its
    first time, and takes its share of that gradient. Exact for every encoder whose rows do not see
    each other, dropout included; batch norm sees chunks, and updates its averages twice.

    A DistributedDataParallel encoder averages its gradients once, with its last chunk. Parameters
    that belong to the loss itself get their gradient on this rank only.

    Args:
        loss: takes one embedding tensor for each pass, in their order, and returns a scalar.
        passes: encoders with the batch that each encodes: (B, ...) rows, or a dict of such; an
            encoder is called with a part of it and returns (b, D). One encoder may come twice.
        chunk: rows that are encoded with a graph at a time.

    Returns:
        The value of the loss, detached. The gradients are added to `.grad` as by `backward()`.
    """
    embeddings, runs = [], []
    for encoder, batch in passes:
        pieces = _pieces(batch, chunk)
        states, parts = [], []
        for piece in pieces:
            states.append(_RandomState(piece))
            with torch.no_grad():
                parts.append(encoder(piece))
        embedding = torch.cat(parts).requires_grad_()
        embeddings.append(embedding)
        runs += [(encoder, *run) for run in zip(pieces, states, strict=True)]
    # What autocast has cast without a graph must not be used again with one.
    torch.clear_autocast_cache()

    value = loss(*embeddings)
    value.backward()

    gradients = [part for x in embeddings for part in _gradient(x).split(chunk)]
    last = {encoder: number for number, (encoder, _, _) in enumerate(runs)}
    for number, ((encoder, piece, state), gradient) in enumerate(zip(runs, gradients, strict=True)):
        with _without_sync(encoder, number < last[encoder]):
            with state.replayed():
                again = encoder(piece)
            again.backward(gradient)
    return value.detach()


def _pieces(batch: Inputs, chunk: int) -> list[Inputs]:
    if isinstance(batch, Tensor):
        return list(batch.split(chunk))
    columns = {name: column.split(chunk) for name, column in batch.items()}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _gradient(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.grad is None else x.grad


def _without_sync(encoder: nn.Module, off: bool) -> AbstractContextManager[None]:
    if off and isinstance(encoder, DistributedDataParallel):
        quiet: AbstractContextManager[None] = encoder.no_sync()
        return quiet
    return nullcontext()


class _RandomState:
    """The state of all random number generators that an encoder of these inputs may use."""

    def __init__(self, inputs: Inputs) -> None:
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs.values())
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Sets this state for as long as the context lasts."""
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield
