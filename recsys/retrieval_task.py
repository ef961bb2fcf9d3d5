"""Retrieval by two towers: how they are trained on, evaluated, embedded and searched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import pad

from core.data.checks import DataError
from core.data.stream import StreamLoader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.ranking import rank_items, ranking_metrics
from recsys.data.entities import NO_VALUE, EntityPairs, EntityTable, Split
from recsys.systems.large_scale_ssl import LargeScaleSSL

# Rows that a tower embeds at a time.
_EMBEDDED_AT_ONCE = 2**14


class Retrieval:
    """The share of held-out pairs whose item is among the K best of all items for the query.

    Items that the query was trained with are left out of its ranking. Beside recall over all pairs
    stand those over pairs whose item has few or many training pairs: `head`, the tenth of the items
    with most; `tail`, at or below the median; `torso` between them; `unseen`, none at all (a part
    of the tail). MAP is a mean over queries.

    Args:
        topk: the K of recall and map.
        monitor: the recall that chooses checkpoints and configurations.

    Raises:
        DataError: the monitor is not among the recalls.
    """

    def __init__(self, topk: Sequence[int] = (10, 50), monitor: str = "recall@50") -> None:
        self.topk, self.monitor = tuple(topk), monitor
        names = [f"recall@{k}" for k in self.topk]
        if monitor not in names:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(names)}")

    def system_arguments(self, data: EntityPairs) -> dict[str, Any]:
        """The features that the towers are built for."""
        return {
            "query_features": data.queries.features,
            "item_features": data.items.features,
            "n_items": len(data.items),
        }

    def train_loader(
        self,
        system: LargeScaleSSL,
        data: EntityPairs,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> StreamLoader:
        """Batches of `query` and `item` codes, `item_id`, and where needed `uniform_item` codes."""
        n_items = len(data.items)

        def draw(columns: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
            if not system.needs_uniform_items:
                return {}
            ids = columns["item_id"]
            return {
                "uniform_id": torch.randint(n_items, (len(ids),), generator=generator).to(
                    ids.device
                )
            }

        def look_up(columns: dict[str, Tensor]) -> dict[str, Tensor]:
            batch = {
                "query": data.queries.codes.index_select(0, columns["query_id"]),
                "item": data.items.codes.index_select(0, columns["item_id"]),
                "item_id": columns["item_id"],
            }
            if "uniform_id" in columns:
                batch["uniform_item"] = data.items.codes.index_select(0, columns["uniform_id"])
            return batch

        device = data.items.codes.device
        return StreamLoader(
            data.train_blocks,
            batch_size,
            device,
            seed,
            draw=draw,
            prepare=look_up,
            rank=rank,
            world_size=world_size,
        )

    def has_split(self, data: EntityPairs, split: Split) -> bool:
        """Whether the split has any pairs."""
        return data.positives(split).shape[1] > 0

    def evaluate(self, system: LargeScaleSSL, data: EntityPairs, split: Split) -> Evaluation:
        """Ranks all items for the queries of a split; the values are those of its pairs.

        Raises:
            DataError: the split is empty, or the system was made for other features.
        """
        if not self.has_split(data, split):
            raise DataError(
                f"the {split} split has no pairs",
                fix="choose another split=, or let data.split=leave_out make one",
            )
        pairs = data.positives(split)
        queries, rows = pairs[0].unique(return_inverse=True)
        query_vectors = _embed(system, data, "query")
        item_vectors = _embed(system, data, "item")
        ranked = rank_items(query_vectors, item_vectors, data.known, queries, max(self.topk))
        per_query = ranking_metrics(ranked, rows, pairs[1], self.topk)
        metrics = {f"map@{k}": per_query[f"map@{k}"].mean().item() for k in self.topk}

        hits = ranked[rows] == pairs[1][:, None]
        per_pair = {f"recall@{k}": hits[:, :k].any(1).double() for k in self.topk}
        for name, values in per_pair.items():
            metrics[name] = values.mean().item()
            for part, chosen in popularity_slices(data.item_counts, pairs[1]).items():
                if chosen.any():
                    metrics[f"{name}/{part}"] = values[chosen].mean().item()
        return Evaluation(
            metrics,
            unit="pair",
            unit_ids=(pairs[0] * len(data.items) + pairs[1]).cpu().numpy(),
            per_unit={name: values.cpu().numpy() for name, values in per_pair.items()},
        )

    def embed(self, system: LargeScaleSSL, data: EntityPairs) -> pl.DataFrame:
        """All queries and items: `kind`, `id`, `embedding` of unit length."""
        frames = []
        for kind in ("query", "item"):
            vectors = _embed(system, data, kind).cpu().numpy()
            frames.append(
                pl.DataFrame(
                    {
                        "kind": [kind] * len(vectors),
                        "id": [str(number) for number in range(len(vectors))],
                        "embedding": vectors,
                    },
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
        system: LargeScaleSSL,
        data: EntityPairs,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The best items for `query:ID` (in none of its pairs), or those nearest to `item:ID`.

        Exact, or from an index of the same system.

        Raises:
            DataError: the query names nothing that is there.
        """
        kind, _, name = query.partition(":")
        if kind not in ("query", "item") or not name:
            raise DataError(f"query={query}", expected="query:ID or item:ID")
        n = len(data.queries if kind == "query" else data.items)
        if not name.isdecimal() or int(name) >= n:
            raise DataError(
                f"query={query}: no such id in the data", expected=f"an id from 0 to {n - 1}"
            )
        number = int(name)
        vector = _embed(system, data, kind)[number]
        left_out = torch.tensor([number], device=vector.device)
        if kind == "query":
            taken = torch.cat([data.known, data.valid, data.test], 1)
            left_out = taken[1, taken[0] == number].unique()
        wanted = min(k + len(left_out), len(data.items))
        if index is None:
            best = (_embed(system, data, "item") @ vector).topk(wanted)
            found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        else:
            scores, rows = index.search("item", vector[None].cpu().numpy(), wanted)
            found = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
        hidden = {-1, *left_out.tolist()}
        shown = [(score, item) for score, item in found if item not in hidden][:k]
        titles = data.items.titles
        return [
            {"rank": rank, "item": str(item), "score": score}
            | ({"title": titles[item]} if titles else {})
            for rank, (score, item) in enumerate(shown, start=1)
        ]

    def index_spaces(
        self, system: LargeScaleSSL, data: EntityPairs
    ) -> dict[str, tuple[Float[Tensor, "n dim"], Float[Tensor, "m dim"]]]:
        """What `index` builds: the items, to be asked by queries, and by items all the same."""
        return {"item": (_embed(system, data, "item"), _embed(system, data, "query"))}

    def keep_reading(self, data: EntityPairs, run_dir: Path) -> None:
        """Nothing: ids are row numbers in the files."""

    def reading(self, run_dir: Path) -> dict[str, str]:
        """No argument: every reading gives the same rows."""
        return {}


