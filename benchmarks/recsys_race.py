"""What the races of recommenders share: the race set, and an evaluation in plain lists."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.data.demo import generate_grs
from recsys.data.interactions import Interactions

RACE = {
    "seed": 2026,
    "n_users": 20_000,
    "n_items": 7_000,
    "mean_extra": 3.0,
    "n_topics": 40,
    "d_lat": 24,
    "beta": 2.0,
    "d_img": 4096,
    "d_txt": 384,
    "img_noise": 1.0,
    "txt_noise": 0.5,
}
BATCH, TOPK = 2048, (5, 10, 20, 50)


def race_set() -> Interactions:
    """The generated data set as the project's readers would give it."""
    data = generate_grs(**RACE)
    pairs = torch.from_numpy(np.stack([data.users, data.items]))
    labels = torch.from_numpy(data.label)
    return Interactions(
        n_users=RACE["n_users"],
        n_items=RACE["n_items"],
        train=pairs[:, labels == 0],
        valid=pairs[:, labels == 1],
        test=pairs[:, labels == 2],
        features={"image": torch.from_numpy(data.image), "text": torch.from_numpy(data.text)},
        user_ids=[],
        item_ids=[],
    )


def evaluate_in_lists(
    data: Interactions, tables: Callable[[], tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Metrics of the validation split, as a toolbox with Python lists computes them.

    Args:
        data: what is ranked.
        tables: runs the network and gives users and items; it is run for each block of users.
    """
    positives: dict[int, list[int]] = {}
    for user, item in data.valid.T.tolist():
        positives.setdefault(user, []).append(item)
    evaluated = sorted(positives)
    seen: dict[int, list[int]] = {}
    for user, item in data.train.T.tolist():
        seen.setdefault(user, []).append(item)
    ranked = []
    for start in range(0, len(evaluated), 4096):
        block = evaluated[start : start + 4096]
        users, items = tables()
        scores = users[block] @ items.T
        rows = [i for i, user in enumerate(block) for _ in seen.get(user, [])]
        columns = [item for user in block for item in seen.get(user, [])]
        scores[rows, columns] = -1e10
        ranked += scores.topk(max(TOPK)).indices.tolist()
    hits = np.array(
        [[i in positives[u] for i in row] for u, row in zip(evaluated, ranked, strict=True)]
    )
    count = np.array([len(positives[user]) for user in evaluated])
    discount = 1 / np.log2(np.arange(2, max(TOPK) + 2))
    ideal = np.concatenate([[0.0], discount.cumsum()])
    result: dict[str, Any] = {}
    for k in TOPK:
        top, reach = hits[:, :k], np.minimum(count, k)
        precision = top.cumsum(1) / np.arange(1, k + 1)
        result[f"recall@{k}"] = (top.sum(1) / count).mean()
        result[f"ndcg@{k}"] = ((top * discount[:k]).sum(1) / ideal[reach]).mean()
        result[f"map@{k}"] = ((precision * top).sum(1) / reach).mean()
        result[f"precision@{k}"] = top.mean()
    return {name: float(value) for name, value in result.items()}
