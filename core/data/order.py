"""The order in which a training sees its rows: the same on one process and on many, resumable."""

from collections.abc import Iterator

import torch
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError


class EpochOrder:
    """Shuffled batches of row numbers, epoch after epoch, that go on from a saved place.

    The order follows from the seed and the epoch alone. Every process draws the same order and
    takes its own share of each batch, so the rows of a step do not depend on how many there are.

    Args:
        n_rows: rows of the data set.
        batch_size: rows of a batch over all processes; the last batch of an epoch may be shorter.
        seed: of the order.
        rank: number of this process.
        world_size: processes that share a batch.
        drop_last: leave out a shorter last batch, unless it is the only one. Batch norm over a few
            rows is noise, and over one row impossible.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        if n_rows == 0:
            raise DataError("there is nothing to train on: the training split is empty")
        if batch_size < world_size:
            raise DataError(
                f"a batch of {batch_size} rows cannot be shared by {world_size} processes",
                fix="raise trainer.batch_size_global",
            )
        self.n_rows, self.batch_size, self.seed = n_rows, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last = drop_last
        self.batches_given = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole = self.n_rows // self.batch_size
        return whole if whole and self.drop_last else -(-self.n_rows // self.batch_size)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self.batches_given // len(self)

    def generator(self) -> torch.Generator:
        """The random stream of the current epoch, on the CPU so that every device agrees."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    def shares(self) -> Iterator[slice]:
        """This process's part of each batch that is left of the current epoch, in shuffled rows."""
        for batch in range(self.batches_given % len(self), len(self)):
            start = batch * self.batch_size
            rows = min(self.batch_size, self.n_rows - start)
            self.batches_given += 1
            yield slice(
                start + rows * self.rank // self.world_size,
                start + rows * (self.rank + 1) // self.world_size,
            )

    def draws(self, share: slice, device: torch.device, epoch: int | None = None) -> Draws:
        """Random numbers for the rows of one of the `shares`, however many processes there are.

        `epoch` is that of the batch that was given last, unless it is said.
        """
        batch = share.start // self.batch_size
        start = batch * self.batch_size
        n_rows = min(self.batch_size, self.n_rows - start)
        # Another stream than the order's, and than that of the next epochs.
        epoch = (self.batches_given - 1) // len(self) if epoch is None else epoch
        seed = (self.seed * 1_000_003 + epoch) * 1_000_033 + batch + 1
        return Draws(seed % 2**63, n_rows, slice(share.start - start, share.stop - start), device)

    def permutation(self, generator: torch.Generator) -> Tensor:
        """(n_rows,) int64: the shuffled rows of the current epoch."""
        return torch.randperm(self.n_rows, generator=generator)

    def state_dict(self) -> dict[str, int]:
        """The place in the training, and what the order follows from."""
        return {"batches_given": self.batches_given, "n_rows": self.n_rows, "seed": self.seed} | {
            "batch_size": self.batch_size
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from a saved place.

        Raises:
            DataError: the place was saved in another order.
        """
        own = self.state_dict()
        changed = [k for k in ("n_rows", "batch_size", "seed") if state[k] != own[k]]
        if changed:
            found = ", ".join(f"{k} was {state[k]} and is now {own[k]}" for k in changed)
            raise DataError(
                f"the run cannot go on exactly: {found}",
                fix="resume with the run's own data, seed and batch size",
            )
        self.batches_given = state["batches_given"]
