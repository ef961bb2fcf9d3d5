"""A step of two towers with the in-batch softmax and the contrast of views: 1M items, batch 8,192.

Ours with sparse and with dense gradients of the embeddings, against a plain implementation with
`nn.Embedding`, `cross_entropy` over the whole matrix of logits, and dense Adagrad.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib
from recsys.data.entities import EntityPairs, EntityTable
from recsys.retrieval_task import Retrieval
from recsys.systems.large_scale_ssl import LargeScaleSSL

N_ITEMS, BATCH, REPEATS = 1_000_000, 8_192, 5
ITEM_FEATURES = {
    "item": (N_ITEMS, 1),
    "brand": (50_000, 1),
    "kind": (1_000, 1),
    "shop": (20_000, 1),
}
QUERY_FEATURES = {"segment": (100_000, 1), "country": (200, 1)}


def pairs() -> EntityPairs:
    """Two million pairs, popularity by Zipf's law."""
    draw = np.random.default_rng(0)

    def table(n: int, features: dict[str, tuple[int, int]]) -> EntityTable:
        columns = [
            np.arange(n) if size == n else draw.integers(size, size=n)
            for size, _ in features.values()
        ]
        return EntityTable(torch.from_numpy(np.stack(columns, 1)), features)

    items = draw.zipf(1.1, 2_000_000) % N_ITEMS
    known = torch.from_numpy(np.stack([draw.integers(1_000_000, size=len(items)), items]))
    return EntityPairs(
        queries=table(1_000_000, QUERY_FEATURES),
        items=table(N_ITEMS, ITEM_FEATURES),
        item_counts=torch.bincount(known[1], minlength=N_ITEMS),
        known=known,
        valid=known[:, :0],
        test=known[:, :0],
        streamed=None,
        pairs_digest="",
    )


class Plain(nn.Module):
    """The same towers and losses, written straight, on copies of the weights of a system."""

    def __init__(self, system: LargeScaleSSL) -> None:
        super().__init__()
        self.temperature, self.alpha, self.dropout = (
            system.temperature,
            system.alpha,
            system.dropout,
        )
        self.ssl_temperature = system.ssl_temperature
        self.draw_mask, self.log_share = system.draw_mask, system.log_share
        self.tables = nn.ModuleDict(
            {
                name: nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
                for name, table in zip(system.names, system.tables, strict=True)
            }
        )
        self.towers = nn.ModuleDict(
            {"query": deepcopy(system.query_tower), "item": deepcopy(system.item_tower)}
        )

    def embed(self, kind: str, codes: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Unit vectors of codes, the `hidden` features masked and dropout where there are any."""
        features = QUERY_FEATURES if kind == "query" else ITEM_FEATURES
        pooled = []
        for column, name in enumerate(features):
            table, rows = self.tables[name], codes[:, column]
            if hidden is not None:
                rows = torch.where(hidden[column], table.num_embeddings - 1, rows)
            pooled.append(table(rows))
        x = torch.cat(pooled, 1)
        if hidden is not None:
            x = F.dropout(x, self.dropout)
        return F.normalize(self.towers[kind](x), dim=1)

    def main_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Softmax over the items of the batch, corrected by their share of the pairs."""
        logits = self.embed("query", batch["query"]) @ self.embed("item", batch["item"]).T
        logits = logits / self.temperature - self.log_share[batch["item_id"]]
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Main loss and contrast of two views."""
        mask = self.draw_mask()
        views = [self.embed("item", batch["uniform_item"], hidden) for hidden in (mask, ~mask)]
        logits = views[0] @ views[1].T / self.ssl_temperature
        contrast = F.cross_entropy(logits, torch.arange(len(logits)))
        return self.main_loss(batch) + self.alpha * contrast


def race(threads: int) -> tuple[list[dict[str, object]], list[str]]:
    """All three in turn: rows of the table, and what is to be said beside it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, task = pairs(), Retrieval()
    start = peak_mib()
    notes = [f"data {start:.0f} MiB"]

    def made(sparse: bool) -> LargeScaleSSL:
        system = LargeScaleSSL.of(
            task.system_arguments(data), sampling="counts", sparse_gradients=sparse
        )
        system.prepare(data)
        return system

    system = made(sparse=True)
    batches = iter(task.train_loader(system, data, BATCH, seed=0))
    works = {"ours, sparse gradients": _step(system, system.parameters(), batches)}
    works["ours, sparse gradients"]()
    notes.append(f"ours with sparse gradients adds {peak_mib() - start:.0f} MiB")

    dense, plain = made(sparse=False), Plain(system)
    batch = next(batches)
    with torch.no_grad():
        difference = float(system.objective(batch)["main"] / plain.main_loss(batch) - 1)
    notes.append(f"main losses of one batch within {abs(difference):.1e}")
    works["ours, dense gradients"] = _step(dense, dense.parameters(), batches)
    weights = [*plain.tables.parameters(), *plain.towers.parameters()]
    works["plain"] = _step(plain, weights, batches)
    for work in works.values():
        work()
    times = interleaved(works, REPEATS)
    ours = times["ours, sparse gradients"]
    rows: list[dict[str, object]] = []
    for name, values in times.items():
        row = {"threads": threads, "step of": name, "seconds": median_and_spread(values)}
        rows.append(row | {"/ sparse": None if values is ours else paired_ratio(values, ours)})
    return rows, notes


def _step(
    network: LargeScaleSSL | Plain,
    weights: Iterable[nn.Parameter],
    batches: Iterator[dict[str, Tensor]],
) -> Callable[[], None]:
    """A step of training, the batch included."""
    adagrad = torch.optim.Adagrad(weights, lr=0.01)

    def step() -> None:
        batch = next(batches)
        adagrad.zero_grad()
        is_plain = isinstance(network, Plain)
        loss = network.loss(batch) if is_plain else network.objective(batch)["loss"]
        loss.backward()
        adagrad.step()

    return step
