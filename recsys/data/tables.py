"""Interaction tables: text (tab or comma, plain or gzip), parquet and REARM's three arrays.

Whatever the format, a table comes out with the columns `user`, `item`, where there are any
`label` (0 train, 1 validation, 2 test) and `time` (a number that grows), and `row`, the place in
the file, so that every later complaint can name it.
"""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.arrays import read_array

_KNOWN_NAMES = {
    "user": {"userid", "user", "uid"},
    "item": {"itemid", "item", "iid"},
    "time": {"timestamp", "time", "datetime"},
    # `label` is missing on purpose: in RecBole's files it is a click, not a split.
    "label": {"xlabel", "split"},
}
_LABELS = {0: "train", 1: "valid", 2: "test"}
ROW = "#row"
# Some damaged files make the reader panic, which is no Exception of Python.
PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class Table:
    """Interactions as they stand in a file.

    Attributes:
        frame: columns `user`, `item`, `row` and, where the file has them, `label` and `time`.
        parts: the files, each with the `row` at which it starts.
        unit: what a row of the file is called: line, row or column.
        tokens: those of `user`, `item` whose header says that ids are text (`user_id:token`).
    """

    frame: pl.DataFrame
    parts: tuple[tuple[Path, int], ...]
    unit: str
    tokens: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        """The file, or the first of several."""
        return self.parts[0][0]

    def place(self, row: int) -> tuple[Path, int]:
        """File of a `row`, and its line (the header is line 1), row or column (from 0)."""
        path, start = next(part for part in reversed(self.parts) if part[1] <= row)
        return path, row - start + (2 if self.unit == "line" else 0)

    def where(self, row: int) -> str:
        """The place of a `row` in words, for messages."""
        path, number = self.place(row)
        return f"{path}:{number}" if self.unit == "line" else f"{path}, {self.unit} {number}"

    def error(self, row: int, found: str, expected: str, fix: str) -> DataError:
        """A `DataError` at a `row`."""
        path, number = self.place(row)
        if self.unit == "line":
            return DataError(found, path=path, line=number, expected=expected, fix=fix)
        found = f"{self.unit} {number}: {found}"
        return DataError(found, path=path, expected=expected, fix=fix)

    def refuse(
        self,
        bad: pl.Series,
        findings: Findings,
        found: Callable[[dict[str, Any]], str],
        expected: str,
        fix: str,
    ) -> "Table":
        """Reports the first of the `bad` rows (and how many follow); returns the others.

        Args:
            bad: one boolean per row of the frame.
            findings: where the problem goes.
            found: says what is wrong with a row, given as column -> value.
            expected: what should have been there.
            fix: what to do about it.
        """
        n_bad = int(bad.sum())
        if n_bad == 0:
            return self
        first = self.frame.row(bad.arg_true()[0], named=True)
        more = f" (and {n_bad - 1:,} more like it)" if n_bad > 1 else ""
        findings.problem(self.error(first["row"], found(first) + more, expected, fix))
        return replace(self, frame=self.frame.filter(~bad))


def read_text(path: Path) -> bytes:
    """Content of a UTF-8 file, decompressed if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be read, is a damaged gzip, empty or not UTF-8.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"the gzip file is truncated or damaged ({error})",
            path=path,
            expected="a complete gzip file",
            fix="copy or download it again; `gzip -t FILE` tests it",
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})",
            path=path,
            fix="check its name and its permissions",
        ) from None
    if not data.strip():
        raise DataError(
            "the file is empty",
            path=path,
            expected="a header line and at least one row",
            fix="write it again, or remove it",
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {data[error.start]:#04x} is not UTF-8 text",
            path=path,
            line=data.count(b"\n", 0, error.start) + 1,
            expected="UTF-8",
            fix="convert it, e.g. `iconv -f latin1 -t utf-8 OLD > NEW`",
        ) from None
    return data


def read_columns(path: Path, *, has_header: bool = True) -> pl.DataFrame:
    """A text table, every column as text, and the column `ROW` from 0; blank lines are left out.

    Tab separated if the first line holds a tab, else comma separated (then `"` quotes).

    Raises:
        DataError: as `read_text`, and if a line has more fields than the first.
    """
    data = read_text(path)
    first_line = data.split(b"\n", 1)[0]
    separator = "\t" if b"\t" in first_line else ","
    try:
        frame = pl.read_csv(
            data,
            has_header=has_header,
            separator=separator,
            quote_char=None if separator == "\t" else '"',
            infer_schema=False,
            row_index_name=ROW,
        )
    except pl.exceptions.PolarsError as error:
        n_fields = first_line.count(separator.encode()) + 1
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.count(separator.encode()) >= n_fields:
                raise DataError(
                    f"{line.count(separator.encode()) + 1} fields",
                    path=path,
                    line=number,
                    expected=f"{n_fields} fields, as in the first line",
                    fix="correct the line",
                ) from None
        raise DataError(f"not a table ({error})", path=path, fix="write it again") from None
    return frame.filter(~pl.all_horizontal(pl.exclude(ROW).is_null()))


def read_parquet(path: Path) -> pl.DataFrame:
    """A parquet table, and the column `ROW` from 0.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return pl.read_parquet(path, row_index_name=ROW)
    except (OSError, *PARQUET_ERRORS) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"not a readable parquet file ({reason})", path=path, fix="write or copy it again"
        ) from None


def plain_name(column: str) -> str:
    """A header without RecBole's `:type`, case, blanks and underscores."""
    return column.split(":")[0].strip().lower().replace("_", "").replace(" ", "")


