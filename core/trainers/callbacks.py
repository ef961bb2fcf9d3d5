"""What happens between the steps: validation, a guard against NaN, a line an epoch."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from core.data.checks import DataError
from core.trainers.task import Data, Task


class Validate(Callback):
    """Runs the field's protocol on the validation split and logs it as `valid/<metric>`.

    It draws from a random stream of its own, so how often one validates changes no training.
    """

    def __init__(self, task: Task, data: Data, every: int = 1) -> None:
        self.task, self.data, self.every = task, data, every
        self.latest_epoch = -1
        self.latest_score = math.nan

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates after every `every`-th epoch and after the last."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        was_training = pl_module.training
        pl_module.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            evaluation = self.task.evaluate(pl_module, self.data, "valid")  # type: ignore[arg-type]
        pl_module.train(was_training)
        pl_module.log_dict({f"valid/{name}": v for name, v in evaluation.metrics.items()})
        self.latest_epoch = trainer.current_epoch
        self.latest_score = evaluation.metrics[self.task.monitor]


class StopOnNaN(Callback):
    """Ends the run when the loss is no longer finite; looks only at steps that are logged."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Looks at the loss of every logged step.

        Raises:
            DataError: the loss is NaN or infinite; the last checkpoint is from before.
        """
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        terms = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        broken = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            raise DataError(
                f"training stopped at step {trainer.global_step}: {', '.join(broken)}",
                fix="check the input with `data check`, lower optimizer.lr, or set "
                "trainer.gradient_clip=1",
            )


class EpochLines(Callback):
    """One line an epoch, for log files and terminals that cannot draw a progress bar."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the epoch's clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the epoch, its loss, the validation metrics that matter, and its time."""
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        parts += [f"loss {float(metrics['train/loss']):.4f}"] if "train/loss" in metrics else []
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Validate) and callback.latest_epoch == trainer.current_epoch:
                parts.append(f"valid/{callback.task.monitor} {callback.latest_score:.4f}")
        parts.append(f"{time.perf_counter() - self.start:.2f} s")
        print("  ".join(parts), flush=True)
