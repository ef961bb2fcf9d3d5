"""Interaction files, item features and titles of a folder -> `Interactions`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import Findings
from recsys.data.arrays import align_features, feature_files, read_features
from recsys.data.ids import Ids, encode, read_id_mapping, read_row_mapping
from recsys.data.interactions import Interactions
from recsys.data.pairs import (
    drop_duplicates,
    refuse_full_users,
    refuse_overlap,
    refuse_untrainable,
    treat_cold_users,
)
from recsys.data.splits import Ratios, assign_split, check_rule
from recsys.data.tables import Table, read_rearm, read_table
from recsys.data.titles import read_titles

_REARM_FILES = ("train.npy", "valid.npy", "test.npy")


def load_interactions(
    path: str | Path,
    split: str = "column",
    seed: int = 0,
    user_column: str | None = None,
    item_column: str | None = None,
    time_column: str | None = None,
    label_column: str | None = None,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    drop_cold_users: bool = True,
    features: Sequence[str] | None = None,
    id_mapping: str | Path | None = None,
) -> Interactions:
    """Reads the data of a recommender as the field keeps them.

    A folder holds one interaction file: MMRec's or RecBole's `.inter` (or `.inter.gz`), `.csv`,
    `.parquet`, or REARM's `train.npy`, `valid.npy`, `test.npy`. Beside it may lie item features
    `<modality>_feat.npy` (one row for each item), `i_id_mapping.csv` (original id, row of the
    features), and titles in `items.csv`, `items.parquet` or `*.item`. Ratings are ignored. Of a
    repeated pair the first row counts. A split without rows has 0 columns.

    Args:
        path: the folder, or the interaction file in it.
        split: `column` takes x_label (0 train, 1 validation, 2 test) or REARM's files; `ratio`
            splits the shuffled items of each user; `leave_one_out` takes the last of each user
            for test and the one before for validation (by time, if there is a time column, else
            shuffled); `by_time` cuts everyone at the same two moments. Splits by rule are kept in
            `<name>.split-<rule>-....parquet` beside the data and read again.
        seed: of the shuffle of a split by rule.
        user_column: header of the users; None recognises userID, user_id, user, uid.
        item_column: header of the items; None recognises itemID, item_id, item, iid.
        time_column: header of the times; None recognises timestamp, time, datetime.
        label_column: header of the split labels; None recognises x_label, split.
        ratios: shares of train, validation and test of `ratio` and `by_time`.
        drop_cold_users: leave users without training row out of validation and test.
        features: modalities to read; None reads all there are.
        id_mapping: file of `save_id_mapping`, to give ids the integers they had at training.

    Raises:
        DataError: if anything is unusable; it names the file, the line and the cure.
    """
    data = read_interactions(
        path,
        Findings(strict=True),
        split=split,
        seed=seed,
        user_column=user_column,
        item_column=item_column,
        time_column=time_column,
        label_column=label_column,
        ratios=ratios,
        drop_cold_users=drop_cold_users,
        features=features,
        id_mapping=id_mapping,
    )
    assert data is not None
    return data


def read_interactions(
    path: str | Path,
    findings: Findings,
    *,
    split: str,
    seed: int,
    user_column: str | None,
    item_column: str | None,
    time_column: str | None,
    label_column: str | None,
    ratios: Sequence[float],
    drop_cold_users: bool,
    features: Sequence[str] | None,
    id_mapping: str | Path | None,
) -> Interactions | None:
    """Reads as `load_interactions` and goes on past problems as far as `findings` lets it.

    Returns:
        The usable part, None if there is none. A split is written only when `findings` is strict.
    """
    path = Path(path)
    ids: dict[str, Ids] | None = None
    table = None
    with findings.going_on():
        shares = check_rule(split, ratios)
        columns = {
            "user": user_column,
            "item": item_column,
            "time": time_column,
            "label": label_column,
        }
        # An unused column need not be sound.
        roles = ["user", "item"] + (["label"] if split == "column" else ["time"])
        source = _find_interactions(path)
        table = (
            read_rearm(source, findings)
            if source.is_dir()
            else read_table(source, {role: columns[role] for role in roles}, findings)
        )
        table, ids = _encode_ids(table, id_mapping, findings)
        table = _split(table, ids, split, seed, shares, findings, drop_cold_users=drop_cold_users)
    folder = path if path.is_dir() else path.parent
    names = None if features is None else list(features)
    tables = _read_features(folder, names, ids["item"] if ids else None, findings)
    if table is None or ids is None or "label" not in table.frame.columns:
        return None
    titles = None
    with findings.going_on():
        titles = read_titles(folder, ids["item"].names, findings)
    return Interactions(
        n_users=len(ids["user"].names),
        n_items=len(ids["item"].names),
        train=_positives(table, 0),
        valid=_positives(table, 1),
        test=_positives(table, 2),
        features=tables,
        user_ids=ids["user"].names,
        item_ids=ids["item"].names,
        titles=titles,
    )


def _find_interactions(path: Path) -> Path:
    """The interaction file of a folder, or the folder itself if it holds REARM's arrays."""
    if path.is_file():
        return path.parent if path.name in _REARM_FILES else path
    if not path.exists():
        raise DataError(
            "no such file or folder",
            path=path,
            expected="a folder with interactions, or the interaction file",
            fix="check the path; `recsys data demo path=DIR` writes an example",
        )
    found = [*path.glob("*.inter"), *path.glob("*.inter.gz")]
    if any((path / name).exists() for name in _REARM_FILES):
        found.append(path / "train.npy")
    found = found or [
        file
        for file in [*path.glob("*.csv"), *path.glob("*.parquet")]
        if file.stem not in ("u_id_mapping", "i_id_mapping", "users", "items")
        and ".split-" not in file.name
    ]
    if len(found) != 1:
        listed = ", ".join(sorted(file.name for file in found))
        raise DataError(
            f"several interaction files: {listed}" if found else "no interaction file",
            path=path,
            expected="one *.inter, *.inter.gz, *.csv or *.parquet, or REARM's three .npy files",
            fix="pass the file itself as path" if found else "check the path",
        )
    return path if found[0].name == "train.npy" else found[0]


