"""Generated interactions as the systems get them, without files in between."""

import numpy as np
import torch

from recsys.data.demo import generate_grs
from recsys.data.interactions import Interactions
from recsys.task import TopKRecommendation


def generated(seed: int = 0, n_users: int = 40, n_items: int = 30, **sizes) -> Interactions:
    data = generate_grs(seed, n_users, n_items, **sizes)
    pairs = torch.from_numpy(np.stack([data.users, data.items]))
    label = torch.from_numpy(data.label)
    return Interactions(
        n_users=n_users,
        n_items=n_items,
        train=pairs[:, label == 0],
        valid=pairs[:, label == 1],
        test=pairs[:, label == 2],
        features={"image": torch.from_numpy(data.image), "text": torch.from_numpy(data.text)},
        user_ids=[f"u{user}" for user in range(n_users)],
        item_ids=[f"i{item}" for item in range(n_items)],
        titles=[f"title {item}" for item in range(n_items)],
    )


def built(system_class, data: Interactions, **arguments):
    """A system on these data, prepared and not trained."""
    system = system_class.of(TopKRecommendation().system_arguments(data), **arguments)
    system.prepare(data)
    return system


def batch_of(data: Interactions, rows: slice, negatives: bool = False) -> dict[str, torch.Tensor]:
    batch = {"user": data.train[0, rows], "item": data.train[1, rows]}
    if negatives:
        batch["negative"] = (batch["item"] + 7) % data.n_items
    return batch
