import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoints import OURS, read_checkpoint
from core.data.checks import DataError
from core.trainers import Fit, System, schedules
from core.trainers.checkpointing import Checkpoints
from core.trainers.log import LogCSV
from tests.core.trainers.tiny import Tiny, TinyTask, tiny_data, train


class Killed(BaseException):
    """As if the process had been killed: nothing of the project may catch it."""


def _options() -> dict[str, Any]:
    return {
        "optimizer": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
        "schedule": partial(schedules.cosine, warmup=0.2),
        "max_epochs": 4,
        "log_every_n_steps": 2,
    }


def _train(run_dir: Path, **options: Any) -> tuple[Fit, System]:
    return train(run_dir, loggers=[LogCSV(run_dir)], **(_options() | options))


def _last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


def _kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Dies inside the step after the given number of steps."""
    objective = Tiny.objective

    def dying(self: Tiny, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.trainer.global_step == step:
            raise Killed
        return objective(self, batch)

    monkeypatch.setattr(Tiny, "objective", dying)


def _assert_equal(found: object, expected: object, where: str = "") -> None:
    """Equal to the last bit, whatever is nested in what."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _assert_equal(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for n, (a, b) in enumerate(zip(found, expected, strict=True)):
            _assert_equal(a, b, f"{where}[{n}]")
    else:
        assert found == expected, where


@pytest.fixture
def unbroken(tmp_path: Path) -> Path:
    folder = tmp_path / "unbroken"
    _train(folder)
    return folder


