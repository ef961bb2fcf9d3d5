"""Small data sets that lie on the device as a whole: a batch is an index_select."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from core.augment.draws import Draws
from core.data.order import EpochOrder

Draw = Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]
Prepare = Callable[[dict[str, Tensor], Draws], dict[str, Tensor]]


class ResidentLoader:
    """Batches of columns that lie on the device; no worker, no copy, no wait for the device.

    Args:
        columns: name -> (n, ...) tensor, all on one device.
        batch_size: rows of a batch over all processes.
        seed: of the order and of `draw`.
        rank: number of this process.
        world_size: processes that share a batch.
        draw: (shuffled columns of the epoch, random stream) -> further columns of the same rows,
            drawn anew every epoch, e.g. sampled negatives.
        prepare: (batch, random numbers for its rows) -> batch, e.g. with augmented views.
        drop_last: see `EpochOrder`.
    """

    def __init__(
        self,
        columns: dict[str, Tensor],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        draw: Draw | None = None,
        prepare: Prepare | None = None,
        drop_last: bool = False,
    ) -> None:
        self.columns, self.draw, self.prepare = columns, draw, prepare
        n_rows = len(next(iter(columns.values())))
        self.order = EpochOrder(n_rows, batch_size, seed, rank, world_size, drop_last)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The batches that are left of the current epoch."""
        generator = self.order.generator()
        device = next(iter(self.columns.values())).device
        rows = self.order.permutation(generator).to(device)
        drawn = {}
        if self.draw is not None:
            drawn = self.draw(
                {k: v.index_select(0, rows) for k, v in self.columns.items()}, generator
            )
        for share in self.order.shares():
            batch = {k: v.index_select(0, rows[share]) for k, v in self.columns.items()}
            batch |= {k: v[share] for k, v in drawn.items()}
            yield self.prepare(batch, self.order.draws(share, device)) if self.prepare else batch

    def state_dict(self) -> dict[str, int]:
        """The place in the training."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved place."""
        self.order.load_state_dict(state)
