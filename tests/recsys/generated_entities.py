"""Generated entities as the towers get them, without files in between."""

import numpy as np
import torch

from recsys.data.entities import EntityPairs, EntityTable
from recsys.data.entity_demo import CARDINALITIES, generate_entities
from recsys.retrieval_task import Retrieval
from recsys.systems.large_scale_ssl import LargeScaleSSL

TINY = {"feature_dim": 8, "hidden": [16], "dim": 8}


def generated(
    seed: int = 0, n_queries: int = 120, n_items: int = 80, shared_topic: bool = True
) -> EntityPairs:
    """Items have six features and their number; three pairs of a query train, two test."""
    data = generate_entities(seed, n_queries, n_items, shared_topic)
    query = np.repeat(np.arange(n_queries), 6)
    pairs = torch.from_numpy(np.stack([query, data.pairs.ravel()]))
    place = torch.arange(pairs.shape[1]) % 6
    numbers = np.arange(n_items)[:, None]
    sizes = {f"feature_{n}": (size, 1) for n, size in enumerate(CARDINALITIES)}
    return EntityPairs(
        queries=EntityTable(
            torch.from_numpy(data.query_features), {"topic": (60, 1), "noise": (20, 1)}
        ),
        items=EntityTable(
            torch.from_numpy(np.concatenate([data.item_features, numbers], 1)),
            sizes | {"item": (n_items, 1)},
        ),
        item_counts=torch.bincount(pairs[1, place < 3], minlength=n_items),
        known=pairs[:, place < 3],
        valid=pairs[:, place == 3],
        test=pairs[:, place > 3],
        streamed=None,
        pairs_digest=str(seed),
    )


def built(data: EntityPairs, **arguments) -> LargeScaleSSL:
    """A small system on these data, prepared and not trained."""
    system = LargeScaleSSL.of(Retrieval().system_arguments(data), **(TINY | arguments))
    system.prepare(data)
    return system


def batch_of(system: LargeScaleSSL, data: EntityPairs, size: int = 32) -> dict[str, torch.Tensor]:
    """The first batch of a training."""
    return next(iter(Retrieval().train_loader(system, data, size, seed=0)))
