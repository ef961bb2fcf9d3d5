import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor

from core.data.checks import DataError
from remote_sensing.evaluation import judge_classes, judge_labels, judge_values


def _drawn(n: int = 60) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (n,), generator=g)
    return torch.randn(n, 4, generator=g) + torch.eye(4)[truth], truth


def test_classes_as_scikit_learn_has_them() -> None:
    scores, truth = _drawn()
    found, guess = judge_classes(scores, truth), scores.argmax(1)
    expected = {
        "accuracy": metrics.accuracy_score(truth, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
        "macro_f1": metrics.f1_score(truth, guess, average="macro"),
        "weighted_f1": metrics.f1_score(truth, guess, average="weighted"),
        "kappa": metrics.cohen_kappa_score(truth, guess),
    }
    assert found.metrics == pytest.approx(expected)
    assert judge_classes(scores[:1], scores[:1].argmax(1)).metrics["kappa"] == 0


def test_labels_as_scikit_learn_has_them() -> None:
    g = torch.Generator().manual_seed(1)
    wanted = (torch.rand(50, 5, generator=g) < torch.linspace(0, 0.8, 5)).float()
    logits = torch.randn(50, 5, generator=g) + 2 * wanted
    logits[:, 0] = -1  # on nowhere, said nowhere
    found = judge_labels(logits, wanted)
    for kind in ("macro", "weighted"):
        expected = metrics.f1_score(wanted, logits > 0, average=kind, zero_division=0)
        assert found.metrics[f"{kind}_f1"] == pytest.approx(expected)


def test_values_as_scikit_learn_has_them() -> None:
    g = torch.Generator().manual_seed(2)
    y = 100 + 30 * torch.randn(40, 1, generator=g)
    p = y + 5 + 10 * torch.randn(40, 1, generator=g)
    found = judge_values(p, y).metrics
    expected = {
        "r2": metrics.r2_score(y, p),
        "rmse": metrics.root_mean_squared_error(y, p),
        "mae": metrics.mean_absolute_error(y, p),
        "mape": metrics.mean_absolute_percentage_error(y, p),
        "bias": (p - y).mean().item(),
        "rmse_over_root_mean": ((y - p).square() / y.mean()).mean().sqrt().item(),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["bias"] > 0
    # Not the RMSE over the mean, which its name at the authors' suggests.
    assert found["rmse_over_root_mean"] != pytest.approx(
        expected["rmse"] / y.mean().item(), rel=0.5
    )


def _resampled(judge, one: Tensor, two: Tensor) -> tuple[dict, dict]:
    """Metrics of a slightly other weighing of the rows, and what the values a row say of it."""
    found = judge(one, two)
    n = len(one)
    rows = torch.cat([torch.arange(n).repeat(200), torch.tensor([0, 1, 2])])
    share = torch.bincount(rows).double() / len(rows)
    moved = judge(one[rows], two[rows]).metrics
    told = {name: float((share.numpy() * of).sum()) for name, of in found.per_unit.items()}
    for name, of in found.per_unit.items():
        assert of.mean() == pytest.approx(found.metrics[name], abs=1e-9), name
    return {k: moved[k] - found.metrics[k] for k in told}, {
        k: told[k] - found.metrics[k] for k in told
    }


def test_the_values_of_the_rows_say_how_the_metrics_move() -> None:
    g = torch.Generator().manual_seed(3)
    wanted = (torch.rand(30, 4, generator=g) < 0.5).float()
    logits = torch.randn(30, 4, generator=g) + wanted
    y = 100 + 30 * torch.randn(30, 1, generator=g)
    p = y + 5 + 10 * torch.randn(30, 1, generator=g)
    for judge, one, two in (
        (judge_classes, *_drawn(30)),
        (judge_labels, logits, wanted),
        (judge_values, p, y),
    ):
        moved, told = _resampled(judge, one, two)
        for name, by in moved.items():
            assert told[name] == pytest.approx(by, rel=0.05, abs=1e-7), name
            assert by != 0, name


def test_refuses_what_cannot_be_judged() -> None:
    y = torch.ones(3, 1)
    with pytest.raises(DataError, match="1 of 3 rows hold predictions that are NaN"):
        judge_values(torch.tensor([[1.0], [torch.nan], [2.0]]), y)
    with pytest.raises(DataError, match=r"predictions of \[3, 2\]"):
        judge_labels(torch.zeros(3, 2), y)
    found = judge_values(y, y).metrics
    assert np.isnan(found["r2"])
    assert found["rmse"] == 0
