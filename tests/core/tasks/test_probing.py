from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from core.augment.small_images import SmallImageViews
from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.index import NeighbourIndex
from core.evaluation.linear_probe import PENALTIES
from core.evaluation.rank import rankme
from core.systems.simclr import SimCLR
from core.tasks.probing import Probing
from core.tasks.samples import embed_all
from core.trainers.system import System


class Raw(System):
    """Vectors as they are, and twice their first two values as projections."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Identity()

    def embed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": batch["x"]}

    def project(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": 2 * batch["x"][:, :2]}


def clusters(n: int = 300, spread: float = 1.0) -> Samples:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(n) % 3
    x = torch.eye(5)[label] * 2 + spread * torch.randn(n, 5, generator=generator)
    splits = {
        "train": torch.arange(0, n // 3),
        "valid": torch.arange(n // 3, 2 * n // 3),
        "test": torch.arange(2 * n // 3, n),
    }
    ids = [f"id{i}" for i in range(n)]
    return Samples({"x": x}, {"label": label, "parity": torch.arange(n) % 2}, splits, ids)


def test_accuracies_are_those_of_other_classifiers() -> None:
    data = clusters()
    found = Probing(k=5).evaluate(Raw(), data, "test")
    x, y = (data.inputs["x"].numpy(), data.labels["label"].numpy())
    train, test = data.splits["train"].numpy(), data.splits["test"].numpy()
    valid = data.splits["valid"].numpy()
    x = (x - x[train].mean(0)) / x[train].std(0)
    fits = [
        LogisticRegression(C=1 / (penalty * len(train)), max_iter=5000).fit(x[train], y[train])
        for penalty in PENALTIES
    ]
    best = max(fits, key=lambda fit: fit.score(x[valid], y[valid]))
    # Of equally accurate penalties the two choices may differ.
    assert found.metrics["linear_accuracy"] == pytest.approx(best.score(x[test], y[test]), abs=0.07)
    assert found.metrics["linear_accuracy"] > 0.55
    assert 0.3 < found.metrics["linear_accuracy/parity"] < 0.75  # x says nothing of it
    expected = float(rankme(2 * data.inputs["x"][data.splits["test"]][:, :2]))
    assert found.metrics["rankme"] == pytest.approx(expected)


def test_values_of_the_samples_have_the_metric_as_their_mean() -> None:
    data = clusters()
    data.labels["label"][data.splits["test"][:4]] = -1
    found = Probing().evaluate(Raw(), data, "test")
    values = found.per_unit["knn_accuracy"]
    assert found.unit_ids.tolist() == data.ids[-100:]
    assert np.isnan(values[:4]).all() and not np.isnan(values[4:]).any()
    assert np.nanmean(values) == pytest.approx(found.metrics["knn_accuracy"])


def test_test_labels_are_for_judging_alone() -> None:
    """With the test labels turned round, every hit becomes a miss: nothing was fitted to them."""
    data, turned = clusters(spread=0.1), clusters(spread=0.1)
    turned.labels["label"][turned.splits["test"]] = (
        2 - turned.labels["label"][turned.splits["test"]]
    )
    right, wrong = (Probing().evaluate(Raw(), d, "test").metrics for d in (data, turned))
    assert right["linear_accuracy"] == right["knn_accuracy"] == 1
    stays = float((data.labels["label"][data.splits["test"]] == 1).float().mean())
    assert wrong["linear_accuracy"] == wrong["knn_accuracy"] == pytest.approx(stays)


def test_validation_fits_no_probe_unless_it_is_the_monitor() -> None:
    data = clusters().without_test()
    assert "linear_accuracy" not in Probing().evaluate(Raw(), data, "valid").metrics
    found = Probing(monitor="linear_accuracy").evaluate(Raw(), data, "valid").metrics
    assert found["linear_accuracy"] > 0.6


def test_data_without_labels_have_their_rank_alone() -> None:
    data = clusters()
    bare = Samples(data.inputs, {}, data.splits, data.ids)
    assert set(Probing(monitor="rankme").evaluate(Raw(), bare, "test").metrics) == {"rankme"}
    with pytest.raises(DataError, match=r"task.monitor=knn_accuracy.*no such labels"):
        Probing().evaluate(Raw(), bare, "test")
    with pytest.raises(DataError, match=r"task.monitor=accuracy"):
        Probing(monitor="accuracy")


def test_search_finds_the_nearest_by_cosine_and_never_itself() -> None:
    data, task = clusters(), Probing()
    x = torch.nn.functional.normalize(data.inputs["x"], dim=1)
    expected = (x @ x[7]).argsort(descending=True)[1:5].tolist()
    found = task.search(Raw(), data, "x:id7", 4)
    assert [row["id"] for row in found] == [data.ids[i] for i in expected]
    assert found[0]["label"] == str(int(data.labels["label"][expected[0]]))
    vectors = {k: v.numpy() for k, (v, _) in task.index_spaces(Raw(), data).items()}
    index = NeighbourIndex(vectors, "digest", "exact")
    by_index = task.search(Raw(), data, "x:id7", 4, index)
    assert [row["id"] for row in by_index] == [row["id"] for row in found]
    cosines = [row["cosine"] for row in found]
    assert [row["cosine"] for row in by_index] == pytest.approx(cosines, abs=1e-5)
    with pytest.raises(DataError, match="no such id"):
        task.search(Raw(), data, "x:id700", 4)
    with pytest.raises(DataError, match="x:ID"):
        task.search(Raw(), data, "y:id7", 4)


def test_embeddings_come_with_the_ids_of_the_files() -> None:
    data = clusters()
    table = Probing().embed(Raw(), data)
    assert table.columns == ["kind", "id", "embedding"]
    assert table["id"].to_list() == data.ids
    np.testing.assert_allclose(np.stack(table["embedding"].to_list()), data.inputs["x"].numpy())


def test_images_are_brought_to_0_to_1_wherever_a_system_sees_them() -> None:
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    rows = torch.arange(30)
    splits = {"train": rows[:10], "valid": rows[10:20], "test": rows[20:]}
    data = Samples({"image": images}, {"label": rows % 2}, splits, [str(i) for i in range(30)])
    task = Probing(SmallImageViews(noise=0.0, gain=(1.0, 1.0)))
    torch.manual_seed(0)
    system = SimCLR.of(task.system_arguments(data)).eval()
    batch = next(iter(task.train_loader(system, data, 10, seed=0)))
    assert batch["image"].dtype == batch["views"].dtype == torch.float32
    assert batch["views"].shape == (2, 10, 3, 8, 8)
    assert batch["views"].max() <= 1 and batch["image"].max() > 0.9
    expected = system.encoder(images.float() / 255)
    torch.testing.assert_close(embed_all(system, data)["image"], expected)


def test_views_without_augmentation_are_refused() -> None:
    data = clusters()
    system = SimCLR.of(Probing().system_arguments(data))
    with pytest.raises(DataError, match="SimCLR learns from augmented views of x"):
        Probing().train_loader(system, data, 10, seed=0)


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    system = SimCLR({"x": [7]})
    with pytest.raises(DataError, match=r"\{'x': \[7\]\}"):
        Probing().evaluate(system, clusters(), "test")
