"""Top-K recommendation: how recommenders are trained on, evaluated, embedded and searched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.data.resident import ResidentLoader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.ranking import full_ranking
from recsys.data.ids import save_id_mapping
from recsys.data.interactions import Interactions, Split
from recsys.systems.recommender import Recommender

MAPPING = "ids.json"
METRICS = ("recall", "precision", "ndcg", "map", "hit")


class TopKRecommendation:
    """Full ranking of all items for every held-out user, training items masked.

    Args:
        topk: the K of recall, ndcg, precision, map and hit.
        monitor: the metric that chooses checkpoints and configurations.

    Raises:
        DataError: the monitor is not among the metrics.
    """

    def __init__(self, topk: Sequence[int] = (5, 10, 20, 50), monitor: str = "recall@20") -> None:
        self.topk, self.monitor = tuple(topk), monitor
        names = [f"{metric}@{k}" for metric in METRICS for k in self.topk]
        if monitor not in names:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(names)}")

    def system_arguments(self, data: Interactions) -> dict[str, Any]:
        """The sizes that a recommender is built with."""
        return {
            "n_users": data.n_users,
            "n_items": data.n_items,
            "n_interactions": data.n_interactions,
            "feature_dims": data.feature_dims,
        }

    def train_loader(
        self,
        system: Recommender,
        data: Interactions,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> ResidentLoader:
        """Batches of `user`, `item` and, for methods that need it, `negative`; each (B,) int64.

        A negative is any item that the user has no training pair with, held-out items among them.
        A system with `official_negatives` gets none of the held-out items that `data` hold: that
        tells it which they are. Training is handed no test split, so in `fit` it is those of the
        validation split; the authors' code leaves out those of the test split too.
        """
        columns = {"user": data.train[0].contiguous(), "item": data.train[1].contiguous()}
        taken = data.train
        if system.official_negatives:
            taken = torch.cat([data.train, data.valid, data.test], 1)
        sampler = NegativeSampler(taken, data.n_items) if system.needs_negatives else None
        return ResidentLoader(columns, batch_size, seed, rank, world_size, draw=sampler)

    def has_split(self, data: Interactions, split: Split) -> bool:
        """Whether the split has any interactions."""
        return data.positives(split).shape[1] > 0

    def evaluate(self, system: Recommender, data: Interactions, split: Split) -> Evaluation:
        """Full ranking on a split, with the values of every user.

        Raises:
            DataError: the split is empty, or the system was trained on other users or items.
        """
        if not self.has_split(data, split):
            raise DataError(
                f"the {split} split has no interactions",
                fix="choose another split=, or let data.split=ratio make one",
            )
        tables = _embed_all(system, data, ["user", "item"])
        ranking = full_ranking(
            tables["user"], tables["item"], data.train, data.positives(split), self.topk
        )
        return Evaluation(
            ranking.metrics,
            unit="user",
            unit_ids=ranking.users.cpu().numpy(),
            per_unit={name: values.cpu().numpy() for name, values in ranking.per_user.items()},
        )

    def embed(self, system: Recommender, data: Interactions) -> pl.DataFrame:
        """All users, items and modalities of items: `kind`, `id` as in the files, `embedding`."""
        frames = []
        for kind, vectors in _embed_all(system, data, system.kinds).items():
            ids = data.user_ids if kind == "user" else data.item_ids
            frames.append(
                pl.DataFrame(
                    {"kind": [kind] * len(ids), "id": ids, "embedding": vectors.cpu().numpy()},
                    schema={
                        "kind": pl.String,
                        "id": pl.String,
                        "embedding": pl.Array(pl.Float32, vectors.shape[1]),
                    },
                ).with_columns(pl.col("embedding").arr.to_list())
            )
        return pl.concat(frames)

    def search(
        self,
        system: Recommender,
        data: Interactions,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The best items for `user:ID` (taken in no split), or those nearest to `item:ID`.

        `image:ID` or `text:ID` look among the items with that modality of an item. Exact, or from
        an index of the same system.

        Raises:
            DataError: the query names nothing that is there.
        """
        tables = _embed_all(system, data, system.kinds)
        kind, _, name = query.partition(":")
        if kind not in tables or not name:
            raise DataError(f"query={query}", expected=" or ".join(f"{k}:ID" for k in tables))
        ids = data.user_ids if kind == "user" else data.item_ids
        if name not in ids:
            raise DataError(
                f"query={query}: no such id in the data",
                expected=f"one of {len(ids)} ids such as {', '.join(ids[:3])}",
            )
        number = ids.index(name)
        spaces = _spaces(tables)
        if kind == "user":
            taken = torch.cat([data.train, data.valid, data.test], 1)
            left_out = taken[1, taken[0] == number].unique()
            space, vector = "ranking", tables["user"][number]
        else:
            left_out = torch.tensor([number], device=data.train.device)
            space, vector = "similar", normalize(tables[kind][number], dim=0)
        wanted = min(k + len(left_out), data.n_items)
        if index is None:
            best = (spaces[space] @ vector).topk(wanted)
            found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        else:
            scores, rows = index.search(space, vector[None].cpu().numpy(), wanted)
            found = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
        hidden = {-1, *left_out.tolist()}
        shown = [(score, item) for score, item in found if item not in hidden][:k]
        return [
            {"rank": rank, "item": data.item_ids[item], "score": score}
            | ({"title": data.titles[item]} if data.titles else {})
            for rank, (score, item) in enumerate(shown, start=1)
        ]

    def index_spaces(
        self, system: Recommender, data: Interactions
    ) -> dict[str, tuple[Float[Tensor, "n dim"], Float[Tensor, "m dim"]]]:
        """What `index` builds: items to rank for users, and items of unit length to be near to.

        Each space comes with queries of the kind that it will be asked.
        """
        tables = _embed_all(system, data, ["user", "item"])
        spaces = _spaces(tables)
        return {
            "ranking": (spaces["ranking"], tables["user"]),
            "similar": (spaces["similar"], spaces["similar"]),
        }

    def keep_reading(self, data: Interactions, run_dir: Path) -> None:
        """Writes which id is which row, so that other files are read with the same rows."""
        save_id_mapping(data, run_dir / MAPPING)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The reader's argument for the mapping that the run wrote."""
        mapping = run_dir / MAPPING
        return {"id_mapping": str(mapping)} if mapping.is_file() else {}


