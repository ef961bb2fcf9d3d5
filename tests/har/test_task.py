from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.index import NeighbourIndex
from core.evaluation.linear_probe import PENALTIES, LinearProbe
from core.evaluation.readout import label_budget
from core.trainers.system import Batch, System
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows
from har.systems.cmc import CMC
from har.task import ActivityRecognition
from tests.har.generated import SMALL, windows

NOISY = windows(noise=2.5)
LABELS, SUBJECTS = NOISY.labels["label"], NOISY.labels["subject"]


class Raw(System):
    """The features are the windows themselves."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {k: v.flatten(1) for k, v in batch.items() if k in (SKELETON, IMU)}


class Compared(Raw):
    """One joint and three channels in the place of projections."""

    def project(self, batch: Batch) -> dict[str, Tensor]:
        return {SKELETON: batch[SKELETON][..., 0].flatten(1), IMU: 5 * batch[IMU][:, :3].flatten(1)}


class Told(System):
    """Scores that are right for about two of three windows."""

    n_views = 1

    def __init__(self) -> None:
        super().__init__()
        self.g = torch.Generator().manual_seed(3)

    def predict(self, batch: Batch) -> Tensor:
        return batch[IMU][:, :4].mean(2) + torch.randn(len(batch[IMU]), 4, generator=self.g)


def changed(data: Windows, **labels: Tensor) -> Windows:
    parts = vars(data) | {"labels": data.labels | labels}
    return Windows(**parts)


def without(data: Windows, split: str) -> Windows:
    return Windows(**vars(data) | {"splits": data.splits | {split: data.splits[split][:0]}})


class Faint(Raw):
    """The windows, and beside them so many faint numbers that say nothing."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        told = super().embed(batch)[IMU]
        noise = torch.randn(len(told), 2000, generator=torch.Generator().manual_seed(0))
        return {IMU: torch.cat([told, 1e-3 * noise], 1)}


def probed(train: Tensor, penalties: Sequence[float] = PENALTIES) -> float:
    """Accuracy on the test windows of one probe in which both sensors weigh the same."""
    valid, test = (NOISY.splits[s] for s in ("valid", "test"))
    parts = [values.flatten(1) for values in NOISY.inputs.values()]
    x, groups = torch.cat(parts, 1), [part.shape[1] for part in parts]
    teach, judge = (x[train], LABELS[train]), (x[valid], LABELS[valid])
    probe = LinearProbe.fit(*teach, *judge, penalties, groups=groups)
    return probe.accuracy(x[test], LABELS[test])


