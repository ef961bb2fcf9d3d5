"""Loggers: a CSV file that a resumed run goes on with, and the trackers that people use."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from core.data.checks import DataError


class LogCSV(Logger):
    """Writes `log.csv`, one row a logged step; a resumed run drops the rows it will repeat."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.file = Path(run_dir) / "log.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns: list[str] = ["step"]
        self._continues = self.file.exists()
        self._rows_in_file = 0
        self._columns_in_file = 0

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
        if self._continues:
            self._read_until(step)
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})
        self.columns += [name for name in metrics if name not in self.columns]

    @rank_zero_only
    def save(self) -> None:
        """Appends the rows that are complete; the last may still get metrics of its step."""
        self._write(len(self.rows) - 1)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Appends what is not yet written."""
        self._write(len(self.rows))

    def _write(self, n_rows: int) -> None:
        if n_rows <= self._rows_in_file:
            return
        if self._columns_in_file == len(self.columns):
            with self.file.open("a", newline="") as out:
                csv.DictWriter(out, self.columns, restval="").writerows(
                    self.rows[self._rows_in_file : n_rows]
                )
        else:
            temporary = self.file.with_suffix(".csv.tmp")
            with temporary.open("w", newline="") as out:
                writer = csv.DictWriter(out, self.columns, restval="")
                writer.writeheader()
                writer.writerows(self.rows[:n_rows])
            os.replace(temporary, self.file)
        self._rows_in_file, self._columns_in_file = n_rows, len(self.columns)

    def _read_until(self, step: int) -> None:
        with self.file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            kept = [row for row in reader if int(row["step"]) < step]
            self.columns = list(reader.fieldnames or self.columns)
        self.rows = [
            {k: v if k != "step" else int(v) for k, v in row.items() if v != ""} for row in kept
        ]
        self._continues = False


def tensorboard(run_dir: Path) -> TensorBoardLogger:
    """Event files under `run_dir/tensorboard`."""
    return TensorBoardLogger(save_dir=run_dir, name=None, version="tensorboard")


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
