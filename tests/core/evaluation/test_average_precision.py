"""Macro mAP and its values of rows."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from core.data.checks import DataError
from core.evaluation.average_precision import mean_average_precision


def _rows(n: int = 60, classes: int = 4, levels: int | None = None):
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(n, classes, generator=g)
    if levels:
        scores = (scores * levels).round() / levels
    return scores, torch.rand(n, classes, generator=g) < 0.3


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "ties"])
def test_is_that_of_scikit_learn(levels: int | None) -> None:
    scores, targets = _rows(levels=levels)
    total, of_rows, each = mean_average_precision(scores, targets)
    expected = average_precision_score(targets.numpy(), scores.numpy(), average=None)
    np.testing.assert_allclose(each, expected, rtol=1e-12)
    assert total == pytest.approx(expected.mean(), rel=1e-12)
    assert of_rows.mean() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "ties"])
def test_values_of_rows_are_derivatives_by_their_weights(levels: int | None) -> None:
    scores, targets = _rows(levels=levels)
    total, of_rows, _ = mean_average_precision(scores, targets)
    n, step = len(scores), 1e-6
    for row in range(0, n, 7):
        values = []
        for change in (-step, step):
            weights = np.ones(n)
            weights[row] += change
            values.append(
                average_precision_score(targets.numpy(), scores.numpy(), sample_weight=weights)
            )
        slope = (values[1] - values[0]) / (2 * step)
        assert of_rows[row] == pytest.approx(total + n * slope, abs=1e-5)


def test_a_class_that_no_row_has_is_left_out() -> None:
    scores, targets = _rows()
    targets[:, 2] = False
    total, _, each = mean_average_precision(scores, targets)
    assert np.isnan(each[2])
    kept = [0, 1, 3]
    assert total == mean_average_precision(scores[:, kept], targets[:, kept])[0]


def test_refuses_what_would_be_a_wrong_number() -> None:
    scores, targets = _rows()
    with pytest.raises(DataError, match="both of rows and classes"):
        mean_average_precision(scores[:-1], targets)
    with pytest.raises(DataError, match="1 of 60 rows hold scores that are NaN"):
        mean_average_precision(scores.index_fill(0, torch.tensor([3]), torch.nan), targets)
    with pytest.raises(DataError, match="no row has any"):
        mean_average_precision(scores, torch.zeros_like(targets))
