"""One task after the other: the order of continual training."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.order import EpochOrder


class TaskOrder(EpochOrder):
    """All batches of the first task, then all of the second, and so on, in equal shares.

    An epoch has as many rows as the data set, all of the tasks whose turn it is: a task of a fifth
    of the rows is seen five times in an epoch of its own. Of B batches in the whole training, task
    t of T has those from `t * B // T`, as in `core.trainers.schedules.repeated`.

    Args:
        tasks: (n_rows,) int64 number of the task of each row, on any device.
        batch_size: rows of a batch over all processes.
        seed: of the order.
        epochs: of the whole training; asked for when an epoch begins.
        rank: number of this process.
        world_size: processes that share a batch.

    Raises:
        DataError: a row has no task, or a task no row.
    """

    def __init__(
        self,
        tasks: Int64[Tensor, " n_rows"],
        batch_size: int,
        seed: int,
        epochs: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(tasks), batch_size, seed, rank, world_size)
        tasks = tasks.cpu()
        if bool((tasks < 0).any()):
            n_unknown = int((tasks < 0).sum())
            raise DataError(f"label_task: {n_unknown} training rows have none", expected="from 0")
        self.rows_of = [(tasks == task).nonzero().flatten() for task in range(int(tasks.max()) + 1)]
        empty = [task for task, rows in enumerate(self.rows_of) if not len(rows)]
        if empty:
            raise DataError(f"label_task: no training row of task {empty[0]}")
        self.epochs = epochs

    def permutation(self, generator: torch.Generator) -> Int64[Tensor, " n_rows"]:
        """The rows of the current epoch, batch after batch."""
        total, n_tasks = self.epochs() * len(self), len(self.rows_of)
        starts = torch.tensor([task * total // n_tasks for task in range(1, n_tasks)])
        batch = self.epoch * len(self) + torch.arange(self.n_rows) // self.batch_size
        # After the last epoch that was planned, the last task goes on.
        task = torch.searchsorted(starts, batch, right=True)
        order = torch.empty(self.n_rows, dtype=torch.int64)
        for number in task.unique().tolist():
            places = (task == number).nonzero().flatten()
            rows = self.rows_of[number]
            passes = -(-len(places) // len(rows))
            shuffles = [torch.randperm(len(rows), generator=generator) for _ in range(passes)]
            order[places] = rows[torch.cat(shuffles)[: len(places)]]
        return order
