from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.data.cluster_sampler import compose_labels
from core.data.resident import ResidentLoader
from core.systems.multistage_cl import MultistageCL, integrate
from core.tasks import probing
from tests.core.systems.sequences import Broken, assert_same, factors, last, staged, train

N_STEPS = 9  # of an epoch; a stage has two


class Watched(MultistageCL):
    """Writes down what every step sees."""

    def objective(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        terms = super().objective(batch)
        stage = int(self.stage)
        label = compose_labels(self.clusters[:stage], self.n_clusters)[batch["index"]]
        slots = [{k: v.clone() for k, v in s.state_dict().items()} for s in self.slots]
        current = {k: v.clone() for k, v in self.encoder.state_dict().items()}
        self.seen.append((stage, label, slots, current, batch["first"]))
        assert self.encoder.training
        return terms


def watched(**arguments: Any) -> tuple[Watched, Any]:
    system, task = staged(**arguments)
    system.__class__ = Watched
    system.seen = []
    return system, task


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, dict[str, Any]]:
    system, task = watched()
    return system, train(tmp_path_factory.mktemp("whole"), system, task)


def test_stages_share_the_epochs_and_agree_on_all_labels_so_far(whole: Any) -> None:
    system, _ = whole
    assert [stage for stage, *_ in system.seen] == [0] * 18 + [1] * 18 + [2] * 18
    for _, label, *_ in system.seen:
        assert len(label) == 8
        assert len(label.unique()) == 1
    assert len({int(label[0]) for _, label, *_ in system.seen[18:36]}) == 2
    assert len({int(label[0]) for _, label, *_ in system.seen[36:]}) >= 2
    assert any(len(first.unique()) == 2 for *_, first in system.seen[:18])


def test_later_batches_remember_the_clusters_of_all_stages() -> None:
    system, _ = staged()
    data = factors()
    rows = data.splits["train"]
    system.stage.fill_(2)
    for stage, name in enumerate(("first", "label")):
        system.clusters[stage] = data.labels[name][rows]
    system._trainer = SimpleNamespace(max_epochs=6)
    loader = ResidentLoader(data.columns("train"), 8, 0)
    loader.order = system.batch_order(loader.columns, 8, 0, 0, 1)
    found = {
        (tuple(batch["first"].unique().tolist()), tuple(batch["label"].unique().tolist()))
        for batch in loader
    }
    assert found == {((a,), (b,)) for a in (0, 1) for b in (0, 1)}


def test_a_finished_stage_stays_as_it_was_and_a_new_one_starts_afresh(whole: Any) -> None:
    system, checkpoint = whole
    initial = staged()[0]
    for stage in (1, 2):
        begin = system.seen[18 * stage]
        assert_same(begin[3], initial.slots[stage - 1][0].state_dict())
        before = system.seen[18 * stage - 1][3]
        kept = {k[2:]: v for k, v in begin[2][stage - 1].items() if k.startswith("0.")}
        assert any(not torch.equal(kept[name], before[name]) for name in kept)
        assert max(float((kept[name] - before[name]).abs().max()) for name in kept) < 0.05
        final = system.slots[stage - 1].state_dict()
        for seen in system.seen[18 * stage :]:
            assert_same(seen[2][stage - 1], final)
    # The moments are those of the last stage alone.
    states = checkpoint["optimizer_states"][0]["state"].values()
    assert {int(state["step"]) for state in states} == {18}


@pytest.mark.parametrize("start", ["previous", "first"])
def test_a_later_stage_may_go_on_from_an_earlier_one(tmp_path: Path, start: str) -> None:
    system, task = watched(start=start)
    train(tmp_path, system, task)
    for stage in (1, 2):
        _, _, slots, current, _ = system.seen[18 * stage]
        source = slots[stage - 1 if start == "previous" else 0]
        assert_same(current, {k[2:]: v for k, v in source.items() if k.startswith("0.")})


@pytest.mark.parametrize("at", [18, 23, 27, 41])
def test_a_run_broken_in_any_stage_goes_on_bit_for_bit(whole: Any, tmp_path: Path, at: int) -> None:
    """18 is between two stages: the next has not yet begun."""
    with pytest.raises(Broken):
        train(tmp_path, *staged(), break_at=at, checkpoint_every_n_steps=5)
    system, task = staged()
    resumed = train(tmp_path, system, task, resume=last(tmp_path), checkpoint_every_n_steps=5)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(resumed[part], whole[1][part], part)


