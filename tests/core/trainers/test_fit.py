import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from core.checkpoints import OURS, read_checkpoint
from core.data.checks import DataError
from core.trainers import System, schedules
from core.trainers.log import LogCSV, tensorboard
from tests.core.trainers.tiny import Line, Tiny, TinyData, TinyTask, tiny_data, train

Weights = dict[str, Tensor]


def _log(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "log.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def _same(a: System, b: System) -> bool:
    return all(torch.equal(a.state_dict()[name], w) for name, w in b.state_dict().items())


def _sgd(lr: float = 0.1):
    return lambda groups: torch.optim.SGD(groups, lr=lr)


def test_terms_and_validations_are_logged_under_their_names(tmp_path: Path) -> None:
    task = TinyTask()
    _, system = train(tmp_path, task=task, loggers=[LogCSV(tmp_path)], log_every_n_steps=2)
    rows = _log(tmp_path)
    assert list(rows[0]) == [
        *("step", "epoch", "train/loss", "train/error", "valid/score", "valid/other")
    ]
    # 3 steps an epoch, every second logged, and the last of each epoch validated.
    assert [row["step"] for row in rows] == ["1", "2", "3", "5", "7", "8"]
    assert [row["epoch"] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "3", "5", "7"]
    assert [row["step"] for row in rows if row["valid/score"]] == ["2", "5", "8"]
    assert all(row["train/loss"] == row["train/error"] for row in rows)
    assert task.splits == ["valid"] * 3
    assert len(system.batches) == 9


def test_the_logged_loss_is_that_of_its_step(tmp_path: Path) -> None:
    losses = []

    class Recorded(Line):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            terms = super().objective(batch)
            losses.append(terms["loss"].item())
            return terms

    train(tmp_path, system=Recorded, loggers=[LogCSV(tmp_path)], log_every_n_steps=1)
    rows = _log(tmp_path)
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(losses)
    assert [int(row["step"]) for row in rows] == list(range(9))


def test_what_fit_returns(tmp_path: Path) -> None:
    result, _ = train(tmp_path, task=TinyTask([0.3, 0.5, 0.4]))
    assert result.checkpoint == tmp_path / "checkpoints" / "best.ckpt"
    assert (result.monitor, result.best_score, result.best_epoch) == ("valid/score", 0.5, 1)
    assert (result.epochs, result.is_main_process) == (3, True)


def test_without_validation_the_last_is_the_best(tmp_path: Path) -> None:
    task = TinyTask()
    result, system = train(tmp_path, data=tiny_data(valid=0), task=task)
    assert (result.monitor, result.best_score, result.best_epoch) == (None, None, 2)
    assert task.splits == []
    best = read_checkpoint(result.checkpoint)["state_dict"]
    assert all(torch.equal(best[name], w) for name, w in system.state_dict().items())


def test_training_never_sees_the_test_split(tmp_path: Path) -> None:
    class Curious(Tiny):
        def prepare(self, data) -> None:
            super().prepare(data)
            assert data.test == 0

    data = tiny_data()
    with pytest.raises(AssertionError, match="the test split was looked at"):
        _ = data.test
    train(tmp_path, data=data)
    # What a method is given is the data without it.
    train(tmp_path, data=data, system=Curious)


def test_a_callback_cannot_choose_by_the_test_split() -> None:
    root = Path(__file__).parents[3]
    sources = [*(root / "core" / "trainers").glob("*.py"), root / "core" / "compare.py"]
    assert len(sources) > 6
    for source in sources:
        text = source.read_text()
        assert "test/" not in text, source
        if source.parent.name == "trainers":
            assert not any(word in text for word in ('"test")', "split='test'", 'split="test"')), (
                source
            )


@pytest.mark.parametrize("batch_size", [11, 8])
def test_every_row_once_an_epoch_and_another_order_each_seed(
    tmp_path: Path, batch_size: int
) -> None:
    orders = []
    for seed in (0, 1):
        _, system = train(tmp_path / str(seed), seed=seed, batch_size_global=batch_size)
        n_batches = -(-22 // batch_size)
        for epoch in range(3):
            batches = system.batches[epoch * n_batches : (epoch + 1) * n_batches]
            assert sorted(row for batch in batches for row in batch) == list(range(22))
        orders.append(system.batches)
    assert orders[0] != orders[1]


def test_same_seed_same_weights(tmp_path: Path) -> None:
    runs = [train(tmp_path / str(n), seed=seed)[1] for n, seed in enumerate((5, 5, 6))]
    assert _same(runs[0], runs[1])
    assert not _same(runs[0], runs[2])


def test_how_often_one_validates_changes_no_training(tmp_path: Path) -> None:
    often, task = train(tmp_path / "often", task=TinyTask())[1], TinyTask()
    seldom = train(tmp_path / "seldom", task=task, validate_every=3)[1]
    assert task.splits == ["valid"]
    never = train(tmp_path / "never", data=tiny_data(valid=0))[1]
    assert _same(often, seldom)
    assert _same(often, never)


def test_validates_every_so_many_epochs_and_after_the_last(tmp_path: Path) -> None:
    train(tmp_path, loggers=[LogCSV(tmp_path)], validate_every=2, max_epochs=5)
    assert [row["epoch"] for row in _log(tmp_path) if row["valid/score"]] == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("scores", "epochs", "best"),
    [
        ([0.1, 0.2, 0.2, 0.1, 0.9], 4, 1),
        ([0.1, 0.2, 0.15, 0.3, 0.2, 0.3, 0.9], 6, 3),
        # An improvement that rounding to 4 decimals hides is none.
        ([0.2, 0.20001, 0.20002, 0.9], 3, 0),
        ([0.2, 0.2001, 0.2002, 0.2001, 0.2, 0.9], 5, 2),
        ([-0.5, -0.6, -0.7, 0.9], 3, 0),
        ([math.nan, 0.1, 0.3, math.nan, 0.2, 0.9], 5, 2),
    ],
)
def test_patience_and_the_best_checkpoint(
    tmp_path: Path, scores: list[float], epochs: int, best: int
) -> None:
    states = []

    class Recorded(TinyTask):
        def evaluate(self, system, data, split):
            states.append({name: w.clone() for name, w in system.state_dict().items()})
            return super().evaluate(system, data, split)

    result, _ = train(tmp_path, task=Recorded(scores), patience=2, max_epochs=20)
    assert (result.epochs, result.best_epoch) == (epochs, best)
    assert result.best_score == round(scores[best], 4)
    assert len(states) == epochs
    checkpoint = read_checkpoint(result.checkpoint)
    assert checkpoint["epoch"] == best
    assert all(torch.equal(checkpoint["state_dict"][n], w) for n, w in states[best].items())
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["epoch"] == epochs - 1
    assert last[OURS]["best_epoch"] == best
    assert all(torch.equal(last["state_dict"][n], w) for n, w in states[-1].items())


@pytest.mark.parametrize("n_rows", [16, 32])
def test_accumulated_passes_are_one_big_batch(tmp_path: Path, n_rows: int) -> None:
    options = {"system": Line, "data": tiny_data(n_rows), "optimizer": _sgd(), "max_epochs": 2}
    big = train(tmp_path / "big", **options)[1]
    two = train(tmp_path / "two", accumulate=2, **options)[1]
    four = train(tmp_path / "four", accumulate=4, **options)[1]
    for other in (two, four):
        for name, weight in big.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], weight)
    assert not _same(big, train(tmp_path / "small", batch_size_global=4, **options)[1])


