"""Accuracy, balanced accuracy and F1 of class scores, with a value for every test unit."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64, Shaped
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation


def classification(
    scores: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    ids: Shaped[np.ndarray, " n"] | Sequence[int] | Sequence[str] | Tensor,
    unit: str = "sample",
) -> Evaluation:
    """Evaluates the class of largest score of each row; of equal scores, the first class.

    The metrics are those of all rows together: `accuracy`; `balanced_accuracy`, the mean recall of
    the classes that rows have; `macro_f1`, the mean F1 of the classes that are true or predicted
    somewhere; `weighted_f1`, the mean over rows of the F1 of their class; all as in scikit-learn.

    Each metric is a mean over classes of a ratio A_c / B_c of sums over rows. The value of unit u
    among U is its linearisation, the mean over classes of A_c / B_c + U (a_cu - A_c / B_c b_cu) /
    B_c, and where rows weigh the classes also what the weights move: the mean over units is the
    metric, and to bootstrap that mean is to bootstrap the metric to first order, also where units
    hold several rows. It may lie outside of 0 to 1; for accuracy with a row a unit it is 1 where
    the row is right and 0 elsewhere.

    Args:
        scores: logits or probabilities; -inf for a class that cannot be.
        labels: true classes, 0 to classes - 1.
        ids: the unit of each row; rows of one patient or subject share theirs.
        unit: what the ids are of.

    Returns:
        Metrics, 0 to 1, and their values for the distinct ids, ascending.

    Raises:
        DataError: no rows, sizes that do not match, labels out of range, scores that are NaN.
    """
    row_ids = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    _check(scores, labels, row_ids)
    n, n_classes = scores.shape
    truth, predicted = labels.cpu().numpy(), scores.argmax(1).cpu().numpy()
    right = (truth == predicted).astype(np.float64)
    n_true = np.bincount(truth, minlength=n_classes)
    n_either = n_true + np.bincount(predicted, minlength=n_classes)
    n_right = np.bincount(truth, weights=right, minlength=n_classes)

    accuracy = right.mean()
    recall, recall_share = _ratios(n_right, n_true)
    f1, f1_share = _ratios(2 * n_right, n_either)
    weighted = f1[truth].mean()
    weight = n_true / (n * np.maximum(n_either, 1))
    metrics = {
        "accuracy": accuracy,
        "balanced_accuracy": recall.sum() / np.count_nonzero(n_true),
        "macro_f1": f1.sum() / np.count_nonzero(n_either),
        "weighted_f1": weighted,
    }
    # How far each row moves the metric from what it is; the rows' sum is 0.
    moves = {
        "accuracy": (right - accuracy) / n,
        "balanced_accuracy": (right - recall[truth]) * recall_share[truth],
        "macro_f1": (2 * right - f1[truth]) * f1_share[truth] - f1[predicted] * f1_share[predicted],
        "weighted_f1": (f1[truth] - weighted) / n
        + (2 * right - f1[truth]) * weight[truth]
        - f1[predicted] * weight[predicted],
    }
    unit_ids, unit_of_row = np.unique(row_ids, return_inverse=True)
    per_unit = {
        name: metrics[name] + len(unit_ids) * np.bincount(unit_of_row, weights=move)
        for name, move in moves.items()
    }
    values = {name: float(value) for name, value in metrics.items()}
    return Evaluation(values, unit, unit_ids, per_unit)


def _ratios(
    part: Float64[np.ndarray, " classes"], whole: Int64[np.ndarray, " classes"]
) -> tuple[Float64[np.ndarray, " classes"], Float64[np.ndarray, " classes"]]:
    """The ratios, and 1 / (whole * classes that have any); 0 for classes that have none."""
    safe = np.maximum(whole, 1)
    return part / safe, (whole > 0) / (safe * np.count_nonzero(whole))


def _check(scores: Tensor, labels: Tensor, ids: Shaped[np.ndarray, " n"]) -> None:
    if not len(scores) == len(labels) == len(ids) or len(scores) == 0:
        raise DataError(
            f"{len(scores)} rows of scores, {len(labels)} labels, {len(ids)} ids",
            expected="one label and one id for each row, and a row or more",
        )
    low, high = torch.stack(torch.aminmax(labels)).tolist()
    if low < 0 or high >= scores.shape[1]:
        raise DataError(
            f"labels from {low} to {high}",
            expected=f"0 to {scores.shape[1] - 1}, one for each of {scores.shape[1]} scores",
            fix="leave out rows without a label; score every class that a label may have",
        )
    broken = int(scores.isnan().any(1).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(scores)} rows hold scores that are NaN",
            expected="numbers",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
