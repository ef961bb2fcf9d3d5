"""Loggers: a CSV file that a resumed run goes on with, and the trackers that people use."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from core.data.checks import DataError


class LogCSV(Logger):
    """Writes `log.csv`, one row a logged step; a resumed run drops the rows it will repeat.

    After `save` the file holds all that was logged, so no checkpoint written then is ahead of it.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.file = Path(run_dir) / "log.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["step"]
        self._is_first = True
        # The last row of the file may still get metrics of its step: where it begins.
        self._settled_rows = self._settled_bytes = self._columns_in_file = 0

    @property
    def name(self) -> str:
        """Lightning's name of the log."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning's version of the log: there is one a run folder."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:  # noqa: ANN401
        """Nothing: the run folder's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Adds the metrics of a step; what is logged of the same step shares its row."""
        step = step or 0
        if self._is_first:
            self._is_first = False
            self._read_until(step)
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})
        self.columns += [name for name in metrics if name not in self.columns]

    @rank_zero_only
    def save(self) -> None:
        """Brings the file up to date."""
        if not self.rows:
            return
        if self._columns_in_file == len(self.columns):
            with self.file.open("r+", newline="") as out:
                out.seek(self._settled_bytes)
                out.truncate()
                self._write_rows(out)
        else:
            temporary = self.file.with_suffix(".csv.tmp")
            self._settled_rows = 0
            with temporary.open("w", newline="") as out:
                csv.DictWriter(out, self.columns).writeheader()
                self._write_rows(out)
            os.replace(temporary, self.file)
            self._columns_in_file = len(self.columns)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Brings the file up to date."""
        self.save()

    def _write_rows(self, out: TextIO) -> None:
        writer = csv.DictWriter(out, self.columns, restval="")
        writer.writerows(self.rows[self._settled_rows : -1])
        self._settled_rows, self._settled_bytes = len(self.rows) - 1, out.tell()
        writer.writerow(self.rows[-1])

    def _read_until(self, step: int) -> None:
        if not self.file.exists():
            return
        # A run that was killed may have left half a line, which is none.
        lines = self.file.read_text().splitlines(keepends=True)
        reader = csv.DictReader(line for line in lines if line.endswith("\n"))
        kept = [row for row in reader if int(row["step"]) < step]
        self.columns = list(reader.fieldnames or self.columns)
        self.rows = [
            {k: v if k != "step" else int(v) for k, v in row.items() if v != ""} for row in kept
        ]


def tensorboard(run_dir: Path) -> TensorBoardLogger:
    """Event files under `run_dir/tensorboard`."""
    return TensorBoardLogger(save_dir=run_dir, name=None, version="tensorboard")


def log_picture(trainer: Trainer, name: str, file: Path) -> None:
    """Hands a PNG over to TensorBoard, where the run writes one."""
    from matplotlib.image import imread

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            picture = imread(file)[..., :3]
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")


def wandb(run_dir: Path, project: str, offline: bool) -> WandbLogger:
    """A Weights & Biases run; needs the package wandb."""
    try:
        return WandbLogger(save_dir=run_dir, project=project, offline=offline)
    except ModuleNotFoundError as error:
        raise DataError("logger=wandb needs wandb", fix="pip install wandb") from error


def mlflow(run_dir: Path, experiment_name: str, tracking_uri: str | None) -> MLFlowLogger:
    """An MLflow run; needs the package mlflow."""
    try:
        return MLFlowLogger(
            experiment_name,
            tracking_uri=tracking_uri,
            save_dir=str(Path(run_dir) / "mlruns"),
        )
    except ModuleNotFoundError as error:
        raise DataError("logger=mlflow needs mlflow", fix="pip install mlflow") from error
