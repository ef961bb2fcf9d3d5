import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from remote_sensing.systems.targets import Classes, Labels, Values
from tests.remote_sensing.sensors import series


def test_classes_are_weighed_by_the_training_rows_alone() -> None:
    data = series(32)
    train = data.columns("train")
    expected = compute_class_weight(
        "balanced", classes=np.arange(3), y=train["label"].numpy()
    ).astype("float32")
    classes = Classes(3)
    classes.prepare(train)
    torch.testing.assert_close(classes.weights, torch.from_numpy(expected))
    assert classes.weights.unique().numel() > 1
    data.labels["label"][data.splits["test"]] = 0
    data.labels["label"][data.splits["valid"]] = 1
    again = Classes(3)
    again.prepare(data.columns("train"))
    assert torch.equal(again.weights, classes.weights)


def test_a_class_that_no_training_row_has_changes_no_other_weight() -> None:
    three, four = Classes(3), Classes(4)
    label = torch.tensor([0, 0, 1, 2, 2, 2, -1])
    three.prepare({"label": label})
    four.prepare({"label": label})
    assert torch.equal(four.weights[:3], three.weights)
    assert four.weights[3] == 1


def test_cross_entropy_leaves_out_what_has_no_label() -> None:
    classes, logits = Classes(3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    classes.weights.copy_(torch.tensor([0.5, 1.0, 2.0]))
    label = torch.tensor([0, 2, 1, -1, 2])
    known = label >= 0
    expected = F.cross_entropy(logits[known], label[known], classes.weights)
    torch.testing.assert_close(classes.cost(logits, {"label": label}), expected)
    nothing = classes.cost(logits.requires_grad_(), {"label": torch.full((5,), -1)})
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()
    # A batch of one keeps its axis.
    one = classes.cost(logits[:1], {"label": label[:1]})
    torch.testing.assert_close(one, F.cross_entropy(logits[:1], label[:1]))


def test_labels_are_on_or_off_each_by_itself() -> None:
    logits, target = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    p = torch.sigmoid(logits)
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(Labels(3).cost(logits, {"target": target}), expected)


def test_values_are_compared_in_deviations_of_the_training() -> None:
    # Moisture as published has the mean 103.9868 and the deviation 39.562313.
    values, mean, deviation = Values(1), 103.9868, 39.562313
    train = mean + deviation * torch.tensor([[-1.0], [1.0]])
    values.prepare({"target": train})
    assert values.deviation.item() == pytest.approx(deviation, rel=1e-6)
    y, p = torch.tensor([[80.0], [150.0]]), torch.tensor([[100.0], [90.0]])
    standardised = [(x - mean) / deviation for x in (p, y)]
    torch.testing.assert_close(values.cost(p, {"target": y}), F.mse_loss(*standardised))
    values.prepare({"target": torch.full((3, 1), 7.0)})
    assert values.deviation == 1
