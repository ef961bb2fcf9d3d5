"""Rows of files that do not fit into memory, in an order that goes on from a saved place."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.order import EpochOrder
from core.data.resident import Draw

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of a data set, read when they are needed.

    Attributes:
        rows: how many.
        read: gives the columns, name -> (rows, ...) tensor, on any device.
    """

    rows: int
    read: Callable[[], Batch]


@dataclass(frozen=True)
class _Window:
    start: int
    rows: int
    blocks: list[Block]
    seed: int


class StreamLoader:
    """Batches from blocks of files, shuffled within windows of blocks that are drawn anew.

    An epoch goes through the blocks in random order, some at a time: a window, whose rows are
    shuffled on the device. One thread reads the next window meanwhile. What is in a batch follows
    from seed, epoch and number of the batch alone, so a run goes on exactly inside an epoch, and
    the processes of a group, each with its share of every batch, see what one process would. Each
    of them reads all blocks: of rows that are a few numbers, reading is not what takes time.

    Args:
        blocks: all rows. A single block lies in one window, shuffled as a whole.
        batch_size: rows of a batch over all processes; the last of an epoch may be shorter.
        device: where the batches are.
        seed: of the order and of `draw`.
        window: rows of a window, about; up to three windows are in memory at a time.
        draw: (shuffled columns of a window, random stream on the CPU) -> further columns.
        prepare: batched operations on the device, e.g. features looked up by id.
        rank: number of this process.
        world_size: processes that share a batch.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        batch_size: int,
        device: torch.device,
        seed: int,
        window: int = 2**20,
        draw: Draw | None = None,
        prepare: Callable[[Batch], Batch] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.blocks = [block for block in blocks if block.rows]
        self.device, self.window, self.draw, self.prepare = device, window, draw, prepare
        n_rows = sum(block.rows for block in self.blocks)
        self.order = EpochOrder(n_rows, batch_size, seed, rank, world_size)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch."""
        first_row = self.order.batches_given % len(self) * self.order.batch_size
        windows = [w for w in self._windows() if w.start + w.rows > first_row]
        upcoming = self._shuffled(windows)
        start, held = windows[0].start, next(upcoming)
        for share in self.order.shares():
            while share.stop > start + _rows(held):
                # What is left of a window begins the batch that the next one completes.
                done = min(share.start - start, _rows(held))
                more = next(upcoming)
                held = {name: torch.cat([held[name][done:], more[name]]) for name in held}
                start += done
            batch = {k: v[share.start - start : share.stop - start] for k, v in held.items()}
            yield self.prepare(batch) if self.prepare else batch

    def _windows(self) -> list[_Window]:
        generator = self.order.generator()
        windows: list[_Window] = []
        gathered: list[Block] = []
        start, n_blocks = 0, len(self.blocks)
        for place, number in enumerate(torch.randperm(n_blocks, generator=generator).tolist()):
            gathered.append(self.blocks[number])
            rows = sum(block.rows for block in gathered)
            if rows >= self.window or place + 1 == n_blocks:
                seed = int(torch.randint(2**62, (), generator=generator))
                windows.append(_Window(start, rows, gathered, seed))
                gathered, start = [], start + rows
        return windows

    def _shuffled(self, windows: list[_Window]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(_read, windows[0], self.device)
            for number, window in enumerate(windows):
                columns = ahead.result()
                if number + 1 < len(windows):
                    ahead = reader.submit(_read, windows[number + 1], self.device)
                generator = torch.Generator().manual_seed(window.seed)
                order = torch.randperm(window.rows, generator=generator).to(self.device)
                on_device = {
                    name: column.to(self.device, non_blocking=True).index_select(0, order)
                    for name, column in columns.items()
                }
                drawn = self.draw(on_device, generator) if self.draw else {}
                yield on_device | drawn

    def state_dict(self) -> dict[str, int]:
        """The place in the training."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved place."""
        self.order.load_state_dict(state)


def _rows(columns: Batch) -> int:
    return len(next(iter(columns.values())))


def _read(window: _Window, device: torch.device) -> Batch:
    parts = [block.read() for block in window.blocks]
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if device.type != "cuda":
        return columns
    return {k: v if v.is_cuda else v.pin_memory() for k, v in columns.items()}
