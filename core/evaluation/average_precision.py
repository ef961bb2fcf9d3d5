"""Mean average precision of several labels a row, with a value for every row."""

import numpy as np
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from core.data.checks import DataError


def mean_average_precision(
    scores: Float[Tensor, "n classes"], targets: Bool[Tensor, "n classes"]
) -> tuple[float, Float64[np.ndarray, " n"], Float64[np.ndarray, " classes"]]:
    """The mean over classes of average precision (macro mAP), as in scikit-learn.

    Rows of equal scores are one threshold. Classes that no row has are left out of the mean. The
    value of row i among n is mAP + n times the derivative of mAP by the weight of that row: their
    mean is mAP, and to bootstrap that mean is to bootstrap mAP to first order.

    Args:
        scores: the higher the more likely.
        targets: which classes a row has.

    Returns:
        mAP, 0 to 1; the value of every row; average precision of every class, NaN where no row has
        it.

    Raises:
        DataError: sizes that do not match, scores that are NaN, or no row has any class.
    """
    if scores.shape != targets.shape or len(scores) == 0:
        raise DataError(
            f"scores of shape {tuple(scores.shape)}, targets of shape {tuple(targets.shape)}",
            expected="both of rows and classes, one row or more",
        )
    if bool(scores.isnan().any()):
        raise DataError(
            f"{int(scores.isnan().any(1).sum())} of {len(scores)} rows hold scores that are NaN",
            expected="numbers",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
    given, truth = scores.detach().cpu().numpy(), targets.cpu().numpy().astype(bool)
    present = truth.any(0)
    if not present.any():
        raise DataError("no row has any of the classes", expected="one that has")
    n, each = len(given), np.full(truth.shape[1], np.nan)
    moves = np.zeros(n)
    for number in np.flatnonzero(present):
        each[number], move = _of_class(given[:, number], truth[:, number])
        moves += move / present.sum()
    total = float(np.nanmean(each))
    return total, total + n * moves, each


def _of_class(
    scores: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> tuple[float, Float64[np.ndarray, " n"]]:
    """Average precision, and its derivative by the weight of each row."""
    levels, level_of_row = np.unique(-scores, return_inverse=True)  # the highest score first
    found_at = np.bincount(level_of_row, weights=truth, minlength=len(levels))
    passed = np.bincount(level_of_row, minlength=len(levels)).cumsum().astype(np.float64)
    found, n_true = found_at.cumsum(), truth.sum()
    precision = found / passed
    average = float((found_at * precision).sum() / n_true)
    # A row of level k is counted in `found` and `passed` of all levels from k on.
    later_found = (found_at / passed)[::-1].cumsum()[::-1][level_of_row]
    later_passed = (found_at * found / passed**2)[::-1].cumsum()[::-1][level_of_row]
    own = truth * (precision[level_of_row] - average)
    return average, (own + truth * later_found - later_passed) / n_true
