"""Which labelled windows teach a classifier, which judge it, and how few of them are tried."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from har.data.windows import Windows


def labelled(data: Windows, split: str) -> Int64[Tensor, " rows"]:
    """The rows of a split whose activity is known."""
    rows = data.splits[split]
    return rows[data.labels["label"][rows] >= 0]


def teachers(data: Windows) -> Int64[Tensor, " rows"]:
    """The rows that a classifier learns from.

    Raises:
        DataError: no training window has a label.
    """
    rows = labelled(data, "train")
    if len(rows) == 0:
        raise DataError(
            "no window of the training split has a label, to teach a classifier",
            fix="choose data.split or subjects, or take what needs no classifier: embed, search",
        )
    return rows


def judges(data: Windows, train: Int64[Tensor, " n"]) -> Int64[Tensor, " rows"]:
    """The rows that a classifier's choices are judged by: validation, else the training rows."""
    valid = labelled(data, "valid")
    return valid if len(valid) else train


def label_budgets(
    fractions: Sequence[float], per_class: Sequence[int], n_draws: int
) -> dict[str, dict[str, Any]]:
    """Name of each further evaluation -> arguments of `core.evaluation.readout.label_budget`.

    Raises:
        DataError: a share is not in (0, 1], or a number is not 1 or more.
    """
    numbers = {f"labels_per_class={list(per_class)}": per_class, f"n_draws={n_draws}": [n_draws]}
    for name, values in numbers.items():
        if any(not isinstance(value, int) or value < 1 for value in values):
            raise DataError(f"task.{name}", expected="1 or more")
    if any(not 0 < share <= 1 for share in fractions):
        raise DataError(f"task.label_fractions={list(fractions)}", expected="above 0, at most 1")
    shares = {
        f"{100 * share:g}_percent": {"share": share, "per_class": None} for share in fractions
    }
    return shares | {f"{n}_per_class": {"share": None, "per_class": n} for n in per_class}
