"""Small runs of methods that train in stages or on tasks, whole, broken, resumed or shared."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.augment.draws import Draws
from core.checkpoints import read_checkpoint
from core.data.samples import Samples
from core.systems.infinite_lr import InfiniteLR
from core.systems.multistage_cl import MultistageCL
from core.tasks.continual import Continual
from core.tasks.samples import SampleTask
from core.tasks.stage_probing import StageProbing
from core.trainers import System, fit
from core.trainers.schedules import infinite

ADAM = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)


class Noise:
    """A view: the sample with noise."""

    def __call__(self, samples: Tensor, draws: Draws) -> Tensor:
        return samples + 0.3 * draws.normal(*samples.shape[1:])


class Broken(Exception):
    """What a broken run ends with."""


def factors() -> Samples:
    """120 vectors of two binary factors, the first of them the stronger."""
    generator = torch.Generator().manual_seed(2)
    bits = torch.arange(120) % 4
    first, second = bits % 2, bits // 2
    x = 0.4 * torch.randn(120, 6, generator=generator)
    x[:, :3] += 6.0 * first[:, None] - 3
    x[:, 3:] += 2.0 * second[:, None] - 1
    return _samples({"x": x}, {"label": second, "first": first})


def tasks() -> Samples:
    """120 images of 4 x 4 pixels in three tasks of two classes."""
    generator = torch.Generator().manual_seed(3)
    label = torch.arange(120) % 6
    kinds = torch.rand(6, 1, 4, 4, generator=generator)
    image = kinds[label] + 0.1 * torch.randn(120, 1, 4, 4, generator=generator)
    return _samples({"image": image}, {"label": label, "task": label // 2})


def _samples(inputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Samples:
    splits = {"train": range(72), "valid": range(72, 96), "test": range(96, 120)}
    rows = {name: torch.tensor(list(of)) for name, of in splits.items()}
    return Samples(inputs, labels, rows, [str(row) for row in range(120)])


def staged(**arguments: Any) -> tuple[MultistageCL, StageProbing]:
    data = factors()
    small: dict[str, Any] = {
        "encoder": {"_target_": "core.encoders.mlp.MLP", "hidden": [8], "dim": 4},
        "hidden_dim": 8,
        "dim": 4,
        "n_clusters": 2,
    }
    task = StageProbing(Noise(), "knn_accuracy", 3)
    torch.manual_seed(0)
    return MultistageCL.of(task.system_arguments(data), **small | arguments), task


def continual(
    system: type[InfiniteLR] = InfiniteLR, **arguments: Any
) -> tuple[InfiniteLR, Continual]:
    data = tasks()
    small: dict[str, Any] = {"hidden": [8], "dim": 4}
    task = Continual(monitor="knn_accuracy", k=3)
    torch.manual_seed(0)
    return system.of(task.system_arguments(data), **small | arguments), task


def train(
    run_dir: Path, system: System, task: SampleTask, break_at: int | None = None, **options: Any
) -> dict[str, Any]:
    """Six epochs of nine steps; returns what `last.ckpt` holds.

    `break_at` ends the run inside that step; another call with `resume` goes on.
    """
    data = tasks() if isinstance(task, Continual) else factors()
    if break_at is not None:
        objective, taken = system.objective, []

        def breaking(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            taken.append(1)
            if len(taken) > break_at:
                raise Broken
            return objective(batch)

        system.objective = breaking  # type: ignore[method-assign]
    budget: dict[str, Any] = {"max_epochs": 6, "batch_size_global": 8, "validate_every": 6}
    schedule = infinite if isinstance(system, InfiniteLR) else None
    shared: dict[str, Any] = {"accelerator": "cpu", "progress": False, "schedule": schedule}
    torch.manual_seed(1)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    fit(system, data, task, run_dir, optimizer=ADAM, seed=4, **budget | shared | options)
    return read_checkpoint(last(run_dir))


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


def train_together(folder: Path) -> None:
    """The same runs by all processes of a group, for two systems."""
    rank, world = dist.get_rank(), dist.get_world_size()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "test"}
    for name, (system, task) in {"staged": staged(), "continual": continual()}.items():
        train(folder / name, system, task, strategy="ddp", devices=world)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Bit for bit, all the way down."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{place}]")
    else:
        assert one == other, where