def test_accumulated_passes_are_logged_once_a_step(tmp_path: Path) -> None:
    train(tmp_path, accumulate=2, loggers=[LogCSV(tmp_path)], log_every_n_steps=1, max_epochs=2)
    # 22 rows are 6 passes of at most 4, and 3 steps an epoch.
    rows = _log(tmp_path)
    assert [row["step"] for row in rows] == [str(step) for step in range(6)]
    assert all(row["train/loss"] for row in rows)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_is_clipped(tmp_path: Path, precision: str, fused: bool) -> None:
    torch.manual_seed(0)
    start = Line()
    options = {"system": Line, "max_epochs": 1, "batch_size_global": 22, "precision": precision}

    def sgd(groups):
        return torch.optim.SGD(groups, lr=1.0, fused=fused)

    def moved(name: str, clip: float | None) -> float:
        _, system = train(tmp_path / name, optimizer=sgd, gradient_clip=clip, **options)
        changes = [(w - start.state_dict()[n]).flatten() for n, w in system.state_dict().items()]
        return torch.cat(changes).norm().item()

    assert moved("free", None) > 1
    assert moved("clipped", 0.25) == pytest.approx(0.25, rel=1e-3)


def test_the_schedule_is_stepped_every_step_over_the_whole_training(tmp_path: Path) -> None:
    rates = []

    class Recorded(Line):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return super().objective(batch)

    def schedule(optimizer, total_steps):
        assert total_steps == 9
        return schedules.cosine(optimizer, total_steps, warmup=1 / 3)

    train(tmp_path, system=Recorded, optimizer=_sgd(0.3), schedule=schedule)
    fall = [0.15 * (1 + math.cos(math.pi * n / 6)) for n in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, *fall])