# 3 steps an epoch. 6: at the end of an epoch; 4 and 8: inside one; 1: inside the first.
@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("killed_after", [1, 3, 4, 6, 8, 11])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path,
    unbroken: Path,
    every: int | None,
    killed_after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises((Killed, DataError)) as caught:
        _kill_after(patched, killed_after)
        _train(run, checkpoint_every_n_steps=every)
    assert caught.type is Killed
    place = max(killed_after // 3 * 3, killed_after // every * every if every else 0)
    if place == 0:
        assert not _last(run).exists()
        return
    assert read_checkpoint(_last(run))["global_step"] == place

    # Another process starts from another random state.
    result, system = _train(run, chance=99, resume=_last(run), checkpoint_every_n_steps=every)
    assert result.epochs == 4
    assert len(system.batches) == 12 - place
    found, expected = read_checkpoint(_last(run)), read_checkpoint(_last(unbroken))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", OURS):
        _assert_equal(found[part], expected[part], part)
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")
    _assert_equal(
        best["state_dict"], read_checkpoint(unbroken / "checkpoints" / "best.ckpt")["state_dict"]
    )
    assert (run / "log.csv").read_text() == (unbroken / "log.csv").read_text()


def test_what_the_bits_depend_on(tmp_path: Path, unbroken: Path) -> None:
    """Each of these changes the weights, so the tests above can see when one is lost."""
    expected = read_checkpoint(_last(unbroken))["state_dict"]
    for name, system in {
        "without dropout": partial(Tiny, p=0.0),
        "without noise of numpy and random": partial(Tiny, noise=0.0),
    }.items():
        _train(tmp_path / name, system=system)
        found = read_checkpoint(_last(tmp_path / name))["state_dict"]
        assert not torch.equal(found["hidden.weight"], expected["hidden.weight"]), name


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_after_going_on_inside_an_epoch(
    tmp_path: Path,
    progress: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        _kill_after(patched, 4)
        _train(tmp_path, checkpoint_every_n_steps=1)
    capsys.readouterr()
    _train(tmp_path, resume=_last(tmp_path), progress=progress)
    lines = [line.split()[1] for line in capsys.readouterr().out.splitlines() if "epoch " in line]
    assert lines == (["2/4", "3/4", "4/4"] if progress else [])


@pytest.mark.parametrize("accumulate", [2, 3])
def test_goes_on_between_accumulated_steps(
    tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size_global": 6, "accumulate": accumulate, "data": tiny_data(25)}
    _train(tmp_path / "unbroken", **options)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        _kill_after(patched, 7)
        _train(tmp_path / "run", checkpoint_every_n_steps=1, **options)
    assert read_checkpoint(_last(tmp_path / "run"))["global_step"] == 7
    _train(tmp_path / "run", chance=99, resume=_last(tmp_path / "run"), **options)
    found, expected = (read_checkpoint(_last(tmp_path / name)) for name in ("run", "unbroken"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", OURS):
        _assert_equal(found[part], expected[part], part)
    logs = [(tmp_path / name / "log.csv").read_text() for name in ("run", "unbroken")]
    assert logs[0] == logs[1]


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    _train(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert before
    task = TinyTask()
    result, system = _train(tmp_path, resume=_last(tmp_path), task=task)
    assert system.batches == []
    assert task.splits == []
    assert result.epochs == 4
    assert result.checkpoint.is_file()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_run_that_lost_its_patience_does_nothing_more(tmp_path: Path) -> None:
    scores = [0.3, 0.2, 0.1, 0.9]
    _train(tmp_path, task=TinyTask(scores), patience=2, max_epochs=9)
    task = TinyTask([0.9])
    result, system = _train(tmp_path, task=task, patience=2, max_epochs=9, resume=_last(tmp_path))
    assert (system.batches, task.splits) == ([], [])
    assert (result.epochs, result.best_epoch, result.best_score) == (3, 0, 0.3)
    # With more patience it goes on, and still remembers how long it has stood still.
    task = TinyTask([0.1, 0.9])
    result, _ = _train(tmp_path, task=task, patience=3, max_epochs=9, resume=_last(tmp_path))
    assert (result.epochs, result.best_epoch) == (4, 0)


def test_a_finished_run_can_be_trained_for_longer(tmp_path: Path) -> None:
    constant = {"schedule": schedules.constant}
    _train(tmp_path / "long", **constant)
    _train(tmp_path / "run", max_epochs=2, **constant)
    _train(tmp_path / "run", resume=_last(tmp_path / "run"), **constant)
    found, expected = (read_checkpoint(_last(tmp_path / name)) for name in ("run", "long"))
    _assert_equal(found["state_dict"], expected["state_dict"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size_global": 4}, "batch_size was 8 and is now 4"),
        ({"data": tiny_data(23)}, "n_rows was 22 and is now 23"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"data": tiny_data(width=4), "system": partial(Tiny, 4)}, "size mismatch for"),
        ({"system": lambda: Deeper()}, "Missing key.*extra.weight"),
    ],
)
def test_a_run_that_is_not_the_same_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    _train(tmp_path)
    before = _last(tmp_path).read_bytes()
    with pytest.raises(DataError, match=said):
        _train(tmp_path, resume=_last(tmp_path), **({"max_epochs": 9} | change))
    assert _last(tmp_path).read_bytes() == before


class Deeper(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("keep", [0, 1, 1000])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    _train(tmp_path)
    _last(tmp_path).write_bytes(_last(tmp_path).read_bytes()[:keep])
    with pytest.raises(DataError, match=r"last\.ckpt: cannot be read as a checkpoint"):
        _train(tmp_path, resume=_last(tmp_path))


def _dying(function: Callable[..., None], at_call: int) -> Callable[..., None]:
    calls: list[Path] = []

    def wrapped(source: Path, target: Path) -> None:
        if target.suffix == ".ckpt":
            calls.append(target)
            if len(calls) == at_call:
                raise Killed
        function(source, target)

    return wrapped


# An epoch that is the best so far renames twice, first best.ckpt and then last.ckpt.
@pytest.mark.parametrize("at_call", [1, 2, 3, 4, 5])
def test_killed_while_it_renames(
    tmp_path: Path, at_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.1, 0.2, 0.3, 0.25]
    _train(tmp_path / "unbroken", task=TinyTask(scores))
    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        replace = _dying(os.replace, at_call)
        patched.setattr("core.trainers.checkpointing.os.replace", replace)
        _train(run, task=TinyTask(scores))
    epochs = (at_call - 1) // 2
    if epochs == 0:
        assert not _last(run).exists()
        return
    assert read_checkpoint(_last(run))["epoch"] == epochs - 1
    result, _ = _train(run, task=TinyTask(scores[epochs:]), resume=_last(run))
    assert result.best_epoch == 2
    for name in ("last.ckpt", "best.ckpt"):
        found = read_checkpoint(run / "checkpoints" / name)
        expected = read_checkpoint(tmp_path / "unbroken" / "checkpoints" / name)
        assert found["epoch"] == expected["epoch"]
        _assert_equal(found["state_dict"], expected["state_dict"], name)
    assert {file.name for file in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def test_killed_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _train(tmp_path, max_epochs=1)
    before = _last(tmp_path).read_bytes()

    def half_written(checkpoint: object, path: Path) -> None:
        Path(path).write_bytes(before[: len(before) // 2])
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", half_written)
        _train(tmp_path, resume=_last(tmp_path))
    assert (tmp_path / "checkpoints" / "last.ckpt.tmp").exists()
    assert _last(tmp_path).read_bytes() == before
    _train(tmp_path / "unbroken")
    _train(tmp_path, resume=_last(tmp_path))
    # The cosine of a run of one epoch is another until it is resumed, so only the place agrees.
    assert read_checkpoint(_last(tmp_path))["epoch"] == 3
    assert not (tmp_path / "checkpoints" / "last.ckpt.tmp").exists()


def test_the_best_stays_when_the_last_is_written_over(tmp_path: Path) -> None:
    _train(tmp_path, task=TinyTask([0.5, 0.1, 0.1, 0.1]))
    best, last = (read_checkpoint(tmp_path / "checkpoints" / f"{n}.ckpt") for n in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (0, 3)
    assert (best[OURS]["best_score"], best[OURS]["best_epoch"]) == (0.5, 0)
    assert not torch.equal(best["state_dict"]["hidden.weight"], last["state_dict"]["hidden.weight"])


def test_a_checkpoint_says_what_chose_it_and_holds_its_config(tmp_path: Path) -> None:
    config = {"system": {"_target_": "x", "p": 0.5}, "seed": 0, "list": [1, None, 2.5]}
    _train(tmp_path, config=config, task=TinyTask([0.5, math.nan, 0.7, 0.6]))
    ours = read_checkpoint(_last(tmp_path))[OURS]
    assert ours["config"] == config
    assert ours["target"] == "tests.core.trainers.tiny.Tiny"
    assert ours["arguments"] == {"width": 3, "p": 0.5, "noise": 0.1}
    assert (ours["monitor"], ours["best_score"], ours["best_epoch"]) == ("valid/score", 0.7, 2)
    assert ours["validations_since_best"] == 1


@pytest.mark.parametrize("at_write", range(1, 12))
def test_no_checkpoint_is_ahead_of_the_log(
    tmp_path: Path, unbroken: Path, at_write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, writes, write = tmp_path / "run", [], Checkpoints._write

    def dying(self: Checkpoints, *args: Any, **kwargs: Any) -> None:
        write(self, *args, **kwargs)
        writes.append(args)
        if len(writes) == at_write:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Checkpoints, "_write", dying)
        # What a killed process would leave of the log: nothing is written on the way out.
        patched.setattr(LogCSV, "finalize", lambda self, status: None)
        _train(run, checkpoint_every_n_steps=1)
    _train(run, chance=99, resume=_last(run), checkpoint_every_n_steps=1)
    assert (run / "log.csv").read_text() == (unbroken / "log.csv").read_text()
