"""Checkpoints written and resumed: `last.ckpt` and `best.ckpt`, atomic and exact.

A checkpoint holds weights, optimizer, schedule, the loops' progress, the random state of every
process and the place of the data order; it is read with `weights_only=True` and runs no code.
"""

import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from core.checkpoints import OURS
from core.trainers.callbacks import StopOnNaN, Validate, took_step
from core.trainers.task import Loader


class Checkpoints(Checkpoint):
    """Writes the checkpoints of a run, remembers the best, and stops a run that stands still.

    Args:
        folder: where `last.ckpt` and `best.ckpt` go.
        loader: the training loader, whose place is kept.
        config: the run's config as plain values.
        guard: looks at the weights before they are written inside an epoch.
        validation: whose metric is to rise; None keeps the last checkpoint as the best.
        patience: stop after so many validations without a rise; None never stops.
        every_n_steps: also write `last.ckpt` inside epochs.

    Values are compared after rounding to 4 decimals, as published recommender results are chosen.
    """

    def __init__(
        self,
        folder: Path,
        loader: Loader,
        config: dict[str, Any],
        guard: StopOnNaN,
        validation: Validate | None,
        patience: int | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.loader, self.config, self.guard = Path(folder), loader, config, guard
        self.validation, self.patience, self.every_n_steps = validation, patience, every_n_steps
        self.best_score: float | None = None
        self.best_epoch = -1
        self.validations_since_best = 0
        self._resumed: dict[str, Any] | None = None

    @property
    def monitor(self) -> str | None:
        """The metric that chooses the best checkpoint, as it is logged."""
        return None if self.validation is None else f"valid/{self.validation.task.monitor}"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continues the random streams and the data order, or gives each process its own stream."""
        random_states = [] if self._resumed is None else self._resumed["random"]
        if len(random_states) == trainer.world_size:
            _set_random_state(random_states[trainer.global_rank])
        elif trainer.world_size > 1:
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if self._resumed is not None:
            self.loader.load_state_dict(self._resumed["loader"])
            trainer.should_stop = self._out_of_patience()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Writes `last.ckpt` inside an epoch; at its end `on_train_epoch_end` does."""
        if (
            self.every_n_steps
            and took_step(trainer, batch_idx)
            and batch_idx + 1 < trainer.num_training_batches
            and trainer.global_step % self.every_n_steps == 0
        ):
            self.guard.refuse_broken_weights(trainer, pl_module)
            self._write(trainer, is_best=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judges the epoch by its validation, when there was one, and writes the checkpoints."""
        is_best = False
        if self.validation is None:
            is_best, self.best_epoch = True, trainer.current_epoch
        elif self.validation.latest_epoch == trainer.current_epoch:
            score = round(self.validation.latest_score, 4)
            is_best = score > (-math.inf if self.best_score is None else self.best_score)
            self.validations_since_best += 1
            if is_best:
                self.best_score, self.best_epoch = score, trainer.current_epoch
                self.validations_since_best = 0
        trainer.should_stop = trainer.should_stop or self._out_of_patience()
        self._write(trainer, is_best)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds to Lightning's checkpoint what it leaves out."""
        states: list[Any] = [_random_state()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, _random_state())
        checkpoint[OURS] = {
            "config": self.config,
            "target": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            "arguments": pl_module._hub_mixin_config or {},
            "loader": self.loader.state_dict(),
            "random": states,
            "monitor": self.monitor,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "validations_since_best": self.validations_since_best,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes over what `on_save_checkpoint` added."""
        self._resumed = checkpoint[OURS]
        self.best_score = self._resumed["best_score"]
        self.best_epoch = self._resumed["best_epoch"]
        self.validations_since_best = self._resumed["validations_since_best"]

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.validations_since_best >= self.patience

    def _write(self, trainer: Trainer, is_best: bool) -> None:
        temporary = self.folder / "last.ckpt.tmp"
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            # The last comes last: a run killed in between finds this best once more.
            if is_best:
                _link(temporary, self.folder / "best.ckpt")
            os.replace(temporary, self.folder / "last.ckpt")
        trainer.strategy.barrier()


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name in one step; copies where the file system cannot."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def _random_state() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - the stream that libraries share
    name, keys, position, has_gauss, cached = legacy
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