def test_new_data_get_the_labels_of_the_clusters(whole: Any) -> None:
    system, data = whole[0].eval(), factors()
    train_rows = {"x": data.inputs["x"][data.splits["train"]]}
    expected = compose_labels(system.clusters, 2)
    assert torch.equal(system.pseudo_labels(train_rows), expected)
    test = {"x": data.inputs["x"][data.splits["test"]]}
    features = [slot[0](test["x"]).detach() for slot in system.slots]
    nearest = [
        (normalize(of, dim=1) @ centroids.T - centroids.square().sum(1) / 2).argmax(1)
        for of, centroids in zip(features, system.centroids, strict=True)
    ]
    assert torch.equal(system.pseudo_labels(test), 2 * nearest[0] + nearest[1])
    assert len(nearest[0].unique()) == 2


def test_the_stages_stand_side_by_side(whole: Any) -> None:
    system = whole[0].eval()
    batch = {"x": factors().inputs["x"]}
    stages = system.stages(batch)
    assert len(stages) == 3
    joint = system.embed(batch)["x"]
    torch.testing.assert_close(joint, normalize(torch.cat(stages, 1), dim=1))
    torch.testing.assert_close(
        system.part([1]).embed(batch)["x"], normalize(stages[1], dim=1), rtol=1e-5, atol=1e-6
    )
    # Raw, a stage of a large norm decides alone; each at unit length, none does.
    loud = [stages[0] * 1000, stages[1]]
    for normalized, share in ((False, 1.0), (True, 0.5)):
        both = integrate(loud, normalized)
        of_first = both[:, :4].square().sum(1)
        torch.testing.assert_close(of_first, torch.full_like(of_first, share), atol=1e-3, rtol=0)


def test_weights_and_stage_survive_saving(whole: Any, tmp_path: Path) -> None:
    system = whole[0].eval()
    system.__class__ = MultistageCL
    system.save_pretrained(tmp_path)
    read = MultistageCL.from_pretrained(tmp_path).eval()
    system.__class__ = Watched
    batch = {"x": factors().inputs["x"]}
    assert torch.equal(read.embed(batch)["x"], system.embed(batch)["x"])
    assert torch.equal(read.pseudo_labels(batch), system.pseudo_labels(batch))


def test_one_cluster_is_an_ensemble_on_ordinary_batches(tmp_path: Path) -> None:
    system, task = watched(n_clusters=1)
    train(tmp_path, system, task)
    assert {int(system.kept * 100)} == {100}
    for stage in range(3):
        mixed = [len(first.unique()) for *_, first in system.seen[18 * stage : 18 * stage + 18]]
        assert max(mixed) == 2
    members = [slot[0].state_dict() for slot in system.slots] + [system.encoder.state_dict()]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        name = next(iter(members[0]))
        assert not torch.allclose(members[one][name], members[other][name])


def test_the_share_of_rows_that_batches_are_made_of(tmp_path: Path) -> None:
    system, task = staged(n_clusters=7)
    train(tmp_path, system, task, max_epochs=2, batch_size_global=8)
    assert int(system.stage) == 1
    counts = torch.bincount(system.clusters[0], minlength=7)
    assert float(system.kept) == pytest.approx(float(counts[counts >= 8].sum()) / 72)
    assert 0 < float(system.kept) < 1


def test_labels_too_small_for_a_batch_are_refused_or_joined(tmp_path: Path) -> None:
    system, task = staged(n_clusters=16)
    with pytest.raises(DataError, match="no label has the 36 rows of a batch"):
        train(tmp_path / "apart", system, task, batch_size_global=36)
    system, task = staged(n_clusters=16, merge_small=True)
    train(tmp_path / "joined", system, task, batch_size_global=36)
    assert int(system.stage) == 2
    assert float(system.kept) > 0.9


@pytest.mark.parametrize(
    "arguments", [{"n_stages": 0}, {"n_clusters": 0}, {"start": "again"}], ids=str
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="scratch, previous or first"):
        staged(**arguments)


def test_more_clusters_than_rows_are_refused(tmp_path: Path) -> None:
    system, task = staged(n_clusters=80)
    with pytest.raises(DataError, match=r"system\.n_clusters=80\n.*the 72 training rows"):
        train(tmp_path, system, task)


def test_probing_looks_at_every_stage_alone(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PENALTIES", (1e-2,))  # twelve probes: which one is not asked
    system, data, (_, task) = whole[0].eval(), factors(), staged()
    metrics = task.evaluate(system, data, "test").metrics
    for part in ("stage_0", "stage_1", "stage_2", "stages_0_1"):
        assert {f"linear_accuracy/{part}", f"linear_accuracy/first/{part}"} <= metrics.keys()
    alone = task.evaluate(system.part([1]), data, "test").metrics
    assert metrics["knn_accuracy/stage_1"] == alone["knn_accuracy"]
    assert metrics["knn_accuracy/first/stage_1"] == alone["knn_accuracy/first"]
    assert not any("stage" in name for name in task.evaluate(system, data, "valid").metrics)
