"""Generated queries and items with categorical features, and a demo data set of them.

Items have a topic that shows in two groups of redundant features; queries ask for their topic;
items are taken by topic, popularity (a power law, so most have few pairs or none) and chance.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64

from core.data.demo_folder import demo_folder

CARDINALITIES = (60, 40, 30, 50, 40, 30)
_TOPICS, _GROUPS, _NOISES = 60, 25, 20
_TAKEN, _TRAINED = 6, 3
_QUERIES_AT_ONCE = 1000


@dataclass(frozen=True)
class GeneratedEntities:
    """A generated data set.

    Attributes:
        item_features: (n_items, 6); the first three recode one factor, the others another.
        query_features: (n_queries, 2): the topic as asked for, and noise.
        pairs: six items of each query in random order, (n_queries, 6).
        topic: of each item.
    """

    item_features: Int64[np.ndarray, "n_items 6"]
    query_features: Int64[np.ndarray, "n_queries 2"]
    pairs: Int64[np.ndarray, "n_queries 6"]
    topic: Int64[np.ndarray, " n_items"]


def generate_entities(
    seed: int, n_queries: int = 4000, n_items: int = 3000, shared_topic: bool = True
) -> GeneratedEntities:
    """Draws a data set; equal arguments give equal data.

    Args:
        seed: of every draw.
        n_queries: number of queries.
        n_items: number of items, 6 or more.
        shared_topic: both factors of an item follow from its topic; otherwise the second follows
            from a topic of its own that no query asks for, and the two groups share nothing.
    """
    rng = np.random.default_rng(100 + seed)
    topic = rng.integers(0, _TOPICS, n_items)
    other_topic = topic if shared_topic else rng.integers(0, _TOPICS, n_items)
    factors = [
        _replaced(rng, rng.integers(0, _GROUPS, _TOPICS)[shown], 0.3, _GROUPS)
        for shown in (topic, other_topic)
    ]
    features = [
        _replaced(rng, rng.permutation(n_codes)[:_GROUPS][factors[number // 3]], 0.15, n_codes)
        for number, n_codes in enumerate(CARDINALITIES)
    ]
    asked = rng.integers(0, _TOPICS, n_queries)
    query = [_replaced(rng, asked, 0.1, _TOPICS), rng.integers(0, _NOISES, n_queries)]
    log_popularity = -np.log(rng.permutation(n_items) + 1)
    taken = []
    for start in range(0, n_queries, _QUERIES_AT_ONCE):
        block = asked[start : start + _QUERIES_AT_ONCE]
        affinity = 4.0 * (block[:, None] == topic) + log_popularity
        affinity += rng.gumbel(size=affinity.shape)
        taken.append(np.argpartition(affinity, n_items - _TAKEN, axis=1)[:, -_TAKEN:])
    return GeneratedEntities(
        item_features=np.stack(features, 1),
        query_features=np.stack(query, 1),
        pairs=rng.permuted(np.concatenate(taken), axis=1),
        topic=topic,
    )


def _replaced(rng: np.random.Generator, codes: np.ndarray, share: float, n: int) -> np.ndarray:
    return np.where(rng.random(len(codes)) < share, rng.integers(0, n, len(codes)), codes)


def write_entity_demo(
    path: str | Path, seed: int = 0, n_queries: int = 4000, n_items: int = 3000
) -> None:
    """Writes a generated data set as `load_entities` reads it; an earlier demo is replaced.

    Of the six items of a query three are for training, one for validation and two for test, which
    is what the column `split` and the times say. The number of the item is a feature too.

    Raises:
        DataError: if `path` is something other than an empty folder or a demo, or unwritable.
    """
    path = Path(path).resolve()
    own = {"queries.parquet", "items.parquet", "pairs.parquet", "vocab.json"}
    about = {"generator": "entities", "seed": seed, "queries": n_queries, "items": n_items}
    with demo_folder(path, own, about) as folder:
        data = generate_entities(seed, n_queries, n_items)
        names = [f"feature_{number}" for number in range(len(CARDINALITIES))]
        vocabulary = dict(zip(names, CARDINALITIES, strict=True)) | {"item": n_items}
        vocabulary |= {"topic": _TOPICS, "noise": _NOISES}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, indent=1))
        numbers = pl.int_range(n_items, eager=True)
        items = {"id": numbers, "item": numbers}
        items |= dict(zip(names, data.item_features.T, strict=True))
        items["title"] = pl.Series([f"item {n} of topic {t}" for n, t in enumerate(data.topic)])
        pl.DataFrame(items).write_parquet(folder / "items.parquet")
        queries = {"id": pl.int_range(n_queries, eager=True)}
        queries |= dict(zip(("topic", "noise"), data.query_features.T, strict=True))
        pl.DataFrame(queries).write_parquet(folder / "queries.parquet")
        _pair_table(data.pairs, seed).write_parquet(folder / "pairs.parquet")


def _pair_table(pairs: Int64[np.ndarray, "n_queries 6"], seed: int) -> pl.DataFrame:
    n_queries = len(pairs)
    # Times come from a stream of their own: the pairs stay as defined.
    rng = np.random.default_rng([seed, 1])
    times = np.sort(1_600_000_000 + rng.integers(0, 365 * 24 * 3600, pairs.shape), axis=1)
    label = np.array([0] * _TRAINED + [1] + [2] * (_TAKEN - _TRAINED - 1))
    return pl.DataFrame(
        {
            "query_id": np.repeat(np.arange(n_queries), _TAKEN),
            "item_id": pairs.ravel(),
            "timestamp": times.ravel(),
            "split": np.tile(label, n_queries),
        }
    ).sort("timestamp")
