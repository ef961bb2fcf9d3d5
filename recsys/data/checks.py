"""Looks through the data of a recommender and lists everything that is wrong with them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from core.data.checks import CheckReport
from core.data.findings import Findings
from recsys.data.interactions import Interactions
from recsys.data.readers import read_interactions


def check_interactions(
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
) -> CheckReport:
    """Reads what `load_interactions` reads, with the same arguments, and writes nothing.

    Rows at fault are set aside and reading goes on, so that one call shows all problems; the facts
    are those of the usable part.
    """
    findings = Findings(strict=False)
    data = read_interactions(
        path,
        findings,
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
    facts: dict[str, str | int | float] = {}
    if data is not None:
        facts = _facts(data)
        untrained = data.n_items - data.train[1].unique().numel()
        if untrained:
            findings.warn(f"{untrained:,} of {data.n_items:,} items have no training interaction")
    return CheckReport(facts, findings.problems, findings.warnings)


def _facts(data: Interactions) -> dict[str, str | int | float]:
    n_pairs = data.train.shape[1] + data.valid.shape[1] + data.test.shape[1]
    facts: dict[str, str | int | float] = {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": n_pairs,
        "train": data.train.shape[1],
        "valid": data.valid.shape[1],
        "test": data.test.shape[1],
        "density": n_pairs / (data.n_users * data.n_items),
        "train degree of users (min / median / max)": _degrees(data.train[0], data.n_users),
        "train degree of items (min / median / max)": _degrees(data.train[1], data.n_items),
    }
    for name, width in data.feature_dims.items():
        facts[f"{name} features"] = f"{data.n_items} x {width}"
    if data.titles is not None:
        facts["titles"] = len(data.titles)
    return facts


def _degrees(ids: torch.Tensor, n: int) -> str:
    degree = torch.bincount(ids, minlength=n)
    return f"{degree.min()} / {degree.median()} / {degree.max()}"