class TestEvaluation:
    def test_every_subject_has_a_row_and_the_last_two_say_mean_and_sd(self) -> None:
        found = ActivityRecognition().evaluate(Told(), NOISY, "test")
        rows = NOISY.splits["test"]
        truth, who = LABELS[rows].numpy(), SUBJECTS[rows].numpy()
        scores = Told().predict({k: v[rows] for k, v in NOISY.inputs.items()})
        said = scores.argmax(1).numpy()
        assert found.metrics["accuracy"] == pytest.approx(accuracy_score(truth, said))
        assert found.metrics["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))
        *people, mean, sd = found.table
        assert [row["subject"] for row in people] == ["s4", "s10"]
        assert found.unit_ids.tolist() == ["s4", "s10"]
        expected = []
        for row, number in zip(people, (3, 4), strict=True):
            own = who == number
            assert row["windows"] == own.sum() == 24
            accuracy = accuracy_score(truth[own], said[own])
            macro_f1 = f1_score(truth[own], said[own], average="macro")
            assert (row["accuracy"], row["macro_f1"]) == pytest.approx((accuracy, macro_f1))
            expected.append((accuracy, macro_f1))
        assert mean["subject"] == "mean" and sd["subject"] == "SD"
        for place, name in enumerate(("accuracy", "macro_f1")):
            values = [pair[place] for pair in expected]
            assert len(set(values)) == 2
            assert mean[name] == pytest.approx(np.mean(values))
            assert sd[name] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2))
            assert np.mean(found.per_unit[name]) == pytest.approx(found.metrics[name])
        assert np.array_equal(found.confusion.counts, confusion_matrix(truth, said))
        assert found.confusion.classes == NOISY.classes["label"]

    def test_one_subject_has_no_deviation(self) -> None:
        table = ActivityRecognition().evaluate(Told(), NOISY, "valid").table
        assert [row["subject"] for row in table] == ["s3", "mean"]

    @pytest.mark.parametrize("classifier", ["linear", "mlp"])
    def test_the_test_labels_judge_and_do_nothing_else(self, classifier) -> None:
        task = ActivityRecognition(classifier=classifier)
        turned = LABELS.clone()
        turned[NOISY.splits["test"]] = (LABELS[NOISY.splits["test"]] + 1) % 4
        other = changed(NOISY, label=turned)
        one, two = (task.evaluate(Raw(), data, "test") for data in (NOISY, other))
        assert np.array_equal(two.confusion.counts, np.roll(one.confusion.counts, 1, axis=0))
        assert one.metrics["accuracy"] > 0.4 > two.metrics["accuracy"]
        one, two = (task.evaluate(Raw(), data, "valid") for data in (NOISY, other))
        assert one.metrics == two.metrics
        emptied = task.evaluate(Raw(), NOISY.without_test(), "valid")
        assert emptied.metrics == one.metrics

    def test_validation_does_not_depend_on_the_classifier(self) -> None:
        tasks = [
            ActivityRecognition(classifier=name, label_fractions=[0.5])
            for name in ("linear", "mlp", "fine_tuned")
        ]
        metrics = [task.evaluate(Raw(), NOISY, "valid").metrics for task in tasks]
        assert metrics[0] == metrics[1] == metrics[2]
        assert metrics[0].keys() == {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"}

    def test_the_probe_is_chosen_on_the_validation_subjects(self) -> None:
        found = ActivityRecognition().evaluate(Raw(), NOISY, "test").metrics
        assert found["accuracy"] == pytest.approx(probed(NOISY.splits["train"]))
        assert len({probed(NOISY.splits["train"], [penalty]) for penalty in (10.0, 1e-4)}) == 2

    def test_features_that_hardly_vary_count_for_little_where_they_keep_their_proportions(
        self,
    ) -> None:
        data = windows(noise=1.2)
        alike, kept = (
            ActivityRecognition(standardize_features=each).evaluate(Faint(), data, "test").metrics
            for each in (True, False)
        )
        assert kept["accuracy"] > alike["accuracy"] + 0.1

    @pytest.mark.parametrize("classifier", ["linear", "mlp"])
    def test_without_validation_subjects_a_classifier_still_learns(self, classifier) -> None:
        data = without(windows(noise=0.5), "valid")
        task = ActivityRecognition(classifier=classifier)
        assert not task.has_split(data, "valid")
        assert task.evaluate(Raw(), data, "test").metrics["accuracy"] > 0.6

    def test_one_sensor_of_a_system_of_both(self) -> None:
        whole, alone = windows(noise=1.2), windows((IMU,), noise=1.2)
        for classifier in ("linear", "mlp"):
            task = ActivityRecognition(classifier=classifier, modalities=[IMU])
            both = ActivityRecognition(classifier=classifier)
            found = task.evaluate(Raw(), whole, "test")
            expected = both.evaluate(Raw(), alone, "test")
            assert found.metrics == expected.metrics
            assert found.metrics != both.evaluate(Raw(), whole, "test").metrics
        with pytest.raises(DataError, match=r"(?s)modalities=\['sound'\].*skeleton, imu"):
            ActivityRecognition(modalities=["sound"]).evaluate(Raw(), NOISY, "test")

    def test_fewer_labels_are_the_mean_over_draws_that_all_systems_share(self) -> None:
        task = ActivityRecognition(label_fractions=[0.25], labels_per_class=[1], n_draws=2)
        found = task.evaluate(Raw(), NOISY, "test")
        train = NOISY.splits["train"]
        for name, size, count in (
            ("25_percent", {"share": 0.25, "per_class": None}, 3),
            ("1_per_class", {"share": None, "per_class": 1}, 1),
        ):
            accuracies = []
            for seed in range(2):
                some = train[label_budget(LABELS[train], seed=seed, **size)]
                assert LABELS[some].bincount().tolist() == [count] * 4
                accuracies.append(probed(some))
            assert found.metrics[f"accuracy/{name}"] == pytest.approx(np.mean(accuracies))
            assert found.per_unit[f"accuracy/{name}"].mean() == pytest.approx(np.mean(accuracies))
        names = {name for name in found.metrics if "/" not in name}
        assert found.metrics.keys() == {
            f"{name}{budget}" for name in names for budget in ("", "/25_percent", "/1_per_class")
        }

    def test_validation_draws_labels_where_the_monitor_asks(self) -> None:
        task = ActivityRecognition(
            monitor="accuracy/1_per_class", labels_per_class=[1, 2], n_draws=2
        )
        metrics = task.evaluate(Raw(), NOISY, "valid").metrics
        assert {"accuracy", "accuracy/1_per_class"} <= metrics.keys()
        assert not any(name.endswith("2_per_class") for name in metrics)

    def test_windows_without_label_neither_teach_nor_judge(self) -> None:
        hidden = LABELS.clone()
        some = torch.cat([NOISY.splits["train"][::3], NOISY.splits["test"][::5]])
        hidden[some] = -1
        kept = {name: rows[~torch.isin(rows, some)] for name, rows in NOISY.splits.items()}
        fewer = Windows(**vars(NOISY) | {"splits": kept})
        task = ActivityRecognition()
        for split in ("valid", "test"):
            one = task.evaluate(Raw(), changed(NOISY, label=hidden), split)
            assert one.metrics == task.evaluate(Raw(), fewer, split).metrics
        unknown = torch.full_like(LABELS, -1)
        with pytest.raises(DataError, match="the test split has no labelled window"):
            task.evaluate(Raw(), changed(NOISY, label=unknown), "test")
        hidden = LABELS.clone()
        hidden[NOISY.splits["train"]] = -1
        with pytest.raises(DataError, match="no window of the training split has a label"):
            task.evaluate(Raw(), changed(NOISY, label=hidden), "test")

    def test_fine_tuning_changes_a_copy(self) -> None:
        torch.manual_seed(0)
        task = ActivityRecognition(classifier="fine_tuned")
        data = windows(noise=1.5)
        system = CMC.of(task.system_arguments(data), encoder=SMALL, hidden_dim=8, dim=4).eval()
        before = {name: value.clone() for name, value in system.state_dict().items()}
        random = torch.get_rng_state()
        tuned = task.evaluate(system, data, "test").metrics
        assert torch.equal(torch.get_rng_state(), random)
        for name, value in system.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not system.training
        assert all(weight.grad is None for weight in system.parameters())
        frozen = ActivityRecognition(classifier="mlp").evaluate(system, data, "test").metrics
        assert tuned["accuracy"] > frozen["accuracy"] + 0.05
        assert task.evaluate(system, data, "test").metrics == tuned


class TestRetrieval:
    def test_across_sensors_is_what_a_loop_finds(self) -> None:
        data = windows(noise=1.0)
        found = ActivityRecognition(monitor="class_retrieval@1").evaluate(Compared(), data, "test")
        rows = data.splits["test"].tolist()
        first, second = (
            data.inputs[SKELETON][..., 0].flatten(1).double(),
            data.inputs[IMU][:, :3].flatten(1).double(),
        )
        label, who = data.labels["label"].tolist(), data.labels["subject"].tolist()
        same_class, same_clip = [], []
        for one, other in ((first, second), (second, first)):
            for row in rows:
                cosines = torch.cosine_similarity(one[row][None], other[rows], dim=1)
                near = rows[int(cosines.argmax())]
                same_class.append((label[near] == label[row], who[row]))
                same_clip.append(near == row)
        hits = [hit for hit, _ in same_class]
        assert 0 < sum(hits) < len(hits)
        assert found.metrics["class_retrieval@1"] == pytest.approx(np.mean(hits))
        assert found.metrics["clip_retrieval@1"] == pytest.approx(np.mean(same_clip))
        per_subject = [np.mean([hit for hit, of in same_class if of == n]) for n in (3, 4)]
        assert found.per_unit["class_retrieval@1"].tolist() == pytest.approx(per_subject)

    @pytest.mark.parametrize("exact", [True, False])
    def test_search_goes_from_either_sensor_to_the_other(self, exact: bool) -> None:
        data, task = windows(noise=1.0), ActivityRecognition()
        index = None
        if not exact:
            spaces = task.index_spaces(Compared(), data)
            vectors = {name: pair[0].numpy() for name, pair in spaces.items()}
            index = NeighbourIndex(vectors, "weights", "exact")
            for name, other in ((SKELETON, IMU), (IMU, SKELETON)):
                assert torch.equal(spaces[name][1], spaces[other][0])
        first = torch.nn.functional.normalize(data.inputs[SKELETON][..., 0].flatten(1), dim=1)
        second = torch.nn.functional.normalize(data.inputs[IMU][:, :3].flatten(1), dim=1)
        cosines = first @ second.T
        for kind, target, scores in (
            (SKELETON, IMU, cosines[17]),
            (IMU, SKELETON, cosines[:, 17]),
        ):
            rows = task.search(Compared(), data, f"{kind}:w17", 5, index)
            expected = scores.argsort(descending=True)[:5].tolist()
            assert [row[target] for row in rows] == [f"w{i}" for i in expected]
            assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
            best = [row["cosine"] for row in rows]
            assert best == pytest.approx(scores[expected].tolist(), abs=1e-5)
            for row, i in zip(rows, expected, strict=True):
                assert row["label"] == f"class {int(data.labels['label'][i])}"
                assert row["subject"] == data.classes["subject"][int(data.labels["subject"][i])]

    def test_more_than_there_are_gives_all(self) -> None:
        data, task = windows(repeats=1), ActivityRecognition()
        spaces = task.index_spaces(Compared(), data)
        vectors = {name: pair[0].numpy() for name, pair in spaces.items()}
        index = NeighbourIndex(vectors, "weights", "hnsw")
        for found in (None, index):
            rows = task.search(Compared(), data, "imu:w3", 99, found)
            assert sorted(row[SKELETON] for row in rows) == sorted(data.ids)

    def test_one_sensor_finds_others_than_itself(self) -> None:
        data = windows((IMU,), noise=1.0)
        rows = ActivityRecognition().search(Raw(), data, "imu:w17", 4)
        assert len(rows) == 4
        assert "w17" not in [row[IMU] for row in rows]
        x = data.inputs[IMU].flatten(1)
        cosines = torch.cosine_similarity(x[17][None], x, dim=1)
        cosines[17] = -1
        assert rows[0][IMU] == f"w{int(cosines.argmax())}"

    def test_two_sensors_that_cannot_be_compared_are_searched_each_by_itself(self) -> None:
        data, task = windows(noise=1.0), ActivityRecognition()
        spaces = task.index_spaces(Raw(), data)
        assert all(torch.equal(*pair) for pair in spaces.values())
        index = NeighbourIndex({k: v.numpy() for k, (v, _) in spaces.items()}, "weights", "exact")
        for kind in (SKELETON, IMU):
            x = torch.nn.functional.normalize(data.inputs[kind].flatten(1), dim=1)
            cosines = x @ x[17]
            cosines[17] = -1
            nearest = [f"w{row}" for row in cosines.topk(3).indices.tolist()]
            for found in (None, index):
                rows = task.search(Raw(), data, f"{kind}:w17", 3, found)
                assert [row[kind] for row in rows] == nearest

    def test_what_was_found_is_drawn(self, tmp_path: Path) -> None:
        data, task = windows(noise=0.2), ActivityRecognition()
        sizes = []
        for k, query in ((1, "skeleton:w17"), (3, "imu:w17")):
            rows = task.search(Compared(), data, query, k)
            task.draw_search(data, query, rows, tmp_path / f"{k}.png")
            image = imread(tmp_path / f"{k}.png")[..., :3]
            assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
            sizes.append(image.shape[0])
        assert sizes[1] > 1.5 * sizes[0]
        task.draw_search(data, query, rows, tmp_path / "not/yet/there.png")
        assert (tmp_path / "not/yet/there.png").is_file()
        with pytest.raises(DataError, match=r"(?s)out=.*there.txt.*\.png"):
            task.draw_search(data, query, rows, tmp_path / "there.txt")

    def test_padding_the_other_sensor_and_unknown_activities_are_not_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        monkeypatch.setattr("har.data.pictures.draw_search", lambda *args: calls.append(args))
        lengths = torch.full((120,), 20)
        lengths[17] = 13
        label = LABELS.clone()
        label[[17, 18]] = -1
        data = changed(replace(windows(lengths=lengths), rate=10.0), label=label)
        rows = [{SKELETON: name, "cosine": 0.5} for name in ("w17", "w18", "w19")]
        ActivityRecognition().draw_search(data, "imu:w17", rows, tmp_path / "never.png")
        ((query, found, *_),) = calls
        assert query.skeleton is None
        assert query.imu.shape == (6, 13)
        assert np.array_equal(query.imu, data.inputs[IMU][17, :, :13].numpy())
        assert [hit.skeleton.shape[1] for hit in found] == [hit.imu.shape[1] for hit in found]
        assert [hit.imu.shape[1] for hit in found] == [13, 20, 20]
        assert [hit.seconds for hit in found] == [1.3, 2.0, 2.0]
        assert query.activity == found[0].activity == found[1].activity == ""
        assert found[2].activity == f"class {label[19]}"

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("sound:w1", "skeleton:ID or imu:ID"),
            ("w1", "skeleton:ID or imu:ID"),
            ("imu:", "skeleton:ID or imu:ID"),
            ("imu:w999", "one of 120 ids such as w0, w1, w2"),
        ],
    )
    def test_what_cannot_be_asked(self, query: str, words: str) -> None:
        with pytest.raises(DataError, match=words):
            ActivityRecognition().search(Compared(), windows(), query, 3)


