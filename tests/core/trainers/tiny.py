# ruff: noqa: NPY002 - the global stream of numpy is what a resumed run must restore
"""A small method, its data and its field, to train in milliseconds."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from core.data.resident import ResidentLoader
from core.distributed import global_mean
from core.evaluation.evaluation import Evaluation
from core.trainers import Fit, System, fit

Batch = dict[str, Tensor]


class Tiny(System):
    """A two-layer regression that draws from every random stream there is."""

    def __init__(self, width: int = 3, p: float = 0.5, noise: float = 0.1) -> None:
        super().__init__()
        self.p, self.noise = p, noise
        self.hidden = nn.Linear(width, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 1)
        self.frozen = nn.Dropout(0.5).eval()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.batches: list[list[int]] = []

    def prepare(self, data: Any) -> None:
        self.mean.copy_(data.x.mean(0))

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch["index"].tolist())
        assert not self.frozen.training
        assert self.hidden.training
        shift = self.noise * (random.random() + np.random.rand())
        hidden = self.norm(self.hidden(batch["x"] - self.mean)).tanh()
        hidden = dropout(hidden, self.p, training=self.training)
        error = (self.out(hidden).squeeze(1) - batch["y"] + shift).square()
        return {"loss": global_mean(error), "error": error.detach().mean()}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"series": self.hidden(batch["x"] - self.mean)}


class Line(System):
    """Linear regression: one weight row and a bias."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        error = (self.linear(batch["x"]).squeeze(1) - batch["y"]).square()
        return {"loss": global_mean(error)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {"series": self.linear(batch["x"])}


@dataclass(frozen=True, eq=False)
class TinyData:
    """Training rows, and a test split that must not be looked at while training."""

    x: Tensor
    y: Tensor
    valid: int = 1
    guarded: int | None = 1

    @property
    def test(self) -> int:
        """The test split."""
        assert self.guarded is None, "the test split was looked at"
        return 0

    def to(self, device: torch.device) -> "TinyData":
        return replace(self, x=self.x.to(device), y=self.y.to(device))

    def without_test(self) -> "TinyData":
        return replace(self, guarded=None)

    def digest(self) -> str:
        return "tiny"


def tiny_data(n_rows: int = 22, width: int = 3, valid: int = 1) -> TinyData:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(n_rows, width, generator=generator)
    return TinyData(x, x.sum(1) + 0.1 * torch.randn(n_rows, generator=generator), valid)


class TinyTask:
    """Validation scores by a script, or by the error; it too draws from every random stream."""

    monitor = "score"

    def __init__(self, scores: list[float] | None = None) -> None:
        self.scores = scores
        self.splits: list[str] = []

    def system_arguments(self, data: Any) -> dict[str, Any]:
        return {"width": data.x.shape[1]}

    def train_loader(
        self, system: System, data: Any, batch_size: int, seed: int, rank: int, world_size: int
    ) -> ResidentLoader:
        columns = {"x": data.x, "y": data.y, "index": torch.arange(len(data.x))}
        return ResidentLoader(columns, batch_size, seed, rank, world_size)

    def has_split(self, data: Any, split: str) -> bool:
        return bool(getattr(data, split))

    def evaluate(self, system: System, data: Any, split: str) -> Evaluation:
        assert not any(module.training for module in system.modules())
        assert not torch.is_grad_enabled()
        self.splits.append(split)
        random.random(), np.random.rand(), torch.rand(1)
        if self.scores is not None:
            return Evaluation({"score": self.scores[len(self.splits) - 1], "other": 1.0})
        inputs = {"x": data.x, "y": data.y, "index": torch.arange(len(data.x))}
        prediction = system.embed(inputs)["series"].mean(1)
        return Evaluation({"score": -float((prediction - data.y).square().mean()), "other": 1.0})


def train(
    run_dir: Path,
    *,
    system: Callable[[], System] = Tiny,
    data: TinyData | None = None,
    task: TinyTask | None = None,
    seed: int = 0,
    chance: int | None = None,
    **options: Any,
) -> tuple[Fit, System]:
    """One run of a freshly built system from a fresh random state, as a command would do it.

    `chance` starts the random streams where not the seed of the run does.
    """
    chance = seed if chance is None else chance
    random.seed(chance)
    np.random.seed(chance)
    torch.manual_seed(chance)
    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    trained = system()
    budget = {"max_epochs": 3, "batch_size_global": 8, "accelerator": "cpu", "progress": False}
    result = fit(
        trained,
        data or tiny_data(),
        task or TinyTask(),
        run_dir,
        seed=seed,
        **(budget | options),
    )
    return result, trained
