"""What happens between the steps: validation, a guard against NaN, a line an epoch."""

import math
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from core.data.checks import DataError
from core.distributed import broadcast_object
from core.trainers.task import Data, Task

_FIX = (
    "check the input with `data check`, lower optimizer.lr, or set trainer.gradient_clip=1; "
    "the last checkpoint is from before"
)


class Validate(Callback):
    """Runs the field's protocol on the validation split and logs it as `valid/<metric>`.

    It leaves the random streams and the modes of the modules as they were, so how often one
    validates changes no training.
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
        # One by one: a frozen part may stay in evaluation mode while the rest trains.
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        with (
            isolate_rng(include_cuda=False),
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
        ):
            evaluation = self.task.evaluate(pl_module, self.data, "valid")  # type: ignore[arg-type]
        for module, mode in modes.items():
            module.training = mode
        metrics = {f"valid/{name}": value for name, value in evaluation.metrics.items()}
        pl_module.log_dict(metrics, logger=False)
        monitor = self.task.monitor
        pl_module.log(monitor, evaluation.metrics[monitor], prog_bar=True, logger=False)
        write_to_logs(trainer, metrics)
        self.latest_epoch = trainer.current_epoch
        # All processes must agree on whether to go on, to the last bit.
        self.latest_score = broadcast_object(evaluation.metrics[self.task.monitor])


class LogTerms(Callback):
    """Writes the terms of the objective to the logs, every `log_every_n_steps` steps."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Writes the step that was just taken."""
        if took_logged_step(trainer, batch_idx):
            write_to_logs(trainer, train_terms(trainer))


class StopOnNaN(Callback):
    """Ends the run when a term or a weight is no longer finite, before that is saved.

    Looks at the terms of the steps that are logged, and at the weights when an epoch ends.
    """

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
            DataError: a term is NaN or infinite.
        """
        if not took_logged_step(trainer, batch_idx):
            return
        terms = train_terms(trainer)
        broken = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        if broken:
            at = f"training stopped at step {trainer.global_step}"
            raise DataError(f"{at}: {', '.join(broken)}", fix=_FIX)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the weights, before they are validated.

        Raises:
            DataError: a weight is NaN or infinite.
        """
        refuse_broken_weights(trainer, pl_module)


def took_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer took a step with this batch, rather than wait for the next one's."""
    is_last = batch_idx + 1 == trainer.num_training_batches
    return is_last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def took_logged_step(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the optimizer took a step with this batch whose terms are to be written."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return trainer.global_step % every == 0 and took_step(trainer, batch_idx)


def train_terms(trainer: Trainer) -> dict[str, float]:
    """The terms of the latest logged step; waits for the device."""
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name.startswith("train/")}


def write_to_logs(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Writes the metrics of the step that was just taken, before a checkpoint can be written.

    Lightning's own logging comes after its callbacks; a run killed in between would lose the row.
    """
    step = max(trainer.global_step - 1, 0)
    for logger in trainer.loggers:
        logger.log_metrics({"epoch": trainer.current_epoch, **metrics}, step)
        logger.save()


def refuse_broken_weights(trainer: Trainer, pl_module: LightningModule) -> None:
    """Ends a run whose weights are broken.

    Raises:
        DataError: a weight is NaN or infinite.
    """
    for name, weight in pl_module.named_parameters():
        if not bool(weight.isfinite().all()):
            at = f"training stopped at step {trainer.global_step}"
            raise DataError(f"{at}: {name} is no longer finite", fix=_FIX)


class StepsBar(RichProgressBar):
    """The progress inside the epoch, with the loss and the metric that chooses the best."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar: without Lightning's number of the log's version."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class EpochLines(Callback):
    """One line an epoch, for log files and terminals that cannot draw a progress bar."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock: a run that goes on inside an epoch does not start that epoch."""
        self.start = time.perf_counter()

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
