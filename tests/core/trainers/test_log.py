import csv
import importlib.util
from pathlib import Path

import pytest

from core.data.checks import DataError
from core.trainers.log import LogCSV, mlflow, tensorboard, wandb


def _rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "log.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def _log(logger: LogCSV, step: int, **metrics: float) -> None:
    logger.log_metrics(metrics, step)
    logger.save()


def test_one_row_a_step_and_a_column_for_every_metric(tmp_path: Path) -> None:
    logger = LogCSV(tmp_path)
    _log(logger, 9, loss=0.5)
    _log(logger, 19, loss=0.25)
    _log(logger, 19, score=1.0)
    _log(logger, 29, loss=0.125)
    assert (tmp_path / "log.csv").read_text().split() == [
        "step,loss,score",
        "9,0.5,",
        "19,0.25,1.0",
        "29,0.125,",
    ]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_file_holds_everything_after_every_save(tmp_path: Path) -> None:
    logger = LogCSV(tmp_path)
    for step in range(5):
        _log(logger, step, loss=float(step))
        assert [row["step"] for row in _rows(tmp_path)] == [str(s) for s in range(step + 1)]
        _log(logger, step, score=step + 0.5)
        assert _rows(tmp_path)[-1] == {"step": f"{step}", "loss": f"{step}.0", "score": f"{step}.5"}
        # A second save, as Lightning does it, changes nothing.
        before = (tmp_path / "log.csv").read_bytes()
        logger.save()
        assert (tmp_path / "log.csv").read_bytes() == before


def test_nothing_logged_is_no_file(tmp_path: Path) -> None:
    logger = LogCSV(tmp_path)
    logger.save()
    logger.finalize("success")
    assert not (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("killed_after", range(1, 6))
def test_a_resumed_log_is_that_of_an_unbroken_run(tmp_path: Path, killed_after: int) -> None:
    steps = [(1, "loss"), (3, "loss"), (4, "score"), (5, "loss"), (5, "score"), (7, "loss")]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    logger = LogCSV(whole)
    for step, name in steps:
        _log(logger, step, **{name: step / 10})
    logger = LogCSV(broken)
    for step, name in steps[:killed_after]:
        _log(logger, step, **{name: step / 10})
    # The checkpoint is of step 3: all that comes after it is logged again.
    logger = LogCSV(broken)
    for step, name in steps[min(killed_after, 2) :]:
        _log(logger, step, **{name: step / 10})
    assert _rows(broken) == _rows(whole)


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    # The first digit of step 57, which would else be taken for step 5.
    (tmp_path / "log.csv").write_text("step,loss\n9,0.5\n19,0.25\n5")
    _log(LogCSV(tmp_path), 29, loss=0.125)
    assert [row["step"] for row in _rows(tmp_path)] == ["9", "19", "29"]


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    logger = tensorboard(tmp_path)
    logger.log_metrics({"loss": 0.5}, 1)
    logger.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    make = {
        "wandb": lambda: wandb(tmp_path, "mine", offline=True),
        "mlflow": lambda: mlflow(tmp_path, "mine", None),
    }
    with pytest.raises(DataError, match=f"logger={name} needs {name}") as caught:
        make[name]()
    assert f"pip install {name}" in str(caught.value)