class TestViews:
    def test_a_shorter_last_batch_is_left_out(self) -> None:
        task = ActivityRecognition()
        rows = [len(batch["index"]) for batch in task.train_loader(Told(), NOISY, 20, 0)]
        assert rows == [20, 20]

    def test_without_augmentation_a_view_is_the_window(self) -> None:
        def twice(x: Tensor, draws: Draws) -> Tensor:
            return 2 * x

        plain = next(iter(ActivityRecognition().train_loader(Told(), NOISY, 8, 0)))
        assert torch.equal(plain["views"][0], plain[SKELETON])
        both = ActivityRecognition({SKELETON: twice, IMU: twice})
        batch = next(iter(both.train_loader(Told(), NOISY, 8, 0)))
        assert torch.equal(batch["views/imu"][0], 2 * plain[IMU])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ActivityRecognition(monitor="loss"), "(?s)monitor=loss.*accuracy, "),
        (lambda: ActivityRecognition(monitor="accuracy/5_percent"), "label_fractions"),
        (lambda: ActivityRecognition(classifier="forest"), "(?s)forest.*linear, mlp or fine_tuned"),
        (lambda: ActivityRecognition(modalities=[]), r"task.modalities=\[\]"),
        (lambda: ActivityRecognition(label_fractions=[0.5, 0]), r"label_fractions=\[0.5, 0\]"),
        (lambda: ActivityRecognition(label_fractions=[1.5]), r"label_fractions=\[1.5\]"),
        (lambda: ActivityRecognition(labels_per_class=[3, 0]), r"labels_per_class=\[3, 0\]"),
        (lambda: ActivityRecognition(labels_per_class=[1], n_draws=0), "task.n_draws=0"),
    ],
)
def test_unknown_options_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        make()


@pytest.mark.parametrize("system", [Raw(), Told()])
def test_a_monitor_that_the_system_does_not_have_is_refused(system: System) -> None:
    task = ActivityRecognition(monitor="class_retrieval@1")
    words = rf"(?s)class_retrieval@1: not measured of {type(system).__name__}.*one of accuracy, "
    with pytest.raises(DataError, match=words):
        task.evaluate(system, NOISY, "valid")


def test_windows_of_other_shapes_are_refused() -> None:
    system = Raw()
    system.shapes = {SKELETON: [3, 50, 20], IMU: [6, 50]}
    with pytest.raises(DataError, match=r"(?s)samples of .*those of the training"):
        ActivityRecognition().evaluate(system, NOISY, "test")


def test_every_embedding_has_the_name_of_its_window() -> None:
    table = ActivityRecognition().embed(Raw(), NOISY)
    assert isinstance(NOISY, Samples)
    assert table["kind"].unique(maintain_order=True).to_list() == [SKELETON, IMU]
    assert table["id"].to_list() == NOISY.ids * 2
    vector = torch.tensor(table.row(120 + 7)[2])
    torch.testing.assert_close(vector, NOISY.inputs[IMU][7].flatten())
