"""fit: one training run, from prepared data to checkpoints."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from core.checkpoints import OURS, load_weights, read_checkpoint
from core.data.checks import DataError
from core.trainers.callbacks import LogTerms, StopOnNaN, Validate
from core.trainers.checkpointing import Checkpoints
from core.trainers.monitors import OnlineMonitors
from core.trainers.progress import EpochLines, StepsBar
from core.trainers.system import System
from core.trainers.task import Data, Task


@dataclass(frozen=True)
class Fit:
    """What a training run left behind.

    Attributes:
        checkpoint: the best by validation, or the last where there is no validation split.
        monitor: the metric that chose it, None where there is no validation split.
        best_score: its value there.
        best_epoch: the epoch it is of, counted from 0.
        epochs: epochs trained in all, before a resume included.
        seconds: wall time of this call.
        is_main_process: whether this process is the one that goes on to evaluate and to write.
    """

    checkpoint: Path
    monitor: str | None
    best_score: float | None
    best_epoch: int
    epochs: int
    seconds: float
    is_main_process: bool


def fit(
    system: System,
    data: Data,
    task: Task,
    run_dir: Path,
    *,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    loggers: Sequence[Logger] = (),
    config: dict[str, Any] | None = None,
    seed: int = 0,
    resume: Path | None = None,
    progress: bool = True,
    max_epochs: int = 100,
    batch_size_global: int = 2048,
    validate_every: int = 1,
    patience: int | None = None,
    checkpoint_every_n_steps: int | None = None,
    accumulate: int = 1,
    gradient_clip: float | None = None,
    precision: str | None = None,
    accelerator: str = "auto",
    devices: int | str = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    log_every_n_steps: int = 10,
) -> Fit:
    """Trains a system on the training split and keeps the checkpoint with the best validation.

    Args:
        system: freshly built; `prepare` is called here unless the run resumes.
        data: all splits; the test split is dropped before anything else happens.
        task: the field's loader and validation.
        run_dir: gets `checkpoints/`.
        optimizer: parameter groups -> optimizer; None is the system's own, AdamW at 1e-3 without
            weight decay.
        schedule: (optimizer, total steps) -> learning-rate schedule; None is the system's own,
            a constant rate.
        loggers: Lightning loggers.
        config: plain values, kept in the checkpoints.
        seed: of the data order.
        resume: a checkpoint to go on from exactly.
        progress: whether to show progress.
        max_epochs: passes over the training split, at most.
        batch_size_global: rows of one optimizer step over all processes and accumulated passes.
        validate_every: epochs between validations.
        patience: validations without improvement before stopping; None never stops early.
        checkpoint_every_n_steps: also write `last.ckpt` inside epochs.
        accumulate: forward and backward passes of one optimizer step.
        gradient_clip: largest norm of the gradient.
        precision: Lightning's name; None is bf16-mixed on CUDA and float32 elsewhere.
        accelerator: Lightning's name: auto, cpu, cuda, mps.
        devices: processes on this machine, one a device.
        num_nodes: machines.
        strategy: Lightning's name: auto, ddp, fsdp.
        log_every_n_steps: optimizer steps between logged training terms.

    The loss of a step with `accumulate` passes is the mean of the passes' losses. Where the rows of
    an epoch do not fill its last step, a missing pass counts as a gradient of 0. Batch norm takes
    its statistics from the rows of all processes on CUDA, from each process's own on CPUs.

    Raises:
        DataError: an option cannot be used on this machine, the run to go on from was made with
            other data, seed, batch size or system, or the loss is no longer finite.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = data.without_test()
    _check_options(
        max_epochs=max_epochs,
        validate_every=validate_every,
        accumulate=accumulate,
        log_every_n_steps=log_every_n_steps,
    )
    if batch_size_global % accumulate:
        raise DataError(
            f"trainer.batch_size_global={batch_size_global} rows cannot be shared by "
            f"trainer.accumulate={accumulate} passes",
            expected="a multiple",
        )
    on_cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    if precision is None:
        precision = "bf16-mixed" if on_cuda else "32-true"
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=max_epochs,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=gradient_clip,
            log_every_n_steps=log_every_n_steps,
            logger=list(loggers),
            default_root_dir=run_dir,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            sync_batchnorm=on_cuda,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ValueError) as error:
        raise DataError(f"the trainer's options cannot be used here: {error}") from error
    data = data.to(trainer.strategy.root_device)
    if resume is None:
        system.prepare(data)
        (run_dir / "log.csv").unlink(missing_ok=True)
    system.make_optimizer = optimizer or system.make_optimizer
    system.make_schedule = schedule or system.make_schedule
    loader = task.train_loader(
        system, data, batch_size_global // accumulate, seed, trainer.global_rank, trainer.world_size
    )
    if resume is not None:
        checkpoint = read_checkpoint(resume)
        loader.load_state_dict(checkpoint[OURS]["loader"])
        load_weights(system, checkpoint, resume)
    validation = Validate(task, data, validate_every) if task.has_split(data, "valid") else None
    guard = StopOnNaN()
    checkpoints = Checkpoints(
        run_dir / "checkpoints",
        loader,
        config or {},
        guard,
        validation,
        patience,
        checkpoint_every_n_steps,
    )
    # In this order: each reads what the one before it found.
    callbacks: list[Callback] = [LogTerms(), guard, OnlineMonitors()]
    callbacks += [validation] if validation else []
    callbacks += [*_progress(progress), checkpoints]
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]

    (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        trainer.fit(system, loader, ckpt_path=resume, weights_only=True)
    best = run_dir / "checkpoints" / "best.ckpt"
    return Fit(
        checkpoint=best if best.exists() else run_dir / "checkpoints" / "last.ckpt",
        monitor=checkpoints.monitor,
        best_score=checkpoints.best_score,
        best_epoch=checkpoints.best_epoch,
        epochs=trainer.current_epoch,
        seconds=time.perf_counter() - start,
        is_main_process=trainer.is_global_zero,
    )


def _check_options(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise DataError(f"trainer.{name}={value}", expected="a number from 1")


def _progress(show: bool) -> list[Callback]:
    if not show:
        return []
    return [StepsBar(leave=False)] if sys.stdout.isatty() else [EpochLines()]