def popularity_slices(
    counts: Int64[Tensor, " n_items"], items: Int64[Tensor, " n"]
) -> dict[str, Bool[Tensor, " n"]]:
    """Which of `items` are head, torso, tail and unseen by their training pairs.

    Args:
        counts: training pairs of every item.
        items: ids.
    """
    ordered = counts.sort().values
    median, most = ordered[(len(ordered) - 1) // 2], ordered[(len(ordered) - 1) * 9 // 10]
    own = counts[items]
    tail, head = own <= median, (own > most) & (own > median)
    return {"head": head, "torso": ~(head | tail), "tail": tail, "unseen": own == 0}


def _embed(system: LargeScaleSSL, data: EntityPairs, kind: str) -> Float[Tensor, "n dim"]:
    """The vectors of all queries or all items.

    Raises:
        DataError: the system was made for other features.
    """
    if kind == "query":
        table, features = data.queries, system.query_features
    else:
        table, features = data.items, system.item_features
    codes = _laid_out(table, features, kind)
    with torch.no_grad():
        parts = [system.embed({kind: part})[kind] for part in codes.split(_EMBEDDED_AT_ONCE)]
    return torch.cat(parts)


def _laid_out(
    table: EntityTable, features: dict[str, tuple[int | None, int]], kind: str
) -> Int[Tensor, "n columns"]:
    """The codes in the columns that a system was made for; bags as long as it knows them."""
    given = {name: size for name, (size, _) in table.features.items()}
    wanted = {name: size for name, (size, _) in features.items()}
    if given != wanted:
        raise DataError(
            f"the system was made for the {kind} features {wanted} and these data have {given}",
            expected="the same names, with as many codes",
            fix="give the data set of the run, or train on this one",
        )
    widths = [width for _, width in table.features.values()]
    columns = dict(zip(given, table.codes.split(widths, 1), strict=True))
    return torch.cat(
        [
            pad(columns[name], (0, width - columns[name].shape[1]), value=NO_VALUE)
            for name, (_, width) in features.items()
        ],
        1,
    )
