import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import Samples
from core.systems.simclr import SimCLR
from core.tasks.classification import Classification, predict_all
from core.trainers.system import Batch, System


class Linear(System):
    """The scores are the samples themselves; each batch gets a number for all processes."""

    def predict(self, batch: Batch) -> Tensor:
        return batch["x"]

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        return batch | {"chance": draws.shared(0, 1)}


def samples(n: int = 3000) -> Samples:
    g = torch.Generator().manual_seed(0)
    label = torch.randint(-1, 4, (n,), generator=g)
    x = torch.randn(n, 4, generator=g)
    known = label >= 0
    x[known] += torch.nn.functional.one_hot(label[known], 4)
    order = torch.randperm(n, generator=g)
    splits = {"train": order[:8], "valid": order[8:12], "test": order[12:].sort().values}
    other = torch.full((n,), -1)
    ids = [f"{i:05}" for i in range(n)]
    return Samples({"x": x}, {"label": label, "other": other}, splits, ids)


def test_the_samples_with_a_label_are_evaluated() -> None:
    data = samples()
    found = Classification().evaluate(Linear(), data, "test")
    rows = data.splits["test"][data.labels["label"][data.splits["test"]] >= 0]
    true, said = data.labels["label"][rows], data.inputs["x"][rows].argmax(1)
    assert 1000 < len(rows) < len(data.splits["test"])
    assert found.metrics == pytest.approx(
        {
            "accuracy": (true == said).float().mean().item(),
            "balanced_accuracy": balanced_accuracy_score(true, said),
            "macro_f1": f1_score(true, said, average="macro"),
            "weighted_f1": f1_score(true, said, average="weighted"),
        }
    )
    assert found.unit == "sample"
    assert found.unit_ids.tolist() == [data.ids[row] for row in rows]
    np.testing.assert_allclose(found.per_unit["accuracy"], (true == said).double())


def test_images_are_predicted_as_floats() -> None:
    data = samples(40)
    images = torch.arange(40, dtype=torch.uint8).view(40, 1).repeat(1, 4) * 5
    whole = Samples({"x": images}, data.labels, data.splits, data.ids)
    scores = predict_all(Linear(), whole, torch.tensor([3, 7]))
    torch.testing.assert_close(scores, torch.tensor([[15.0] * 4, [35.0] * 4]) / 255)


def test_a_system_draws_for_the_batch_as_a_whole() -> None:
    data = samples(40)
    loaders = [Classification().train_loader(Linear(), data, 4, 0, rank, 2) for rank in range(2)]
    chance = [[float(batch["chance"]) for batch in loader] for loader in loaders]
    assert chance[0] == chance[1]
    assert len(set(chance[0])) == 2


def test_refuses_what_it_cannot_evaluate() -> None:
    data = samples(40)
    with pytest.raises(DataError, match="SimCLR predicts no classes"):
        Classification().evaluate(SimCLR({"x": [4]}), data, "test")
    with pytest.raises(DataError, match="no sample of the test split has a other"):
        Classification(label="other").evaluate(Linear(), data, "test")
    with pytest.raises(DataError, match=r"has a colour\n.*label, other"):
        Classification(label="colour").evaluate(Linear(), data, "test")
    with pytest.raises(DataError, match=r"task.monitor=auc"):
        Classification(monitor="auc")
    trained = Linear()
    trained.shapes = {"x": [5]}
    with pytest.raises(DataError, match=r"samples of \{'x': \[4\]\}"):
        Classification().evaluate(trained, data, "test")
