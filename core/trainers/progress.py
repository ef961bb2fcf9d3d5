"""What a run shows while it trains: a bar where there is a terminal, else a line an epoch."""

import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from core.trainers.callbacks import LogTerms, Validate
from core.trainers.monitors import OnlineMonitors


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
        """Prints the epoch, its mean loss, the validation metrics that matter, and its time."""
        if not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch
        parts = [f"epoch {epoch + 1}/{trainer.max_epochs}"]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LogTerms) and callback.epoch_loss is not None:
                parts.append(f"loss {callback.epoch_loss:.4f}")
            if isinstance(callback, Validate) and callback.latest_epoch == epoch:
                parts.append(f"valid/{callback.task.monitor} {callback.latest_score:.4f}")
            if isinstance(callback, OnlineMonitors) and callback.latest_epoch == epoch:
                parts += [f"{name} {value:.4f}" for name, value in callback.latest.items()]
        parts.append(f"{time.perf_counter() - self.start:.2f} s")
        print("  ".join(parts), flush=True)
