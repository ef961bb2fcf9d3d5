"""Large files: workers decode, a side stream copies, the device prepares the whole batch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.order import EpochOrder
from core.data.resident import Prepare

Batch = dict[str, Tensor]


class DeviceLoader:
    """Decoded samples in the file's own dtype in, prepared batches on the device out.

    Workers only decode. Their batches are pinned and copied on a side CUDA stream one batch ahead
    of the training; `prepare` casts, normalises and augments whole batches on the device. Without
    CUDA the same code runs on the CPU. Where the last batch has fewer rows than there are processes
    some of them get a batch of 0 rows.

    Args:
        dataset: map-style; a sample is a dict of tensors in the file's dtype.
        batch_size: rows of a batch over all processes.
        device: where the batches go.
        seed: of the order.
        prepare: (batch, random numbers for its rows) -> batch: batched operations on the device.
        workers: decoding processes; 0 decodes in this one.
        rank: number of this process.
        world_size: processes that share a batch.
        drop_last: see `EpochOrder`.
        draw: gives the random numbers, (rows, ...), that decoding needs, e.g. where to crop. The
            data set is then asked for `(row, numbers of the row)`. `prepare` goes on drawing where
            this ended.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        batch_size: int,
        device: torch.device,
        seed: int,
        prepare: Prepare | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        draw: Callable[[Draws], Tensor] | None = None,
    ) -> None:
        self.dataset, self.device, self.prepare, self.workers = dataset, device, prepare, workers
        self.draw = draw
        n_rows = len(dataset)  # type: ignore[arg-type]
        self.order = EpochOrder(n_rows, batch_size, seed, rank, world_size, drop_last)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left of the current epoch.

        Raises:
            DataError: the data set could not decode a sample.
        """
        generator = self.order.generator()
        rows = self.order.permutation(generator).tolist()
        # Workers run ahead: the place is counted when a batch is given, not when it is asked for.
        start = self.order.batches_given
        shares = list(self.order.shares())
        self.order.batches_given = start
        loader: DataLoader[Any] = DataLoader(
            _Decoded(self.dataset),
            batch_sampler=self._asked(rows, shares, self.order.epoch),
            collate_fn=_collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # Its own: the workers' seed must not be drawn from the stream that trains.
            generator=generator,
        )
        for share, batch in zip(shares, self._copied_ahead(loader), strict=True):
            self.order.batches_given += 1
            n_rows = share.stop - share.start
            given = {name: tensor[:n_rows] for name, tensor in batch.items()}
            draws = self.order.draws(share, self.device)
            if self.draw is not None:
                self.draw(draws)
            yield self.prepare(given, draws) if self.prepare else given

    def _asked(self, rows: list[int], shares: list[slice], epoch: int) -> Iterator[list[Any]]:
        """What the data set is asked for, batch by batch."""
        for share in shares:
            # A share without rows decodes one all the same, for the names and shapes of its batch.
            asked = rows[share] or rows[:1]
            if self.draw is None:
                yield asked
                continue
            draws = self.order.draws(share, torch.device("cpu"), epoch)
            numbers = self.draw(draws)
            if not len(numbers):
                numbers = numbers.new_zeros(1, *numbers.shape[1:])
            yield list(zip(asked, numbers, strict=True))

    def _copied_ahead(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        if self.device.type != "cuda":
            for batch in _unbroken(loader):
                yield {name: tensor.to(self.device) for name, tensor in batch.items()}
            return
        side = torch.cuda.Stream(self.device)
        ahead: tuple[Batch, torch.cuda.Event] | None = None
        for host in _unbroken(loader):
            with torch.cuda.stream(side):
                copied = {k: v.to(self.device, non_blocking=True) for k, v in host.items()}
                event = torch.cuda.Event()
                event.record(side)
            if ahead is not None:
                yield self._arrived(*ahead)
            ahead = copied, event
        if ahead is not None:
            yield self._arrived(*ahead)

    def _arrived(self, batch: Batch, event: torch.cuda.Event) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(event)
        for tensor in batch.values():
            tensor.record_stream(stream)
        return batch

    def state_dict(self) -> dict[str, int]:
        """The place in the training."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved place."""
        self.order.load_state_dict(state)


class _Decoded(Dataset[Any]):
    """Samples of a data set, or the DataError that came instead of one.

    Raised in a worker, an error would arrive with the worker's traceback for a message.
    """

    def __init__(self, dataset: Dataset[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, row: int | tuple[int, Tensor]) -> Batch | DataError:
        try:
            return self.dataset[row]
        except DataError as error:
            return error


def _collate(samples: list[Batch | DataError]) -> Batch | DataError:
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    batch: Batch = default_collate(samples)
    return batch


def _unbroken(loader: DataLoader[Any]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
