import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from core.checkpoints import read_checkpoint
from core.data.resident import ResidentLoader
from core.evaluation.rank import rankme
from core.trainers import System
from core.trainers.log import LogCSV
from core.trainers.monitors import OnlineMonitors, judge, probe_scores, rank_of_rows
from tests.core.trainers.tiny import Tiny, TinyData, TinyTask, tiny_data, train

ROWS = 60


class LabelTask(TinyTask):
    """The sign of the first column is the class."""

    def __init__(self, label: Callable[[TinyData], Tensor] | None = None) -> None:
        super().__init__()
        self.label = label or (lambda data: (data.x[:, 0] > 0).long())

    def train_loader(
        self, system: System, data: Any, batch_size: int, seed: int, rank: int, world_size: int
    ) -> ResidentLoader:
        loader = super().train_loader(system, data, batch_size, seed, rank, world_size)
        columns = loader.columns | {"label": self.label(data)}
        return ResidentLoader(columns, batch_size, seed, rank, world_size)


class Seen(Tiny):
    """Shows its first layer to the monitors."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, Tensor]] = []

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.latest = {"features": self.show(batch).detach()}
        self.shown.append(batch | self.latest)
        return super().objective(batch)

    def show(self, batch: dict[str, Tensor]) -> Tensor:
        return self.hidden(batch["x"] - self.mean)


class Collapsed(Seen):
    """All rows are alike but for noise."""

    def show(self, batch: dict[str, Tensor]) -> Tensor:
        return 1 + 1e-6 * super().show(batch)


def _train(run_dir: Path, **options: Any) -> tuple[list[dict[str, str]], System]:
    options = {"system": Seen, "data": tiny_data(ROWS), "task": LabelTask()} | options
    loggers = [LogCSV(run_dir)]
    _, system = train(run_dir, loggers=loggers, batch_size_global=8, **options)
    with (run_dir / "log.csv").open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row.get("online/rankme")], system


def _clusters(n: int, dim: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (n,), generator=generator)
    centres = spread * torch.randn(4, dim, generator=torch.Generator().manual_seed(0))
    return centres[label] + torch.randn(n, dim, generator=generator), label


def test_training_is_the_same_without(tmp_path: Path) -> None:
    rows, seen = _train(tmp_path / "seen")
    _, unseen = _train(tmp_path / "unseen", system=Tiny)
    assert len(rows) == 1
    for name, weight in unseen.state_dict().items():
        assert torch.equal(seen.state_dict()[name], weight), name
    assert "online" not in (tmp_path / "unseen" / "log.csv").read_text()


def test_short_epochs_are_looked_at_every_hundred_batches_and_at_the_end(tmp_path: Path) -> None:
    rows, _ = _train(tmp_path, max_epochs=30)
    assert [row["epoch"] for row in rows] == ["12", "25", "29"]


def test_the_numbers_are_those_of_the_last_epoch_by_other_libraries(tmp_path: Path) -> None:
    (row,), system = _train(tmp_path)
    shown = system.shown[-8:]
    features, label, index = (
        torch.cat([batch[name] for batch in shown]).double().numpy()
        for name in ("features", "label", "index")
    )
    assert sorted(index) == list(range(ROWS))
    judges = judge(torch.from_numpy(index).long()).numpy()
    assert 4 < judges.sum() < 24

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    neighbours = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    neighbours.fit(unit[~judges], label[~judges])
    knn = neighbours.score(unit[judges], label[judges])
    assert float(row["online/knn"]) == pytest.approx(knn)

    scaler = StandardScaler().fit(features[~judges])
    ridge = Ridge(alpha=0.1 * (~judges).sum()).fit(
        scaler.transform(features[~judges]), np.eye(2)[label[~judges].astype(int)]
    )
    scores = ridge.predict(scaler.transform(features[judges]))
    probe = (scores.argmax(1) == label[judges]).mean()
    assert float(row["online/probe"]) == pytest.approx(probe)
    assert float(row["online/rankme"]) == pytest.approx(float(rankme(torch.from_numpy(features))))


@pytest.mark.parametrize("shape", [(80, 6), (40, 90)])
def test_the_probe_is_a_ridge_regression(shape: tuple[int, int]) -> None:
    x, label = _clusters(*shape, seed=1)
    queries, _ = _clusters(30, shape[1], seed=2)
    scaler = StandardScaler().fit(x.double().numpy())
    expected = Ridge(alpha=0.1 * len(x)).fit(scaler.transform(x.double()), np.eye(4)[label])
    expected = expected.predict(scaler.transform(queries.double()))
    np.testing.assert_allclose(probe_scores(x, label, queries, 4), expected, atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_dead_and_far_away_features_do_not_break_the_probe() -> None:
    x, label = _clusters(100, 5, seed=1, spread=4)
    queries, target = _clusters(100, 5, seed=2, spread=4)
    broken = [torch.cat([z, torch.full((100, 1), 3.0)], 1) * 1e-4 + 10 for z in (x, queries)]
    scores = probe_scores(broken[0], label, broken[1], 4)
    assert float((scores.argmax(1) == target).float().mean()) > 0.9
    constant = probe_scores(torch.ones(100, 5), label, torch.ones(3, 5), 4)
    torch.testing.assert_close(constant[0], label.bincount() / 100)


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (50, 50)])
def test_rank_of_rows_is_rankme(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(*shape, generator=generator)
    low = torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, shape[1])
    for rows in (z, z + 50, low.double(), torch.zeros(shape)):
        assert rank_of_rows(rows) == pytest.approx(float(rankme(rows)), rel=1e-5)


@pytest.mark.parametrize("period", [1, 2, 5, 10, 1000])
def test_a_fifth_of_every_class_judges_also_where_classes_take_turns(period: int) -> None:
    index = torch.arange(100_000)
    share = torch.stack([judge(index)[start::period].float().mean() for start in range(period)])
    assert float((share - 0.2).abs().max()) < (0.02 if period <= 10 else 0.15)


def test_what_was_learnt_by_heart_does_not_count(tmp_path: Path) -> None:
    """As many dimensions as rows: any labels can be fitted, on the rows that are fitted."""
    identity = torch.eye(ROWS)

    class ByHeart(Seen):
        def show(self, batch: dict[str, Tensor]) -> Tensor:
            return identity[batch["index"]]

    chance = LabelTask(
        lambda data: torch.randint(3, (ROWS,), generator=torch.Generator().manual_seed(0))
    )
    (row,), _ = _train(tmp_path, system=ByHeart, task=chance)
    assert float(row["online/probe"]) < 0.7
    assert float(row["online/knn"]) < 0.7


@pytest.mark.parametrize(
    "label",
    [
        lambda data: data.x[:, 0],
        lambda data: (data.x > 0).long(),
        lambda data: torch.full((ROWS,), -1),
    ],
    ids=["a number", "several classes", "unknown"],
)
def test_without_classes_only_the_rank_is_logged(
    tmp_path: Path, label: Callable[[TinyData], Tensor]
) -> None:
    (row,), _ = _train(tmp_path, task=LabelTask(label))
    assert [name for name in row if name.startswith("online/")] == ["online/rankme"]


def test_names_of_classes_may_be_any_numbers_and_some_may_be_missing(tmp_path: Path) -> None:
    plain, _ = _train(tmp_path / "plain")
    gaps, _ = _train(
        tmp_path / "gaps", task=LabelTask(lambda data: 10**12 * (data.x[:, 0] > 0).long() + 7)
    )
    assert gaps == plain
    partly, _ = _train(
        tmp_path / "partly",
        task=LabelTask(lambda data: torch.where(data.x[:, 1] > 0, (data.x[:, 0] > 0).long(), -1)),
    )
    assert partly[0]["online/rankme"] == plain[0]["online/rankme"]
    assert 0.5 < float(partly[0]["online/knn"]) <= 1


def test_only_the_last_rows_are_kept() -> None:
    class Epoch:
        is_global_zero, current_epoch, max_epochs, num_training_batches = True, 0, 1, 5

    monitors = OnlineMonitors(rows=10)
    system = Seen()
    for step in range(5):
        tokens = torch.full((4, 7, 2), float(step), dtype=torch.bfloat16)
        system.latest = {"features": tokens[:, 0]}
        monitors.on_train_batch_end(Epoch, system, None, {}, step)
    kept = monitors.state_dict()
    assert kept["features"][:, 0].tolist() == [2, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    assert kept["features"].dtype == torch.float32
    assert kept.keys() == {"features"}


@pytest.mark.parametrize("killed_at", [1, 5, 7])
def test_a_resumed_run_logs_the_same(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = _train(tmp_path / "unbroken", max_epochs=1)

    class Killed(BaseException):
        pass

    class Dying(Seen):
        def show(self, batch: dict[str, Tensor]) -> Tensor:
            if self.trainer.global_step == killed_at:
                raise Killed
            return super().show(batch)

    run = tmp_path / "run"
    with pytest.raises(Killed):
        _train(run, system=Dying, max_epochs=1, checkpoint_every_n_steps=1)
    last = run / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == killed_at
    found, _ = _train(run, max_epochs=1, resume=last, chance=99)
    assert found == expected
    # At the end of an epoch there is nothing to keep.
    assert "OnlineMonitors" not in read_checkpoint(last)["callbacks"]


def test_a_collapse_is_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="collapsing") as caught:
        rows, _ = _train(tmp_path, system=Collapsed, max_epochs=30)
    assert len(rows) == 3
    (message,) = [str(w.message) for w in caught if "collapsing" in str(w.message)]
    assert "its 8 dimensions have a RankMe of 1.0" in message
    assert "after epoch 13" in message
    assert "optimizer.lr" in message


def test_a_representation_that_is_alive_is_not_warned_of(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsing")
        (row,), _ = _train(tmp_path)
    assert float(row["online/rankme"]) > 2


def test_the_epoch_line_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _train(tmp_path, progress=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert ["online/knn 0." in line or "online/knn 1." in line for line in lines] == [
        *(False, False, True)
    ]
