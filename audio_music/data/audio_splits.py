"""Splits of recordings: those of one artist, speaker or piece are in one of them."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from audio_music.data.manifests import Entry
from core.data.checks import DataError
from core.data.samples import SPLITS

RULES = ("auto", "files", "group", "random")


def split_entries(
    entries: Sequence[Entry],
    split: str = "auto",
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
) -> dict[str, Int64[Tensor, " rows"]]:
    """Which recordings train, validate and test.

    Args:
        entries: the recordings.
        split: `files`: as the files say; `group`: groups are drawn, a recording without one is its
            own; `random`: recordings are drawn, whatever group they are of; `auto`: `files` where
            they say anything, else `group`.
        ratios: of train, valid and test, where they are drawn.
        valid_share: of the training groups, where the files name training and no validation.
        seed: of the draw.

    Raises:
        DataError: the rule is unknown, some recordings are of no split while others are, or nothing
            is left to train on.
    """
    if split not in RULES:
        raise DataError(f"data.split={split}", expected=", ".join(RULES))
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(f"data.ratios={list(ratios)}", expected="three shares with the sum 1")
    said = [entry.split for entry in entries]
    if split == "auto":
        split = "files" if any(said) else "group"
    groups = [
        str(number) if entry.group is None or split == "random" else f"group {entry.group}"
        for number, entry in enumerate(entries)
    ]
    if split != "files":
        of_row = _drawn(groups, ratios, seed)
    elif None in said:
        odd = entries[said.index(None)]
        raise DataError("of no split", path=odd.place, fix="say it there, or data.split=group")
    elif "valid" in said or valid_share <= 0:
        of_row = [name or "" for name in said]
    else:
        train = [row for row, name in enumerate(said) if name == "train"]
        shares = (1 - valid_share, valid_share, 0.0)
        drawn = _drawn([groups[row] for row in train], shares, seed)
        of_row = [name or "" for name in said]
        for row, name in zip(train, drawn, strict=True):
            of_row[row] = name
    rows = {
        name: torch.tensor([row for row, of in enumerate(of_row) if of == name]).long()
        for name in SPLITS
    }
    if not len(rows["train"]):
        raise DataError("no recording is left to train on", fix="change data.ratios or data.split")
    return rows


def _drawn(groups: Sequence[str], ratios: Sequence[float], seed: int) -> list[str]:
    """Groups in random order until the recordings of each split are as many as they should be."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    names = sorted(rows_of)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    bounds = (ratios[0] * len(groups), (ratios[0] + ratios[1]) * len(groups))
    of_row, given = [""] * len(groups), 0
    for number in order:
        rows = rows_of[names[number]]
        # By the middle of the group, so that a large one goes where most of it belongs.
        middle = given + len(rows) / 2
        split = SPLITS[sum(middle > bound for bound in bounds)]
        for row in rows:
            of_row[row] = split
        given += len(rows)
    return of_row