def find_column(path: Path, columns: list[str], known: set[str], fix: str) -> str | None:
    """The one of `columns` whose plain name is `known`.

    Raises:
        DataError: if there are several.
    """
    found = [column for column in columns if plain_name(column) in known]
    if len(found) > 1:
        raise DataError(
            f"several columns could be meant: {', '.join(found)}",
            path=path,
            line=_header_line(path),
            expected="one",
            fix=fix,
        )
    return found[0] if found else None


def read_table(path: Path, wanted: dict[str, str | None], findings: Findings) -> Table:
    """Reads an interaction file; sees to its columns, labels and times, not to its ids.

    Args:
        path: a text or parquet file.
        wanted: `user`, `item`, `time`, `label` -> the column named by the caller, or None to
            recognise the usual names.
        findings: where problems of single rows go.

    Raises:
        DataError: if there is nothing to go on with.
    """
    is_text = path.suffix != ".parquet"
    raw = read_columns(path) if is_text else read_parquet(path)
    headers = [column for column in raw.columns if column != ROW]
    chosen = _choose_columns(path, headers, wanted)
    if raw.is_empty():
        raise DataError(
            "the file has a header and no rows",
            path=path,
            line=_header_line(path),
            expected="one row for each interaction",
            fix="write it again",
        )
    tokens = frozenset(role for role in ("user", "item") if chosen[role].lower().endswith(":token"))
    frame = raw.select(row=ROW, **{role: pl.col(column) for role, column in chosen.items()})
    for role, dtype in frame.schema.items():
        if dtype.is_nested() or dtype == pl.Binary:
            raise DataError(
                f"column {chosen[role]!r} of type {dtype}", path=path, expected="numbers or text"
            )
    table = Table(frame, ((path, 0),), "line" if is_text else "row", tokens)
    for role in ("user", "item"):
        table = table.refuse(
            table.frame[role].is_null(),
            findings,
            lambda row: "no user id" if row["user"] is None else "no item id",
            "an id in every row",
            "complete or remove the row",
        )
    return _read_time(_read_label(table, findings), chosen.get("time"), findings)


def _choose_columns(
    path: Path, headers: list[str], wanted: dict[str, str | None]
) -> dict[str, str]:
    chosen, missing = {}, []
    bare = {header.split(":")[0].strip(): header for header in headers}
    for role, name in wanted.items():
        if name is None:
            fix = f"choose with {role}_column=NAME"
            column = find_column(path, headers, _KNOWN_NAMES[role], fix)
        else:
            column = name if name in headers else bare.get(name)
        if column is not None:
            chosen[role] = column
        elif name is not None:
            missing.append(f"{role} column {name!r}")
        elif role in ("user", "item"):
            missing.append(f"{role} column")
    if missing:
        raise DataError(
            f"no {' and no '.join(missing)} in the header: {', '.join(headers)}",
            path=path,
            line=_header_line(path),
            expected="tab or comma separated columns such as userID, itemID, x_label",
            fix="correct the header, or name the columns: user_column=NAME, item_column=NAME",
        )
    return chosen


def _header_line(path: Path) -> int | None:
    return None if path.suffix == ".parquet" else 1


def _read_label(table: Table, findings: Findings) -> Table:
    if "label" not in table.frame.columns:
        return table
    label = table.frame["label"].cast(pl.Int64, strict=False)
    table = table.refuse(
        ~label.is_in([0, 1, 2]).fill_null(False),
        findings,
        lambda row: f"split label {row['label']!r}",
        "0 (train), 1 (validation) or 2 (test)",
        "correct the row, or choose label_column=NAME, or split=ratio to make a split",
    )
    return replace(table, frame=table.frame.with_columns(pl.col("label").cast(pl.Int8)))


def _read_time(table: Table, header: str | None, findings: Findings) -> Table:
    if header is None:
        return table
    number = table.frame["time"].to_physical().cast(pl.Float64, strict=False)
    table = table.refuse(
        ~number.is_finite().fill_null(False),
        findings,
        lambda row: f"{header} {row['time']!r} is not a number",
        "a time as a number, e.g. seconds since 1970",
        "correct the row, or choose time_column=NAME",
    )
    time = pl.col("time").to_physical().cast(pl.Float64)
    return replace(table, frame=table.frame.with_columns(time))


def read_rearm(folder: Path, findings: Findings) -> Table:
    """Reads `train.npy`, `valid.npy`, `test.npy`: integers (2, n), users above items.

    Raises:
        DataError: if one is missing, damaged, not of integers, or of another shape.
    """
    parts, frames, start = [], [], 0
    for label, name in _LABELS.items():
        path = folder / f"{name}.npy"
        with findings.going_on():
            pairs = read_array(path, kinds="iu", expected="integers (2, n): users above items")
            if pairs.ndim != 2 or pairs.shape[0] != 2:
                raise DataError(
                    f"shape {pairs.shape}",
                    path=path,
                    expected="(2, n): row 0 users, row 1 items",
                    fix="save it transposed"
                    if pairs.ndim == 2 and pairs.shape[1] == 2
                    else "write it again; an empty split has shape (2, 0)",
                )
            frames.append(
                pl.DataFrame({"user": pairs[0], "item": pairs[1]}).select(
                    pl.all().cast(pl.Int64), pl.lit(label, pl.Int8).alias("label")
                )
            )
            parts.append((path, start))
            start += pairs.shape[1]
    if start == 0:
        raise DataError("no interactions in train.npy, valid.npy, test.npy", path=folder)
    return Table(pl.concat(frames).with_row_index("row"), tuple(parts), "column")
