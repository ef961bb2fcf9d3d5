"""`vocab.json`, `queries.parquet` and `items.parquet` -> `EntityTable`."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.entities import NO_VALUE, EntityTable
from recsys.data.tables import PARQUET_ERRORS

Vocabulary = dict[str, int | None]


def read_vocabulary(path: Path) -> Vocabulary:
    """Feature -> number of its codes, None for an open vocabulary.

    Raises:
        DataError: it is missing, no JSON object, empty, or a size is not a number from 1.
    """
    expected = 'a JSON object such as {"category": 40, "title": 50000, "url": null}'
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", path=path, expected=expected
        ) from None
    except ValueError as error:
        raise DataError(f"not JSON ({error})", path=path, expected=expected) from None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise DataError("no features in it", path=path, expected=expected)
    for name, size in vocabulary.items():
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise DataError(
                f"{name!r} has the size {size!r}",
                path=path,
                expected="the number of its codes from 1 on, or null for an open vocabulary",
            )
    return vocabulary


def read_parquet(path: Path, what: str) -> pl.DataFrame:
    """A Parquet file as a whole.

    Raises:
        DataError: it is missing, truncated, damaged or has no row.
    """
    if not path.is_file():
        raise DataError(
            "no such file",
            path=path,
            expected=f"a Parquet file with {what}",
            fix="check the path; `recsys data demo data=entities path=DIR` writes an example",
        )
    try:
        frame = pl.read_parquet(path)
    except (OSError, *PARQUET_ERRORS) as error:
        raise damaged(path, error) from None
    if frame.is_empty():
        raise DataError("no row in it", path=path, expected=what)
    return frame


def damaged(path: Path, error: BaseException) -> DataError:
    """What to say of a Parquet file that cannot be read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"truncated or damaged ({reason})",
        path=path,
        expected="a complete Parquet file",
        fix="copy or write it again",
    )


def read_entities_table(
    path: Path, vocabulary: Vocabulary, max_bag: int, findings: Findings
) -> EntityTable:
    """One row an entity: `id`, features whose vocabulary is given, optionally `title`.

    A feature is a column of integers, or of lists of integers (a bag). Null, and the code that is
    the size of the vocabulary (the mask), mean that it is not known. Of a longer bag the first
    `max_bag` values are read.

    Raises:
        DataError: ids that are not 0 to n - 1, no feature, codes beyond their vocabulary.
    """
    frame = _sorted_by_id(read_parquet(path, "one row an entity, integer id from 0"), path)
    names = [name for name in frame.columns if name in vocabulary]
    if not names:
        raise DataError(
            f"no feature: its columns are {', '.join(frame.columns)}",
            path=path,
            expected=f"a column for some of {', '.join(vocabulary)} of vocab.json",
        )
    ignored = [c for c in frame.columns if c not in (*names, "id", "title")]
    if ignored:
        findings.warn(f"{path}: not in vocab.json and not used: {', '.join(ignored)}")
    columns, features = [], {}
    for name in names:
        values = _codes(frame[name], vocabulary[name], max_bag, path, findings)
        features[name] = (vocabulary[name], values.shape[1])
        columns.append(values)
    codes = np.concatenate(columns, 1)
    if codes.max() < 2**31:
        codes = codes.astype(np.int32)
    titles = frame["title"].cast(pl.String).fill_null("").to_list() if "title" in frame else None
    return EntityTable(torch.from_numpy(codes), features, titles)


def _sorted_by_id(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    expected = f"every integer from 0 to {len(frame) - 1} once: the number that pairs refer to"
    if "id" not in frame.columns:
        raise DataError(
            f"no column id; there are: {', '.join(frame.columns)}", path=path, expected=expected
        )
    if not frame["id"].dtype.is_integer() or frame["id"].null_count():
        raise DataError(
            f"id is {frame['id'].dtype} with {frame['id'].null_count()} nulls",
            path=path,
            expected=expected,
        )
    frame = frame.sort("id")
    wrong = frame["id"].cast(pl.Int64) != pl.Series(range(len(frame)), dtype=pl.Int64)
    if wrong.any():
        first = wrong.arg_true()[0]
        raise DataError(
            f"ids are not 0 to n - 1: in order, number {first} is {frame['id'][first]}",
            path=path,
            expected=expected,
            fix="number the entities anew, here and in the pairs",
        )
    return frame


def _codes(
    column: pl.Series, size: int | None, max_bag: int, path: Path, findings: Findings
) -> np.ndarray:
    """(n, width) int64 with NO_VALUE where there is none."""
    is_bag = isinstance(column.dtype, pl.List | pl.Array)
    inner = column.dtype.inner if is_bag else column.dtype
    if not (inner.is_integer() or inner == pl.Null):
        raise DataError(
            f"column {column.name} holds {column.dtype}",
            path=path,
            expected="integers, or lists of integers",
            fix="replace the values by codes from 0, and put their number into vocab.json",
        )
    values = (column.cast(pl.List(pl.Int64)) if is_bag else column.cast(pl.Int64)).to_frame()
    rows = values.with_row_index("#id").explode(column.name) if is_bag else values
    if not is_bag:
        rows = rows.with_row_index("#id")
    largest = 2**63 - 1 if size is None else size
    wrong = rows.filter((pl.col(column.name) < 0) | (pl.col(column.name) > largest))
    if len(wrong):
        row, code = wrong.row(0)
        more = f" (and {len(wrong) - 1:,} more like it)" if len(wrong) > 1 else ""
        raise DataError(
            f"id {row}: {column.name} is {code}{more}",
            path=path,
            expected="codes from 0"
            + ("" if size is None else f" to {size - 1}, or {size} for unknown"),
            fix="correct the code, or the size in vocab.json (null where any code may come)",
        )
    rows = rows.drop_nulls().filter(pl.col(column.name) != size if size is not None else True)
    entity, code = rows["#id"].to_numpy(), rows[column.name].to_numpy()
    starts = np.searchsorted(entity, np.arange(len(column)))
    place = np.arange(len(entity)) - starts[entity]
    if (place >= max_bag).any():
        cut = len(np.unique(entity[place >= max_bag]))
        findings.warn(
            f"{path}: {cut:,} bags of {column.name} are cut to data.max_bag={max_bag} values"
        )
    kept = place < max_bag
    width = int(place[kept].max(initial=0)) + 1
    table = np.full((len(column), width), NO_VALUE, np.int64)
    table[entity[kept], place[kept]] = code[kept]
    return table
