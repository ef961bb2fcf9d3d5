import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from core.data.checks import DataError
from core.evaluation.classification import classification

pytestmark = pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")


def _problem(n=400, n_classes=5, seed=0):
    """Unbalanced classes; class 3 has no rows, class 4 is never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(n_classes, n, p=[0.5, 0.3, 0.15, 0, 0.05])
    scores = generator.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    scores[:, 4] = -np.inf
    return torch.from_numpy(scores), torch.from_numpy(labels)


def _peer(labels, predicted):
    return {
        "accuracy": accuracy_score(labels, predicted),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro", zero_division=0),
        "weighted_f1": f1_score(labels, predicted, average="weighted", zero_division=0),
    }


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn(seed):
    scores, labels = _problem(seed=seed)
    found = classification(scores, labels, range(400))
    expected = _peer(labels.numpy(), scores.argmax(1).numpy())
    assert found.metrics == pytest.approx(expected, abs=1e-12)
    for name, values in found.per_unit.items():
        assert values.mean() == pytest.approx(expected[name], abs=1e-12), name


def test_a_class_predicted_but_never_true_counts_in_f1_alone():
    labels = torch.tensor([0, 0, 1, 1])
    scores = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    found = classification(scores, labels, list("abcd"))
    assert found.metrics["balanced_accuracy"] == pytest.approx(0.75)
    assert found.metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found.metrics["weighted_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.unit_ids.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_allclose(found.per_unit["accuracy"], [1, 0, 1, 1], atol=1e-12)


def test_units_of_several_rows_bootstrap_to_the_spread_of_the_metric():
    scores, labels = _problem(n=600)
    generator = np.random.default_rng(1)
    subjects = generator.integers(0, 60, 600)
    found = classification(scores, labels, subjects, unit="subject")
    assert found.unit == "subject"
    assert found.unit_ids.tolist() == sorted(set(subjects.tolist()))
    for name, values in found.per_unit.items():
        assert values.mean() == pytest.approx(found.metrics[name], abs=1e-12)

    predicted, truth = scores.argmax(1).numpy(), labels.numpy()
    rows_of = [np.flatnonzero(subjects == subject) for subject in found.unit_ids]
    draws = []
    for _ in range(300):
        rows = np.concatenate([rows_of[i] for i in generator.integers(0, 60, 60)])
        draws.append(_peer(truth[rows], predicted[rows]))
    for name, values in found.per_unit.items():
        spread = np.std([draw[name] for draw in draws])
        # 300 draws know their spread to about 4 %.
        assert values.std() / np.sqrt(60) == pytest.approx(spread, rel=0.15), name


def test_order_of_the_rows_does_not_matter():
    scores, labels = _problem()
    ids = np.arange(400) // 3
    order = np.random.default_rng(2).permutation(400)
    one = classification(scores, labels, ids)
    other = classification(scores[order], labels[order], ids[order])
    assert one.metrics == pytest.approx(other.metrics)
    for name in one.per_unit:
        np.testing.assert_allclose(one.per_unit[name], other.per_unit[name], atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(3).long()}, "400 rows of scores, 3 labels, 400 ids"),
        ({"ids": [1, 2]}, "2 ids"),
        ({"labels": torch.full((400,), 5)}, "labels from 5 to 5"),
        ({"labels": torch.full((400,), -1)}, "labels from -1"),
        ({"scores": torch.full((400, 5), torch.nan)}, "400 of 400 rows hold scores that are NaN"),
    ],
)
def test_refuses(change, message):
    scores, labels = _problem()
    with pytest.raises(DataError, match=message):
        classification(**{"scores": scores, "labels": labels, "ids": range(400)} | change)