def _encode_ids(
    table: Table, id_mapping: str | Path | None, findings: Findings
) -> tuple[Table, dict[str, Ids]]:
    users = items = mapping_file = None
    if id_mapping is not None:
        mapping_file = Path(id_mapping)
        users, items = read_id_mapping(mapping_file)
    table, user_ids = encode(table, "user", users, mapping_file, findings)
    table, item_ids = encode(table, "item", items, mapping_file, findings)
    return table, {"user": user_ids, "item": item_ids}


def _split(
    table: Table,
    ids: dict[str, Ids],
    rule: str,
    seed: int,
    ratios: Ratios,
    findings: Findings,
    *,
    drop_cold_users: bool,
) -> Table:
    names = {role: known.names for role, known in ids.items()}
    n_items = len(names["item"])
    if rule == "column":
        if "label" not in table.frame.columns:
            raise DataError(
                "no split column (x_label)",
                path=table.path,
                line=1 if table.unit == "line" else None,
                expected="x_label with 0 (train), 1 (validation), 2 (test)",
                fix="name it with label_column=NAME, or let a split be made with split=ratio,"
                " split=leave_one_out or split=by_time",
            )
        table = drop_duplicates(table, n_items, findings)
        table = refuse_overlap(table, names, findings)
    else:
        frame = table.frame.drop("label", strict=False)
        table = drop_duplicates(replace(table, frame=frame), n_items, findings)
        table = assign_split(table, names, rule, seed, ratios, write=findings.strict)
    refuse_untrainable(table)
    table = treat_cold_users(table, names["user"], findings, drop=drop_cold_users)
    refuse_full_users(table, names["user"], n_items, findings)
    return table


def _read_features(
    folder: Path, names: list[str] | None, items: Ids | None, findings: Findings
) -> dict[str, Float32[Tensor, "n_items dim"]]:
    """The features of every item; without items the files are only looked at."""
    aligned: dict[str, Float32[Tensor, "n_items dim"]] = {}
    with findings.going_on():
        files = feature_files(folder, names)
        mapping = read_row_mapping(folder) if files else None
        for name, file in files.items():
            with findings.going_on():
                table = read_features(file)
                if items is not None:
                    aligned[name] = align_features(file, table, items.names, items.numbers, mapping)
    return aligned


def _positives(table: Table, label: int) -> Int64[Tensor, "2 n"]:
    rows = table.frame.filter(pl.col("label") == label)
    return torch.from_numpy(np.stack([rows["user"].to_numpy(), rows["item"].to_numpy()]))