class Breaking(Line):
    """Its loss, or its weights, are broken from a step on."""

    def __init__(self, at: int = 5, weights: bool = False) -> None:
        super().__init__()
        self.at, self.weights, self.steps = at, weights, 0

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = super().objective(batch)["loss"]
        self.steps += 1
        if self.steps == self.at:
            # The square root has an infinite slope at 0: a finite loss, a broken step.
            loss = loss * 0 + (loss * 0).sqrt() if self.weights else loss * math.nan
        return {"loss": loss}


def test_a_broken_loss_stops_the_run_at_once(tmp_path: Path) -> None:
    task = TinyTask([0.1] * 9)
    with pytest.raises(DataError, match="stopped at step 5: train/loss = nan") as caught:
        train(tmp_path, system=Breaking, task=task, log_every_n_steps=1)
    assert "gradient_clip" in str(caught.value)
    assert len(task.splits) == 1


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("every", [None, 1])
def test_no_checkpoint_holds_broken_weights(
    tmp_path: Path, weights: bool, every: int | None
) -> None:
    # The steps in question are not logged: only the weights can tell.
    with pytest.raises(DataError, match=r"stopped at step \d: linear\.\w+ is no longer finite"):
        train(
            tmp_path,
            system=lambda: Breaking(5, weights),
            task=TinyTask([0.1] * 9),
            checkpoint_every_n_steps=every,
        )
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] == (4 if every else 3)
    assert all(weight.isfinite().all() for weight in last["state_dict"].values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_epochs": 0}, r"trainer\.max_epochs=0"),
        ({"validate_every": 0}, r"trainer\.validate_every=0"),
        ({"accumulate": 0}, r"trainer\.accumulate=0"),
        ({"log_every_n_steps": 0}, r"trainer\.log_every_n_steps=0"),
        ({"batch_size_global": 9, "accumulate": 2}, "9 rows cannot be shared"),
        ({"batch_size_global": 0}, "a batch of 0 rows"),
        ({"precision": "17-true"}, "17-true"),
        ({"strategy": "nonsense"}, "nonsense"),
        ({"accelerator": "abacus"}, "abacus"),
        ({"devices": 0}, "devices"),
    ],
)
def test_options_that_cannot_be_used_are_named(
    tmp_path: Path, options: dict[str, int | str], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        train(tmp_path, **options)


def test_a_new_run_in_an_old_folder_starts_a_new_log(tmp_path: Path) -> None:
    train(tmp_path, loggers=[LogCSV(tmp_path)], log_every_n_steps=1)
    train(tmp_path, loggers=[LogCSV(tmp_path)], log_every_n_steps=4)
    assert [row["step"] for row in _log(tmp_path)] == ["2", "3", "5", "7", "8"]


def test_one_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(
        tmp_path, progress=True, task=TinyTask([0.5, 0.25]), validate_every=2, log_every_n_steps=1
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all(" loss " in line and line.endswith(" s") for line in lines)
    assert "valid" not in lines[0]
    assert "valid/score 0.5000" in lines[1]
    assert "valid/score 0.2500" in lines[2]


def test_the_line_has_the_mean_loss_of_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []

    class Recorded(Line):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            terms = super().objective(batch)
            losses.append(terms["loss"].item())
            return terms

    train(tmp_path, system=Recorded, progress=True, log_every_n_steps=100)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    means = [sum(losses[start : start + 3]) / 3 for start in (0, 3, 6)]
    assert [float(line.split()[3]) for line in lines] == pytest.approx(means, abs=1e-4)


def test_pictures_are_drawn_after_validations_1_2_4_and_the_last(tmp_path: Path) -> None:
    class Drawn(TinyTask):
        def draw(self, system: System, data: TinyData, split: str, folder: Path) -> list[Path]:
            assert not any(module.training for module in system.modules())
            torch.rand(1)
            folder.mkdir(parents=True)
            file = folder / f"line_{split}.png"
            imsave(file, np.full((2, 3, 3), 0.5))
            return [file]

    logger = tensorboard(tmp_path)
    _, drawn = train(tmp_path, task=Drawn(), max_epochs=7, loggers=[logger])
    folders = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert folders == [f"epoch_{epoch:04d}" for epoch in (1, 2, 4, 7)]
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0})
    events.Reload()
    logged = events.Images("line_valid")
    assert [(of.step, of.height, of.width) for of in logged] == [(n, 2, 3) for n in (3, 6, 12, 21)]
    # Drawing takes nothing from the random streams of training.
    _, plain = train(tmp_path / "plain", max_epochs=7)
    assert _same(drawn, plain)
