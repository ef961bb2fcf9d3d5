"""Which pairs are for training, validation and test: a rule that can be applied block by block."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int8

from core.data.checks import DataError
from recsys.data.pair_files import PairBlock

RULES = ("column", "by_time", "leave_out")
Label = Callable[[pl.DataFrame, PairBlock], Int8[np.ndarray, " rows"]]
_SAMPLED_TIMES = 2**22


def split_rule(
    rule: str,
    ratios: Sequence[float],
    seed: int,
    blocks: list[PairBlock],
    folder: Path,
    write: bool,
) -> Label:
    """Pairs of a block -> their labels: 0 train, 1 validation, 2 test.

    Args:
        rule: `column` takes what the column `split` says; `by_time` cuts at two moments, which are
            kept in a file beside the data and read again; `leave_out` decides by a hash of query,
            item and seed, so that equal pairs stay together and further pairs change nothing.
        ratios: shares of train, validation and test of a rule.
        seed: of `leave_out`.
        blocks: all pairs.
        folder: where the moments are kept.
        write: whether to keep them there.

    Raises:
        DataError: there is no such rule, the ratios are none, or the pairs lack what the rule asks.
    """
    if rule not in RULES:
        raise DataError(f"unknown split={rule}", expected=" | ".join(RULES), fix="choose one")
    if rule == "column":
        return _column_labels
    if len(ratios) != 3 or min(ratios) < 0 or ratios[0] <= 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(
            f"ratios={list(ratios)}",
            expected="three shares (train, validation, test) that add up to 1, train above 0",
        )
    if rule == "leave_out":
        ends = np.cumsum(ratios)
        return lambda pairs, _: _label(_chance(pairs, seed), ends[0], ends[1])
    first, second = _moments(blocks, ratios, folder, write)
    # The later side of a moment begins after it, so that equal times stay together.
    return lambda pairs, block: _label(_times(pairs, block), first, second, after=True)


def _label(
    x: np.ndarray, first: float, second: float, after: bool = False
) -> Int8[np.ndarray, " rows"]:
    beyond = np.greater if after else np.greater_equal
    return beyond(x, first).astype(np.int8) + beyond(x, second)


def _column_labels(pairs: pl.DataFrame, block: PairBlock) -> Int8[np.ndarray, " rows"]:
    if "split" not in pairs.columns:
        raise DataError(
            "no column split",
            path=block.path,
            expected="split with 0 (train), 1 (validation), 2 (test)",
            fix="let a split be made: data.split=leave_out or data.split=by_time",
        )
    labels = pairs["split"]
    if not (labels.dtype.is_integer() and labels.is_in([0, 1, 2]).all()):
        raise DataError(
            f"{block.place} on: labels other than 0, 1 and 2 in split",
            path=block.path,
            expected="0 (train), 1 (validation), 2 (test)",
        )
    return labels.cast(pl.Int8).to_numpy()


def _chance(pairs: pl.DataFrame, seed: int) -> np.ndarray:
    """A number in [0, 1) that follows from query, item and seed (the mixer of splitmix64)."""
    query, item = (pairs[name].to_numpy().astype(np.uint64) for name in ("query_id", "item_id"))
    step, first, second = (
        np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
    )
    # The products are meant to overflow.
    mixed = np.full(len(pairs), seed, np.uint64)
    for x in (query, item):
        mixed = (mixed ^ x) * step + step
        mixed = (mixed ^ (mixed >> np.uint64(30))) * first
        mixed = (mixed ^ (mixed >> np.uint64(27))) * second
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)) / 2.0**53


def _times(pairs: pl.DataFrame, block: PairBlock) -> np.ndarray:
    if "timestamp" not in pairs.columns:
        raise DataError(
            "no column timestamp",
            path=block.path,
            expected="the moment of each pair, for data.split=by_time",
            fix="write it, or choose data.split=leave_out",
        )
    times = pairs["timestamp"]
    if times.dtype.is_temporal():
        times = times.cast(pl.Int64)
    if times.null_count() or not times.dtype.is_numeric() or not times.is_finite().all():
        raise DataError(
            f"{block.place} on: timestamp ({times.dtype}) has values that are no moment",
            path=block.path,
            expected="numbers or dates, without null, NaN or infinity",
        )
    return times.cast(pl.Float64).to_numpy()


def _moments(
    blocks: list[PairBlock], ratios: Sequence[float], folder: Path, write: bool
) -> tuple[float, float]:
    """The two moments: from their file, or at the quantiles of (up to some millions of) times."""
    shares = "-".join(f"{ratio:g}" for ratio in ratios)
    path = folder / f"pairs.split-by_time-{shares}.json"
    if path.is_file():
        try:
            first, second = json.loads(path.read_text())["moments"]
            return float(first), float(second)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"not a split file ({error})", path=path, fix="delete it to make a new split"
            ) from None
    every = max(1, len(blocks) * 2**16 // _SAMPLED_TIMES)
    times = np.concatenate([_times(block.read(), block)[::every] for block in blocks])
    points = [ratios[0], min(ratios[0] + ratios[1], 1.0)]
    first, second = np.quantile(times, points, method="inverted_cdf").tolist()
    if write:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"moments": [first, second]}) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise DataError(
                f"the split cannot be written ({error.strerror or error})",
                path=path,
                expected="a writable folder: the moments are kept there for the runs to come",
            ) from None
    return first, second
