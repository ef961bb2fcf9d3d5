"""What must hold for the pairs of user and item across the splits."""

from dataclasses import replace

import numpy as np
import polars as pl

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.tables import Table

_SPLIT_NAMES = ("train", "validation", "test")


def drop_duplicates(table: Table, n_items: int, findings: Findings) -> Table:
    """Keeps the first of equal pairs (inside a split, where there are labels) and warns."""
    columns = [column for column in ("user", "item", "label") if column in table.frame.columns]
    key = pl.col("user") * n_items + pl.col("item")
    if "label" in columns:
        key = key * 3 + pl.col("label")
    first = table.frame.select(key.is_first_distinct()).to_series()
    n_again = len(first) - int(first.sum())
    if n_again:
        row = table.frame["row"][first.not_().arg_true()[0]]
        findings.warn(
            f"{table.where(row)}: {n_again:,} repeated interactions left out, this is the first"
        )
    return replace(table, frame=table.frame.filter(first))


def refuse_overlap(table: Table, names: dict[str, list[str]], findings: Findings) -> Table:
    """Reports pairs that stand in more than one split; keeps the first of each.

    Args:
        table: labelled interactions, no pair twice inside a split.
        names: `user` and `item` -> the ids in the files.
        findings: where the problem goes.
    """
    key = pl.col("user") * len(names["item"]) + pl.col("item")
    first = table.frame.select(key.is_first_distinct()).to_series()
    if first.all():
        return table
    again = table.frame.filter(~first).row(0, named=True)
    before = table.frame.filter(
        (pl.col("user") == again["user"]) & (pl.col("item") == again["item"])
    ).row(0, named=True)
    return table.refuse(
        ~first,
        findings,
        lambda row: (
            f"user {names['user'][row['user']]}, item {names['item'][row['item']]} is in"
            f" {_SPLIT_NAMES[row['label']]} and also in {_SPLIT_NAMES[before['label']]}"
            f" ({table.where(before['row'])})"
        ),
        "a pair in one split only: what is tested must not have been trained on",
        "remove one of the two rows, or make a new split with split=ratio",
    )


def refuse_untrainable(table: Table) -> None:
    """Sees to it that there is something to train on.

    Raises:
        DataError: if there is no training row.
    """
    if not (table.frame["label"] == 0).any():
        raise DataError(
            "no training interactions (x_label 0)",
            path=table.path,
            expected="rows to train on besides those of validation and test",
            fix="correct the labels, or make a split with split=ratio",
        )


def treat_cold_users(table: Table, user_ids: list[str], findings: Findings, *, drop: bool) -> Table:
    """Warns of users of validation and test who have no training row, and drops their rows.

    Args:
        table: labelled interactions.
        user_ids: the ids in the files.
        findings: where the warning goes.
        drop: whether the rows are left out.
    """
    trained = np.zeros(len(user_ids), bool)
    trained[table.frame.filter(pl.col("label") == 0)["user"].to_numpy()] = True
    cold = pl.Series(~trained[table.frame["user"].to_numpy()], dtype=pl.Boolean)
    if not cold.any():
        return table
    rows = table.frame.filter(cold)
    fate = "left out of validation and test" if drop else "kept, though nothing is known of them"
    findings.warn(
        f"{table.where(rows['row'][0])}: user {user_ids[rows['user'][0]]} has no training"
        f" interaction; {rows['user'].n_unique():,} such users ({len(rows):,} rows) are {fate}"
    )
    return replace(table, frame=table.frame.filter(~cold)) if drop else table


def refuse_full_users(table: Table, user_ids: list[str], n_items: int, findings: Findings) -> None:
    """Reports users whose training rows hold every item: nothing is left to rank for them."""
    train = table.frame.filter(pl.col("label") == 0)
    degree = np.bincount(train["user"].to_numpy(), minlength=len(user_ids))
    full = np.flatnonzero(degree >= n_items)
    if full.size:
        rows = train.filter(pl.col("user") == full[0])["row"]
        findings.problem(
            table.error(
                rows[0],
                f"user {user_ids[full[0]]} took all {n_items} items in training"
                f" ({full.size:,} such users): there is no negative item and nothing to recommend",
                "users who left some items untaken",
                "leave these users out, or give the data with all their items",
            )
        )
