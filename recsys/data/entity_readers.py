"""A folder of queries, items and pairs -> `EntityPairs`, and what is wrong with it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64

from core.data.checks import CheckReport, DataError
from core.data.findings import Findings
from core.data.stream import Block
from recsys.data.entities import EntityPairs, EntityTable
from recsys.data.entity_tables import read_entities_table, read_vocabulary
from recsys.data.pair_files import PairBlock, find_pair_files, pair_blocks
from recsys.data.pair_splits import Label, split_rule

_SHARES = (0.98, 0.01, 0.01)


def load_entities(
    path: str | Path,
    split: str = "column",
    seed: int = 0,
    ratios: Sequence[float] = _SHARES,
    max_bag: int = 64,
) -> EntityPairs:
    """Reads two tables of entities with categorical features, and pairs of a query and an item.

    A folder holds `vocab.json` (feature -> number of codes, null for an open vocabulary),
    `queries.parquet` and `items.parquet` (`id` from 0, a column of integers or lists of integers
    for each feature, optionally `title`), and the pairs: `pairs.parquet`, or a folder `pairs` of
    `*.parquet` or `*.tar` that is streamed and may be larger than memory. A pair has `query_id`,
    `item_id` and, where the split asks for it, `timestamp` or `split`. Held-out pairs that are
    also in training are left out: rankings leave out what was trained on.

    Args:
        path: the folder.
        split: `column` takes the column `split` (0 train, 1 validation, 2 test); `by_time` cuts at
            two moments, written beside the data once; `leave_out` leaves out pairs by chance.
        seed: of `leave_out`.
        ratios: shares of train, validation and test of a rule.
        max_bag: values of a bag that are read, the first of it.

    Raises:
        DataError: if anything is unusable; it names the file, what was found and the cure.
    """
    data = _read(Path(path), Findings(strict=True), split, seed, ratios, max_bag)
    assert data is not None
    return data


def check_entities(
    path: str | Path,
    split: str = "column",
    seed: int = 0,
    ratios: Sequence[float] = _SHARES,
    max_bag: int = 64,
) -> CheckReport:
    """Reads what `load_entities` reads, with the same arguments, and writes nothing.

    A file at fault is set aside and reading goes on, so that one call shows the problem of each.
    """
    findings = Findings(strict=False)
    data = _read(Path(path), findings, split, seed, ratios, max_bag)
    facts: dict[str, str | int | float] = {}
    if data is not None:
        counts = data.item_counts
        facts = {"queries": len(data.queries), "items": len(data.items)}
        facts |= {"train": int(counts.sum()), "valid": data.valid.shape[1]}
        facts |= {"test": data.test.shape[1]}
        facts["train pairs of items (min / median / max)"] = (
            f"{counts.min()} / {counts.median()} / {counts.max()}"
        )
        facts["items without training pair"] = int((counts == 0).sum())
        for name, table in (("query", data.queries), ("item", data.items)):
            for feature, (size, width) in table.features.items():
                codes = "open" if size is None else f"{size} codes"
                bag = f", bags of up to {width}" if width > 1 else ""
                facts[f"{name} feature {feature}"] = codes + bag
    return CheckReport(facts, findings.problems, findings.warnings)


def _read(
    folder: Path,
    findings: Findings,
    split: str,
    seed: int,
    ratios: Sequence[float],
    max_bag: int,
) -> EntityPairs | None:
    tables: dict[str, EntityTable] = {}
    with findings.going_on():
        if not folder.is_dir():
            raise DataError(
                "no such folder",
                path=folder,
                expected="vocab.json, queries.parquet, items.parquet and pairs",
                fix="check the path; `recsys data demo data=entities path=DIR` writes an example",
            )
        if max_bag < 1:
            raise DataError(f"data.max_bag={max_bag}", expected="a number of values from 1")
        vocabulary = read_vocabulary(folder / "vocab.json")
        for name in ("queries", "items"):
            with findings.going_on():
                file = folder / f"{name}.parquet"
                tables[name] = read_entities_table(file, vocabulary, max_bag, findings)
        there = {feature for table in tables.values() for feature in table.features}
        if len(tables) == 2 and set(vocabulary) - there:
            raise DataError(
                f"features that are a column of neither table: {sorted(set(vocabulary) - there)}",
                path=folder / "vocab.json",
                fix="name the columns as here, or leave them out here",
            )
    if len(tables) < 2:
        return None
    with findings.going_on():
        files, streamed = find_pair_files(folder)
        blocks: list[PairBlock] = []
        for file in files:
            with findings.going_on():
                blocks += pair_blocks(file)
        if not blocks:
            raise DataError("no pair in it", path=files[0], expected="query_id and item_id")
        return _with_pairs(
            tables["queries"],
            tables["items"],
            blocks,
            split_rule(split, ratios, seed, blocks, folder, write=findings.strict),
            findings,
            streamed,
        )
    return None


def _with_pairs(
    queries: EntityTable,
    items: EntityTable,
    blocks: list[PairBlock],
    label: Label,
    findings: Findings,
    streamed: bool,
) -> EntityPairs:
    counts = np.zeros(len(items), np.int64)
    digest = hashlib.sha256(f"{len(queries)},{len(items)}".encode())
    train, train_blocks = [], []
    held_out: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for block in blocks:
        with findings.going_on():
            pairs, labels = _checked(block, len(queries), len(items), label)
            ours = pairs[:, labels == 0]
            counts += np.bincount(ours[1], minlength=len(items))
            digest.update(ours.tobytes())
            if streamed:
                rows = _TrainRows(block, len(queries), len(items), label, ours.shape[1])
                train_blocks.append(Block(ours.shape[1], rows))
            else:
                train.append(ours)
            for split, parts in held_out.items():
                parts.append(pairs[:, labels == split])
    if counts.sum() == 0:
        raise DataError(
            "no pair to train on",
            path=blocks[0].path.parent,
            expected="pairs of the training split",
        )
    valid, test = (_distinct(parts, len(items)) for parts in held_out.values())
    if streamed:
        known = _known_of(train_blocks, np.concatenate([valid[0], test[0]]), len(queries))
    else:
        known = np.concatenate(train, 1)
    return EntityPairs(
        queries=queries,
        items=items,
        item_counts=torch.from_numpy(counts),
        known=torch.from_numpy(known),
        valid=torch.from_numpy(_unknown(valid, known, len(items), "validation", findings)),
        test=torch.from_numpy(_unknown(test, known, len(items), "test", findings)),
        streamed=train_blocks if streamed else None,
        pairs_digest=digest.hexdigest(),
    )


def _checked(
    block: PairBlock, n_queries: int, n_items: int, label: Label
) -> tuple[Int64[np.ndarray, "2 n"], np.ndarray]:
    frame = block.read()
    for name, n in (("query_id", n_queries), ("item_id", n_items)):
        ids = frame[name]
        if not ids.dtype.is_integer():
            raise DataError(f"{name} holds {ids.dtype}", path=block.path, expected="integers")
        wrong = (~ids.is_between(0, n - 1)).fill_null(True)
        if wrong.any():
            first = wrong.arg_true()[0]
            raise DataError(
                f"{block.place} on, pair {first}: {name} is {ids[first]}"
                f" (and {int(wrong.sum()) - 1:,} more like it)",
                path=block.path,
                expected=f"ids from 0 to {n - 1}, those of the table",
            )
    pairs = np.stack([frame[n].cast(pl.Int64).to_numpy() for n in ("query_id", "item_id")])
    return pairs, label(frame, block)


@dataclass(frozen=True)
class _TrainRows:
    """Reads the training pairs of a block again; a file must not change while it is trained on."""

    block: PairBlock
    n_queries: int
    n_items: int
    label: Label
    rows: int

    def __call__(self) -> dict[str, torch.Tensor]:
        pairs, labels = _checked(self.block, self.n_queries, self.n_items, self.label)
        ours = pairs[:, labels == 0]
        if ours.shape[1] != self.rows:
            raise DataError(
                f"{self.block.place} on: {ours.shape[1]} training pairs, there were {self.rows}",
                path=self.block.path,
                fix="leave the files alone while they are trained on",
            )
        query, item = torch.from_numpy(ours)
        return {"query_id": query, "item_id": item}


def _distinct(parts: list[np.ndarray], n_items: int) -> Int64[np.ndarray, "2 n"]:
    if not parts:
        return np.zeros((2, 0), np.int64)
    queries, items = np.concatenate(parts, 1)
    return np.stack(np.divmod(np.unique(queries * n_items + items), n_items))


def _known_of(blocks: list[Block], queries: np.ndarray, n_queries: int) -> Int64[np.ndarray, "2 n"]:
    """The training pairs of the evaluated queries."""
    is_evaluated = torch.zeros(n_queries, dtype=torch.bool)
    is_evaluated[torch.from_numpy(queries)] = True
    parts = []
    for block in blocks:
        columns = block.read()
        asked = is_evaluated[columns["query_id"]]
        parts.append(torch.stack([columns["query_id"][asked], columns["item_id"][asked]]))
    return torch.cat(parts, 1).numpy()


def _unknown(
    pairs: np.ndarray, known: np.ndarray, n_items: int, name: str, findings: Findings
) -> Int64[np.ndarray, "2 n"]:
    trained = np.isin(pairs[0] * n_items + pairs[1], known[0] * n_items + known[1])
    if trained.any():
        findings.warn(f"{int(trained.sum()):,} {name} pairs are also in training: left out")
    return pairs[:, ~trained]
