"""What happens between the steps: validation, the log, a guard against NaN."""

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from core.data.checks import DataError
from core.distributed import broadcast_object
from core.trainers.log import log_picture
from core.trainers.task import Data, Task

_LAST = "the last checkpoint is from before"


class Validate(Callback):
    """Runs the field's protocol on the validation split and logs it as `valid/<metric>`.

    It leaves the random streams and the modes of the modules as they were, so how often one
    validates changes no training. What the task has to show of the split (`task.draw`) goes into
    `pictures/epoch_NNNN` of the run's folder and to TensorBoard, after validations 1, 2, 4, 8, ...
    and the last.
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
            if trainer.is_global_zero and self._is_drawn(epoch, trainer.max_epochs):
                self._draw(trainer, pl_module, epoch)
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

    def _is_drawn(self, epoch: int, max_epochs: int | None) -> bool:
        times, rest = divmod(epoch, self.every)
        return epoch == max_epochs or (rest == 0 and times & (times - 1) == 0)

    def _draw(self, trainer: Trainer, system: LightningModule, epoch: int) -> None:
        if not hasattr(self.task, "draw"):
            return
        folder = Path(trainer.default_root_dir) / "pictures" / f"epoch_{epoch:04d}"
        for file in self.task.draw(system, self.data, "valid", folder):
            log_picture(trainer, file.stem, file)


class LogTerms(Callback):
    """Writes the terms of the objective to the logs, every `log_every_n_steps` steps.

    Attributes:
        epoch_loss: mean loss of the epoch that ended last; None where nothing is learned.
    """

    epoch_loss: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the sum: a run that goes on inside an epoch does not start that epoch."""
        self.total, self.batches = torch.zeros((), device=pl_module.device), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the sum."""
        self.total, self.batches = torch.zeros((), device=pl_module.device), 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Adds the loss up, without waiting for the device; writes the step just taken."""
        if outputs:
            self.total += outputs["loss"].detach()
            self.batches += 1
        if took_logged_step(trainer, batch_idx):
            write_to_logs(trainer, train_terms(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the mean over the processes, each of which has only its share of the loss."""
        mean = trainer.strategy.reduce(self.total / max(self.batches, 1), reduce_op="mean")
        self.epoch_loss = float(mean) if self.batches else None


class StopOnNaN(Callback):
    """Ends the run when a term or a weight is no longer finite, before that is saved.

    Looks at the terms of the steps that are logged, and at the weights when an epoch ends. Of the
    batches since the last look, 100 at most, it keeps one sum a row, on the device, to say which
    rows of which modality brought the NaN; nothing waits for the device until a look.
    """

    def __init__(self) -> None:
        self.rows: deque[_Rows] = deque(maxlen=100)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Looks at the terms of every logged step.

        Raises:
            DataError: a term is NaN or infinite.
        """
        step = trainer.global_step + (not took_step(trainer, batch_idx))
        self.rows.append(_Rows.of(step, batch))
        if not took_logged_step(trainer, batch_idx):
            return
        terms = train_terms(trainer)
        broken = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
        if broken:  # on all processes, as the terms are means over them
            raise self._stopped(trainer, ", ".join(broken))
        # The terms are from before this step's update, which its own rows may still have broken.
        while self.rows[0].step < step:
            self.rows.popleft()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the weights, before they are validated.

        Raises:
            DataError: a weight is NaN or infinite.
        """
        self.refuse_broken_weights(trainer, pl_module)

    def refuse_broken_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run whose weights are broken.

        Raises:
            DataError: a weight is NaN or infinite.
        """
        broken = (
            f"{name} is no longer finite"
            for name, weight in pl_module.named_parameters()
            if not bool(weight.isfinite().all())
        )
        found = _first_of_all(trainer, next(broken, None))
        if found is not None:
            raise self._stopped(trainer, found)
        self.rows.clear()

    def _stopped(self, trainer: Trainer, found: str) -> DataError:
        """The error, with where the batches of any process first held NaN or infinity."""
        here = next((entry for rows in self.rows if (entry := rows.describe())), None)
        entry = _first_of_all(trainer, here)
        at = f"training stopped at step {trainer.global_step}: {found}"
        if entry is not None:
            fix = f"repair or remove them, see `data check`; {_LAST}"
            return DataError(f"{at}; {entry}", fix=fix)
        return DataError(
            f"{at}; the inputs of the last {len(self.rows)} batches were finite",
            fix=f"lower optimizer.lr, or set trainer.gradient_clip=1; {_LAST}",
        )


def _first_of_all(trainer: Trainer, finding: str | None) -> str | None:
    """What the first process that found anything has found, on all of them."""
    findings = [finding]
    if trainer.world_size > 1:
        findings = [None] * trainer.world_size
        dist.all_gather_object(findings, finding)
    return next((finding for finding in findings if finding is not None), None)


@dataclass(frozen=True)
class _Rows:
    """What is kept of a batch: NaN or infinity in a row makes the sum of the row so."""

    step: int
    sums: dict[str, Tensor]
    index: Tensor | None

    @classmethod
    def of(cls, step: int, batch: dict[str, Tensor]) -> "_Rows":
        index = batch.get("index")
        n_rows = None if index is None else len(index)
        sums = {
            name: _sum_rows(x.detach(), n_rows)
            for name, x in batch.items()
            if isinstance(x, Tensor) and x.ndim and x.is_floating_point()
        }
        return cls(step, sums, index if sums else None)

    def describe(self) -> str | None:
        for name, sums in self.sums.items():
            rows = (~sums.isfinite()).nonzero().flatten()
            if len(rows):
                has_ids = self.index is not None and len(self.index) == len(sums)
                ids = self.index[rows] if has_ids else rows  # type: ignore[index]
                some = ", ".join(map(str, ids[:8].tolist())) + (", ..." if len(ids) > 8 else "")
                what = "samples with index" if has_ids else "rows of the batch"
                return (
                    f"{name} of step {self.step} holds NaN or infinite values in {len(rows)} of "
                    f"{len(sums)} {what} {some}"
                )
        return None


def _sum_rows(x: Tensor, n_rows: int | None) -> Tensor:
    """One sum a row of the batch, which views (views, B, ...) have in their second place."""
    rows = 1 if x.ndim > 1 and len(x) != n_rows == x.shape[1] else 0
    others = tuple(dim for dim in range(x.ndim) if dim != rows)
    # Half precision would sum beyond its range; without dimensions torch would sum over all.
    return x.sum(others, dtype=torch.promote_types(x.dtype, torch.float32)) if others else x


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