class NegativeSampler:
    """Items that a user has not taken, uniform and exact, without rejection.

    The r-th item that a user has not taken is r + c, with c the number of taken items at or before
    it; with a user's taken items p_0 < p_1 < ... that is the number of k with p_k - k <= r. So
    one uniform number and one binary search give one negative.

    Args:
        taken: (2, n) distinct pairs, users over items.
        n_items: number of items; every user has taken fewer.
    """

    def __init__(self, taken: Int64[Tensor, "2 n"], n_items: int) -> None:
        self.n_items = n_items
        users, items = taken[:, (taken[0] * n_items + taken[1]).argsort()]
        n_users = int(users.max()) + 1
        self.degree = torch.bincount(users, minlength=n_users)
        self.start = self.degree.cumsum(0) - self.degree
        place = torch.arange(len(users), device=users.device) - self.start[users]
        self.keys = users * n_items + items - place

    def __call__(
        self, columns: dict[str, Int64[Tensor, " n"]], generator: torch.Generator
    ) -> dict[str, Int64[Tensor, " n"]]:
        """One `negative` for each `user`."""
        users = columns["user"]
        uniform = torch.rand(len(users), generator=generator, dtype=torch.float64)
        free = self.n_items - self.degree[users]
        rank = (uniform.to(users.device) * free).long()
        taken_before = torch.searchsorted(self.keys, users * self.n_items + rank, right=True)
        return {"negative": rank + taken_before - self.start[users]}


def _spaces(tables: dict[str, Float[Tensor, "n dim"]]) -> dict[str, Float[Tensor, "n dim"]]:
    """The vectors of the items in which a neighbour is the largest inner product."""
    return {"ranking": tables["item"], "similar": normalize(tables["item"], dim=1)}


def _embed_all(
    system: Recommender, data: Interactions, kinds: Sequence[str]
) -> dict[str, Float[Tensor, "n dim"]]:
    """Embeddings of every user, item or item's modality, for each kind that is asked for.

    Raises:
        DataError: the system was trained on other numbers of users or items.
    """
    for name, trained, given in (
        ("users", system.n_users, data.n_users),
        ("items", system.n_items, data.n_items),
    ):
        if trained != given:
            raise DataError(
                f"the system was trained on {trained} {name} and these data have {given}",
                fix="give the data set of the run, or train on this one",
            )
    device = data.train.device
    everyone = {
        kind: torch.arange(data.n_users if kind == "user" else data.n_items, device=device)
        for kind in kinds
    }
    with torch.no_grad():
        return system.embed(everyone)
