"""Readable names of the items, from a metadata file beside the interactions."""

from pathlib import Path

import polars as pl

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.tables import ROW, find_column, read_columns, read_parquet

_ID_NAMES = {"itemid", "item", "iid"}
_TITLE_NAMES = {"title", "itemtitle", "name", "itemname", "movietitle", "producttitle"}


def read_titles(folder: Path, item_ids: list[str], findings: Findings) -> list[str] | None:
    """A title for every item, in the order of `item_ids`; the id itself where there is none.

    Looks for `items.csv`, `items.parquet`, then RecBole's `*.item`, with an id and a title column;
    None where there is no such file or it has no title column.

    Raises:
        DataError: if the file is damaged or has no id column.
    """
    candidates = [folder / "items.csv", folder / "items.parquet", *sorted(folder.glob("*.item"))]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        return None
    frame = read_parquet(path) if path.suffix == ".parquet" else read_columns(path)
    columns = [column for column in frame.columns if column != ROW]
    item = find_column(path, columns, _ID_NAMES, "rename the others")
    title = find_column(path, columns, _TITLE_NAMES, "rename the others")
    if item is None:
        raise DataError(
            f"no item column in the header: {', '.join(columns)}",
            path=path,
            line=None if path.suffix == ".parquet" else 1,
            expected="a column of item ids (itemID) and one of titles (title)",
            fix="correct the header",
        )
    if title is None:
        findings.warn(f"{path}: no title column in the header: {', '.join(columns)}")
        return None
    known = frame.select(id=pl.col(item).cast(pl.String), title=pl.col(title).cast(pl.String))
    known = known.drop_nulls().unique("id", keep="first")
    joined = pl.DataFrame({"id": item_ids}).join(known, on="id", how="left", maintain_order="left")
    if joined["title"].null_count() == len(item_ids):
        findings.warn(f"{path}: none of its ids is an item of the interactions")
        return None
    return joined.select(pl.col("title").fill_null(pl.col("id")))["title"].to_list()
