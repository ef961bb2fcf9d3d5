"""Splits by patient: nobody whose slides are trained on is ever tested on."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import few
from core.data.samples import SPLITS


def split_patients(
    patients: Sequence[str],
    labels: Int64[Tensor, " n"] | None,
    ratios: Sequence[float],
    seed: int,
) -> dict[str, Int64[Tensor, " rows"]]:
    """Random train, validation and test rows; all rows of a patient go the same way.

    Patients are drawn within the class that most of their rows have, and each goes to the split
    that lacks most of its share, so that classes are spread as evenly as whole patients allow.

    Args:
        patients: (n) whose each row is.
        labels: (n) classes, negative where unknown; None spreads all patients alike.
        ratios: shares of the patients in train, valid and test.
        seed: of the draw.

    Returns:
        Ascending rows of each split.

    Raises:
        DataError: the ratios are not three shares of 1, or there are fewer patients than splits
            that are to have some.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(f"data.ratios={list(ratios)}", expected="three shares with the sum 1")
    rows_of: dict[str, list[int]] = {}
    for row, patient in enumerate(patients):
        rows_of.setdefault(patient, []).append(row)
    wanted = [split for split, share in zip(SPLITS, ratios, strict=True) if share]
    if len(rows_of) < len(wanted):
        raise DataError(
            f"{len(rows_of)} patients for the splits {', '.join(wanted)}",
            expected="one patient or more in each",
            fix="add patients, or set data.ratios",
        )
    names = sorted(rows_of)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    if labels is not None:
        most = {name: int(labels.cpu()[rows_of[name]].mode().values) for name in names}
        order.sort(key=lambda number: most[names[number]])
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    given = dict.fromkeys(SPLITS, 0)
    for number, patient in enumerate(order, 1):
        lacks = {s: share * number - given[s] for s, share in zip(SPLITS, ratios, strict=True)}
        # With few patients the last ones go where nobody is yet.
        empty = [split for split in wanted if not given[split]]
        left = len(order) - number + 1
        split = max(empty if len(empty) == left else SPLITS, key=lambda s: lacks[s])
        given[split] += 1
        parts[split] += rows_of[names[patient]]
    return {split: torch.tensor(sorted(rows), dtype=torch.int64) for split, rows in parts.items()}


def straddling(
    patients: Sequence[str], splits: dict[str, Int64[Tensor, " rows"]]
) -> dict[str, list[str]]:
    """Patients that are in more than one split -> these splits."""
    of: dict[str, list[str]] = {}
    for split in SPLITS:
        for patient in sorted({patients[row] for row in splits[split].tolist()}):
            of.setdefault(patient, []).append(split)
    return {patient: found for patient, found in of.items() if len(found) > 1}


def refuse_straddling(
    patients: Sequence[str], splits: dict[str, Int64[Tensor, " rows"]], path: str
) -> None:
    """Raises where a patient is in two splits.

    Raises:
        DataError: naming the first of them.
    """
    found = straddling(patients, splits)
    if found:
        patient, where = next(iter(found.items()))
        more = "" if len(found) == 1 else f" (in all {few(list(found))})"
        raise DataError(
            f"patient {patient} is in {' and '.join(where)}{more}",
            path=path,
            expected="each patient in one split",
            fix="move all of a patient to one split, or leave the split out and let data.ratios "
            "divide the patients",
        )
