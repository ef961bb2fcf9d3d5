"""The ids of the files and the integers that stand for them."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int64

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.interactions import Interactions
from recsys.data.tables import Table, read_columns

Role = Literal["user", "item"]


@dataclass(frozen=True)
class Ids:
    """All ids of the users or of the items.

    Attributes:
        names: the ids as the files write them; the position is the integer id.
        numbers: the same as integers, None where they are text.
    """

    names: list[str]
    numbers: Int64[np.ndarray, " n"] | None


def encode(
    table: Table, role: Role, saved: list[str] | None, mapping_file: Path | None, findings: Findings
) -> tuple[Table, Ids]:
    """Replaces the column `role` by integers from 0 without gaps.

    Integers without gaps stay as they are, integers with gaps are numbered by size, text by sorted
    order; a saved mapping goes before all of these.

    Args:
        table: the interactions.
        role: which of the two columns.
        saved: the ids of a saved mapping, in its order.
        mapping_file: the file they come from, for messages.
        findings: where problems of single rows go.

    Raises:
        DataError: if no usable row is left.
    """
    if saved is not None:
        return _encode_as_saved(table, role, saved, mapping_file, findings)
    table = _read_integers(table, role, findings)
    if table.frame.is_empty():
        raise DataError(f"no usable {role} id", path=table.path)
    column = table.frame[role]
    if column.dtype == pl.String:
        names = column.unique().sort()
        codes = column.cast(pl.Enum(names)).to_physical().cast(pl.Int64)
        return _with_codes(table, role, codes), Ids(names.to_list(), None)
    distinct = column.unique().sort()
    ids = Ids(distinct.cast(pl.String).to_list(), distinct.to_numpy())
    if len(distinct) == distinct[-1] + 1:
        return table, ids
    return _with_codes(table, role, distinct.search_sorted(column).cast(pl.Int64)), ids


def _encode_as_saved(
    table: Table, role: Role, saved: list[str], mapping_file: Path | None, findings: Findings
) -> tuple[Table, Ids]:
    if table.frame[role].dtype != pl.String:
        table = _read_integers(table, role, findings)

    def codes(frame: pl.DataFrame) -> pl.Series:
        places = {name: place for place, name in enumerate(saved)}
        text = frame[role].cast(pl.String)
        return text.replace_strict(places, default=None, return_dtype=pl.Int64)

    table = table.refuse(
        codes(table.frame).is_null(),
        findings,
        lambda row: f"{role} {row[role]!r} is not in the saved ids of {mapping_file}",
        f"one of its {len(saved):,} {role} ids",
        "remove the row, or train anew on these data",
    )
    names = pl.Series(saved, dtype=pl.String)
    numbers = _as_integers(names)
    return _with_codes(table, role, codes(table.frame)), Ids(
        saved, None if numbers is None else numbers.to_numpy()
    )


def _with_codes(table: Table, role: Role, codes: pl.Series) -> Table:
    return replace(table, frame=table.frame.with_columns(codes.alias(role)))


def _as_integers(text: pl.Series) -> pl.Series | None:
    """The values as integers if all are written as such; '007' is text, as 7 is another id."""
    numbers = text.cast(pl.Int64, strict=False)
    return numbers if (numbers.cast(pl.String) == text).fill_null(False).all() else None


def _read_integers(table: Table, role: Role, findings: Findings) -> Table:
    """Makes the column one of integers, unless its ids are text."""
    column = table.frame[role]
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
        table = _with_codes(table, role, column)
    if column.dtype == pl.String:
        numbers = _as_integers(column)
        if numbers is None:
            numbers = column.cast(pl.Int64, strict=False)
            n_others = numbers.null_count()
            if n_others == 0 or role in table.tokens or 2 * n_others >= len(column):
                return table
    elif column.dtype.is_numeric():
        numbers = column.cast(pl.Int64, strict=False)
        if column.dtype.is_float():
            numbers = numbers.set(numbers != column, None)
    else:
        raise DataError(
            f"{role} ids of type {column.dtype}", path=table.path, expected="integers or text"
        )
    table = table.refuse(
        numbers.is_null(),
        findings,
        lambda row: f"{role} id {row[role]!r} is not an integer, while others are",
        f"integer ids, or text throughout under a header such as {role}_id:token",
        "correct the row, or declare the column as text",
    )
    table = _with_codes(table, role, numbers.drop_nulls())
    return table.refuse(
        table.frame[role] < 0,
        findings,
        lambda row: f"{role} id {row[role]} is negative",
        "integers from 0",
        "correct or remove the row",
    )


def read_row_mapping(folder: Path) -> dict[str, int] | None:
    """Item id -> row of the features, from `i_id_mapping.csv`; None if there is no such file.

    Tab (or comma) separated: original id, integer id; a header line may stand above.

    Raises:
        DataError: if the integers are not 0 to n - 1, each once, or an id stands twice.
    """
    path = folder / "i_id_mapping.csv"
    if not path.exists():
        return None
    frame = read_columns(path, has_header=False)
    if frame.width < 3:
        raise DataError(
            "one column", path=path, line=1, expected="original id, tab, integer id from 0"
        )
    ids, rows = frame.get_columns()[1:3]
    rows = rows.cast(pl.Int64, strict=False)
    if rows[0] is None:
        ids, rows = ids[1:], rows[1:]
    if (
        rows.sort().to_list() != list(range(len(rows)))
        or ids.null_count()
        or not ids.is_unique().all()
    ):
        raise DataError(
            f"the second column does not number the {len(rows):,} ids, or an id stands twice",
            path=path,
            expected="each id once, with integers from 0 without gaps",
            fix="write it again: original id, tab, row of the features",
        )
    return dict(zip(ids.to_list(), rows.to_list(), strict=True))


def save_id_mapping(data: Interactions, file: str | Path) -> None:
    """Writes the ids of `data` as JSON, for `load_interactions(..., id_mapping=file)`."""
    file = Path(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"user_ids": data.user_ids, "item_ids": data.item_ids}))
    temporary.replace(file)


def read_id_mapping(file: Path) -> tuple[list[str], list[str]]:
    """The user ids and item ids that `save_id_mapping` wrote.

    Raises:
        DataError: if the file is missing or holds anything else.
    """
    expected = "the id mapping saved at training: user_ids and item_ids, each id once"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        users, items = content["user_ids"], content["item_ids"]
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", path=file, expected=expected
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError("not an id mapping", path=file, expected=expected) from None
    for ids in (users, items):
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise DataError("not lists of text", path=file, expected=expected)
        if len(set(ids)) != len(ids):
            raise DataError("an id stands twice", path=file, expected=expected)
    return users, items
