"""Train, validation and test by rule, kept in a file beside the data.

A rule is applied once: its outcome is a parquet file next to the interactions, which every later
run reads, so that results stay comparable. The file knows which interactions it was made for.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Int8

from core.data.checks import DataError
from recsys.data.tables import PARQUET_ERRORS, Table

RULES = ("column", "ratio", "leave_one_out", "by_time")
Ratios = tuple[float, float, float]


def check_rule(rule: str, ratios: Sequence[float]) -> Ratios:
    """The ratios, after a look at them and at the rule.

    Raises:
        DataError: if there is no such rule or the ratios are none.
    """
    if rule not in RULES:
        raise DataError(f"unknown split={rule}", expected=" | ".join(RULES), fix="choose one")
    if len(ratios) != 3 or min(ratios) < 0 or ratios[0] <= 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(
            f"ratios={list(ratios)}",
            expected="three shares (train, validation, test) that add up to 1, train above 0",
            fix="e.g. ratios=[0.8,0.1,0.1]",
        )
    train, valid, test = (float(ratio) for ratio in ratios)
    return train, valid, test


def ratio_labels(users: Int[np.ndarray, " n"], ratios: Ratios) -> Int8[np.ndarray, " n"]:
    """Labels 0, 1, 2 for interactions sorted by user, by their order within the user.

    The rule of the Amazon sets of multimodal recommenders: of n interactions the last
    h = floor((valid + test) n) are held out, the first floor(h valid / (valid + test)) of these
    for validation; below 10 the last is test, the one before validation. Fewer than 3 all train.

    Args:
        users: user of each interaction, sorted.
        ratios: shares of train, validation and test.
    """
    _, counts = np.unique(users, return_counts=True)
    held_share = ratios[1] + ratios[2]
    held, valid = np.zeros_like(counts), np.zeros_like(counts)
    if held_share > 0:
        # The margin keeps shares that are whole numbers on paper from falling below them.
        held = np.floor(held_share * counts + 1e-9).astype(int)
        valid = np.floor(held * ratios[1] / held_share + 1e-9).astype(int)
        few = counts < 10
        valid[few] = ratios[1] > 0
        held[few] = valid[few] + (ratios[2] > 0)
        held[counts < 3] = valid[counts < 3] = 0
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))
    held, valid = np.repeat(held, counts), np.repeat(valid, counts)
    return np.where(from_end > held, 0, np.where(from_end > held - valid, 1, 2)).astype(np.int8)


def leave_one_out_labels(users: Int[np.ndarray, " n"]) -> Int8[np.ndarray, " n"]:
    """Labels for interactions sorted by user: the last is test, the one before validation.

    Users with fewer than 3 interactions are all train.

    Args:
        users: user of each interaction, sorted.
    """
    _, counts = np.unique(users, return_counts=True)
    from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(users))
    held_out = np.repeat(counts, counts) >= 3
    return np.select([held_out & (from_end == 1), held_out & (from_end == 2)], [2, 1], 0).astype(
        np.int8
    )


def time_labels(times: Float[np.ndarray, " n"], ratios: Ratios) -> Int8[np.ndarray, " n"]:
    """Labels by two moments for everyone; interactions of the same moment stay together.

    Args:
        times: moment of each interaction.
        ratios: shares of train, validation and test before the moments.
    """
    shares = [ratios[0], min(ratios[0] + ratios[1], 1.0)]
    first, second = np.quantile(times, shares, method="inverted_cdf")
    return ((times > first).astype(np.int8) + (times > second)).astype(np.int8)


def split_labels(
    rule: str,
    users: Int[np.ndarray, " n"],
    times: Float[np.ndarray, " n"] | None,
    seed: int,
    ratios: Ratios,
) -> Int8[np.ndarray, " n"]:
    """Labels 0 (train), 1 (validation), 2 (test) of interactions in any order.

    Args:
        rule: `ratio` and, without times, `leave_one_out` shuffle the interactions of each user;
            `leave_one_out` with times sorts them; `by_time` cuts at two moments for all users.
        users: user of each interaction.
        times: moment of each interaction.
        seed: of the shuffle.
        ratios: shares of `ratio` and `by_time`.
    """
    if rule == "by_time":
        assert times is not None
        return time_labels(times, ratios)
    if rule == "leave_one_out" and times is not None:
        order = np.argsort(times, kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(len(users))
    order = order[np.argsort(users[order], kind="stable")]
    labels = np.empty(len(users), np.int8)
    labels[order] = (
        ratio_labels(users[order], ratios)
        if rule == "ratio"
        else leave_one_out_labels(users[order])
    )
    return labels


def assign_split(
    table: Table,
    names: dict[str, list[str]],
    rule: str,
    seed: int,
    ratios: Ratios,
    *,
    write: bool,
) -> Table:
    """The table with the labels of a rule: read from its split file, or made and written there.

    Args:
        table: interactions with integer ids, no pair twice.
        names: `user` and `item` -> the ids in the files.
        rule: ratio, leave_one_out or by_time.
        seed: of the shuffle.
        ratios: shares of train, validation and test.
        write: whether a new split is written; needs a writable folder.

    Raises:
        DataError: if `by_time` has no times or leaves a split empty, if the split file belongs to
            other interactions or is damaged, or cannot be written.
    """
    times = table.frame["time"].to_numpy() if "time" in table.frame.columns else None
    if rule == "by_time" and times is None:
        raise DataError(
            "split=by_time needs times, and no time column was found",
            path=table.path,
            expected="a column such as timestamp",
            fix="name it with time_column=NAME, or choose split=ratio or split=leave_one_out",
        )
    pairs = pl.DataFrame(
        {role: pl.Series(ids).gather(table.frame[role]) for role, ids in names.items()}
    )
    timed = rule != "ratio" and times is not None
    keyed = pairs.with_columns(time=table.frame["time"]) if timed else pairs
    digest = hashlib.sha256(keyed.write_csv().encode()).hexdigest()
    path = _split_file(table, rule, seed, ratios, timed=timed)
    if path.exists():
        labels = _read_split(path, digest, len(pairs))
    else:
        labels = pl.Series(split_labels(rule, table.frame["user"].to_numpy(), times, seed, ratios))
        _refuse_empty(labels, rule, ratios, table.path)
        if write:
            _write_split(path, pairs.with_columns(x_label=labels, digest=pl.lit(digest)))
    return replace(table, frame=table.frame.with_columns(label=labels))


def _split_file(table: Table, rule: str, seed: int, ratios: Ratios, *, timed: bool) -> Path:
    stem = table.path.parent.resolve().name if table.unit == "column" else table.path.name
    for suffix in (".gz", ".inter", ".csv", ".parquet"):
        stem = stem.removesuffix(suffix)
    parts = [rule]
    if rule != "leave_one_out":
        parts += [f"{ratio:g}" for ratio in ratios]
    if not timed:
        parts.append(f"seed{seed}")
    return table.path.parent / f"{stem}.split-{'-'.join(parts)}.parquet"


def _read_split(path: Path, digest: str, n: int) -> pl.Series:
    again = "delete the file to make a new split, or bring back the data it was made for"
    try:
        stored = pl.read_parquet(path, columns=["x_label", "digest"])
    except (OSError, *PARQUET_ERRORS) as error:
        raise DataError(
            f"not a readable split file ({str(error).splitlines()[0]})", path=path, fix=again
        ) from None
    if len(stored) != n or not (stored["digest"] == digest).all():
        raise DataError(
            "the split was made for other interactions",
            path=path,
            expected="the users, items and order of the interactions it was made for",
            fix=again,
        )
    if not stored["x_label"].is_in([0, 1, 2]).all():
        raise DataError("labels other than 0, 1 and 2", path=path, fix=again)
    return stored["x_label"]


def _refuse_empty(labels: pl.Series, rule: str, ratios: Ratios, path: Path) -> None:
    wanted = [True] * 3 if rule == "leave_one_out" else [ratio > 0 for ratio in ratios]
    for label, name in enumerate(("train", "validation", "test")):
        if wanted[label] and not (labels == label).any():
            raise DataError(
                f"split={rule} leaves the {name} split empty",
                path=path,
                expected="three interactions of some user, and more than one moment in time",
                fix="choose another split=, other ratios=, or give more data",
            )


def _write_split(path: Path, frame: pl.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        frame.write_parquet(temporary)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"the split cannot be written ({error.strerror or error})",
            path=path,
            expected="a writable folder: a split by rule is kept there for the runs to come",
            fix="make a folder of your own with links to the data files, and pass that",
        ) from None
