import pytest
import torch
from torch import Tensor

from core.data.samples import Samples
from core.tasks.transformed_classification import TransformedClassification
from core.trainers.system import System


class Two(System):
    """Right where it sees copies, wrong by one class from the sample alone."""

    def predict(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.one_hot(batch["x"][:, 0].long(), 3).float()

    def predict_single(self, batch: dict[str, Tensor]) -> Tensor:
        return self.predict(batch).roll(1, 1)


class One(System):
    def predict(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.one_hot(batch["x"][:, 0].long(), 3).float()


def data() -> Samples:
    label = torch.arange(12) % 3
    splits = dict(zip(("train", "valid", "test"), torch.arange(12).tensor_split(3), strict=True))
    return Samples({"x": label[:, None].float()}, {"label": label}, splits, [str(i) for i in label])


def test_validation_is_from_one_pass_and_the_test_from_all() -> None:
    task = TransformedClassification()
    assert task.evaluate(Two(), data(), "valid").metrics["accuracy"] == 0
    found = task.evaluate(Two(), data(), "test").metrics
    assert (found["accuracy"], found["single_accuracy"]) == (1, 0)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_system_of_one_prediction_is_evaluated_as_usual(split: str) -> None:
    found = TransformedClassification().evaluate(One(), data(), split).metrics
    assert found["accuracy"] == 1
    assert "single_accuracy" not in found


def test_without_an_augmentation_training_sees_the_images_as_they_are() -> None:
    system = Two()
    system.n_views = 1
    (batch,) = TransformedClassification().train_loader(system, data(), 4, seed=0)
    assert torch.equal(batch["views"][0], batch["x"])
    assert sorted(batch["x"].flatten().tolist()) == [0, 0, 1, 2]
