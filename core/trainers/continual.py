"""Continual training: a schedule for every task, and where the next task goes on from."""

from bisect import bisect_right
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from core.data.checks import DataError
from core.data.order import EpochOrder
from core.data.task_order import TaskOrder
from core.trainers.schedules import repeated
from core.trainers.system import Batch, System


class ContinualSystem(System):
    """A model that is trained on one task after the other.

    The config's schedule is repeated for every task; one with the keyword `first_task`, such as
    `infinite`, is told when it is a later one.

    With `pre_anneal`, the model at that fraction of a task, where a constant rate ends, is kept,
    and the next task goes on from there: what is annealed at the end of a task is evaluated and
    then left behind (Singh et al. 2025, arXiv 2503.02844). The authors' code restores the weights
    alone, under Adam's moments of the annealed branch; here the moments are restored too.

    How a task was solved when it was learned is kept as a copy of the model at its end, one for
    each task but the last.

    Args:
        model: what is trained; every weight of the system is in it.
        n_tasks: tasks of the sequence.
        pre_anneal: fraction of a task's steps, counted from 0, after which the model is kept; None
            goes on from the end of each task.
        restore_moments: with the optimizer's state of then.

    Raises:
        DataError: the fraction is not in [0, 1).
    """

    n_learned: Tensor

    def __init__(
        self,
        model: nn.Module,
        n_tasks: int,
        pre_anneal: float | None = 0.8,
        restore_moments: bool = True,
    ) -> None:
        super().__init__()
        if pre_anneal is not None and not 0 <= pre_anneal < 1:
            raise DataError(f"system.pre_anneal={pre_anneal}", expected="a fraction in [0, 1)")
        self.model, self.n_tasks = model, n_tasks
        self.pre_anneal, self.restore_moments = pre_anneal, restore_moments
        self.pre_annealed = deepcopy(model).requires_grad_(False)
        self.moments: dict[int, dict[str, Any]] = {}
        copies = [deepcopy(model).requires_grad_(False) for _ in range(n_tasks - 1)]
        self.as_learned = nn.ModuleList(copies)
        self.register_buffer("n_learned", torch.zeros((), dtype=torch.int64))

    def batch_order(
        self, columns: Batch, batch_size: int, seed: int, rank: int, world_size: int
    ) -> EpochOrder:
        """One task after the other by the label `task`; all rows where there is none."""
        if "task" not in columns:
            n_rows = len(next(iter(columns.values())))
            return EpochOrder(n_rows, batch_size, seed, rank, world_size)

        def epochs() -> int:
            return int(self.trainer.max_epochs or 1)

        return TaskOrder(columns["task"], batch_size, seed, epochs, rank, world_size)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | None:
        """The config's optimizer, its schedule once for every task."""
        of_a_task = self.make_schedule
        later = {"first_task": False} if "first_task" in signature(of_a_task).parameters else {}

        def of_all_tasks(optimizer: Optimizer, total_steps: int) -> LRScheduler:
            n_tasks = min(self.n_tasks, total_steps)
            return repeated(
                optimizer,
                total_steps,
                schedule=of_a_task,  # type: ignore[arg-type]
                n_tasks=n_tasks,
                later=later,
            )

        self.make_schedule = of_all_tasks
        try:
            return super().configure_optimizers()
        finally:
            self.make_schedule = of_a_task

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Goes back to the model before the annealing where a later task begins."""
        step = self.trainer.global_step
        if self.pre_anneal is None or step == 0 or step not in self._starts():
            return
        self.model.load_state_dict(self.pre_annealed.state_dict())
        if self.restore_moments:
            (optimizer,) = self.trainer.optimizers
            groups = optimizer.state_dict()["param_groups"]
            # Copies, for an optimizer takes over the tensors and then writes into them.
            optimizer.load_state_dict({"state": deepcopy(self.moments), "param_groups": groups})

    def update_teachers(self, step: int, total_steps: int) -> None:
        """Keeps the model before the annealing of a task, and as it was when the task ended."""
        starts = self._starts()
        task = bisect_right(starts, step) - 1
        if task >= self.n_tasks:
            return
        steps = starts[task + 1] - starts[task]
        if self.pre_anneal is not None and step - starts[task] == int(self.pre_anneal * steps):
            self.pre_annealed.load_state_dict(self.model.state_dict())
            if self.restore_moments:
                self.moments = deepcopy(self.trainer.optimizers[0].state_dict()["state"])
        if step + 1 == starts[task + 1]:
            if task < len(self.as_learned):
                self.as_learned[task].load_state_dict(self.model.state_dict())
            self.n_learned.fill_(task + 1)

    def _starts(self) -> list[int]:
        """The first step of every task, and the number of all steps."""
        total = int(self.trainer.estimated_stepping_batches)
        return [task * total // self.n_tasks for task in range(self.n_tasks + 1)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the moments that the next task goes on with."""
        checkpoint["pre_anneal_moments"] = self.moments

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them over."""
        self.moments = checkpoint["pre_anneal_moments"]
