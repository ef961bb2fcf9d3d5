"""Tables that say whose patches or slides are, of which class and in which split."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.encoded_images import SPLIT_NAMES
from core.data.findings import few
from core.data.samples import SPLITS
from medical.data.patient_splits import split_patients

Splits = dict[str, Int64[Tensor, " rows"]]


def read_rows(table: Path, key: str, columns: str) -> dict[str, dict[str, str]]:
    """Value of the column `key` -> its row, as text; `case_id` may stand for `patient_id`.

    Raises:
        DataError: the file is no CSV, lacks a column of the two, or has two rows of one value.
    """
    try:
        frame = pl.read_csv(table, infer_schema=False).fill_null("")
        # A patient with a space behind the name is no other patient.
        frame = frame.with_columns(pl.all().str.strip_chars())
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot be read: {reason}", path=table, expected=columns) from None
    if "patient_id" not in frame.columns and "case_id" in frame.columns:
        frame = frame.rename({"case_id": "patient_id"})
    if not {key, "patient_id"} <= set(frame.columns):
        raise DataError(
            f"columns {', '.join(frame.columns)}", path=table, expected=f"columns {columns}"
        )
    twice = frame.filter(frame[key].is_duplicated())[key].unique(maintain_order=True).to_list()
    if twice:
        raise DataError(f"more than one row for {few(twice)}", path=table, expected="one for each")
    return {row[key]: row for row in frame.iter_rows(named=True)}


def stated_splits(table: Path, rows: Sequence[dict[str, str]], key: str) -> Splits:
    """Rows of each split, ascending, as the column `split` says.

    Raises:
        DataError: it says something else.
    """
    names = [SPLIT_NAMES.get(row["split"].strip().lower()) for row in rows]
    if None in names:
        row = rows[names.index(None)]
        raise DataError(
            f"split {row['split']!r} of {row[key]}", path=table, expected="train, valid or test"
        )
    return {s: torch.tensor([i for i, of in enumerate(names) if of == s]).long() for s in SPLITS}


def with_validation(
    splits: Splits,
    patients: Sequence[str],
    labels: Int64[Tensor, " n"] | None,
    share: float,
    seed: int,
) -> Splits:
    """The splits, with a share of the training patients for validation where it has none."""
    if len(splits["valid"]) or share <= 0:
        return splits
    train = splits["train"]
    own = [patients[row] for row in train.tolist()]
    of = None if labels is None else labels[train]
    parts = split_patients(own, of, (1 - share, share, 0.0), seed)
    return splits | {name: train[parts[name]] for name in ("train", "valid")}
