"""Training steps on the loader of a task, alone or as one of several processes."""

from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.data.samples import Samples
from core.distributed import is_distributed, rank, world_size
from core.tasks.samples import SampleTask
from core.trainers.system import System

Case = tuple[type[System], dict[str, Any], SampleTask, Samples, int, int]


def gradients(cases: list[Case]) -> list[dict[str, Tensor]]:
    """Sum of the gradients of some steps, averaged over the processes as DDP does.

    Args:
        cases: system, its arguments, task, data, rows of a step over all processes, steps.
    """
    return [_gradients(*case) for case in cases]


def _gradients(
    system: type[System],
    arguments: dict[str, Any],
    task: SampleTask,
    data: Samples,
    batch_size: int,
    steps: int,
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    built = system.of(task.system_arguments(data), **arguments)
    loader = task.train_loader(built, data, batch_size, 3, rank(), world_size())
    for batch in islice(loader, steps):
        built.objective(batch)["loss"].backward()
    found = {}
    for name, weight in built.named_parameters():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        if is_distributed():
            dist.all_reduce(gradient)
        found[name] = gradient / world_size()
    return found
