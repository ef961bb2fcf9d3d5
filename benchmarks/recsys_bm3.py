"""BM3 on the race set: seconds of a training epoch and of a full-ranking evaluation, peak memory.

Ours is raced, in turn, against a plain implementation of the same model (all items projected, masks
over all nodes, COO graph, unfused Adam, the network run again for each block of users, metrics in
Python lists), and stands next to the authors' code, whose figures were measured on another, quiet
machine with two AMD EPYC virtual cores and torch 2.11.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, dropout, linear

from benchmarks.race import median_and_spread, paired_ratio, peak_mib, seconds
from benchmarks.recsys_race import BATCH, TOPK, evaluate_in_lists, race_set
from core.encoders.graph import normalized_adjacency
from recsys.data.interactions import Interactions
from recsys.systems.bm3 import BM3
from recsys.task import TopKRecommendation

# Seconds of the authors' code by number of threads: epoch (59 steps), evaluation of validation.
AUTHORS = {1: (22.95, 2.4), 2: (15.7, 2.0)}
REPEATS, PLAIN_STEPS = 3, 12


class Plain:
    """BM3 written straight from its equations, on the weights of a given system."""

    def __init__(self, system: BM3, data: Interactions) -> None:
        self.weights = [p.detach().clone().requires_grad_() for p in system.parameters()]
        self.names = [name for name, _ in system.named_parameters()]
        self.system, self.data = system, data
        self.adjacency = normalized_adjacency(*data.train, data.n_users, data.n_items)
        self.adjacency = self.adjacency.to_sparse_coo().coalesce()

    def _views(self) -> tuple[Tensor, Tensor, dict[str, Tensor], Callable[[Tensor], Tensor]]:
        w = dict(zip(self.names, self.weights, strict=True))
        nodes = torch.cat([w["user_embedding.weight"], w["item_embedding.weight"]])
        mean = (nodes + torch.sparse.mm(self.adjacency, nodes)) / 2
        users, items = mean.split([self.data.n_users, self.data.n_items])
        projected = {
            m: linear(w[f"features.{m}.weight"], w[f"project.{m}.weight"], w[f"project.{m}.bias"])
            for m in self.system.features
        }

        def predict(x: Tensor) -> Tensor:
            return linear(x, w["predictor.weight"], w["predictor.bias"])

        return users, items + w["item_embedding.weight"], projected, predict

    def loss(self, user: Tensor, item: Tensor, masks: dict[str, Tensor] | None) -> Tensor:
        """The loss with dropout of the targets over all nodes, by given masks or fresh ones."""
        users, items, projected, predict = self._views()
        p = self.system.dropout

        def target(name: str, view: Tensor) -> Tensor:
            view = view.detach()
            return dropout(view, p) if masks is None else view * masks[name] / (1 - p)

        user_target, item_target = target("user", users)[user], target("item", items)[item]

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return 1 - cosine_similarity(a, b, dim=-1).mean()

        loss = distance(predict(users)[user], item_target)
        loss = loss + distance(predict(items)[item], user_target)
        for name, view in projected.items():
            predicted, own = predict(view)[item], target(name, view)[item]
            aligned = distance(predicted, item_target) + distance(predicted, own)
            loss = loss + self.system.cl_weight * aligned
        penalty = (users.norm() + items.norm()) / self.data.n_items
        return loss + self.system.reg_weight * penalty

    @torch.no_grad()
    def evaluate(self) -> float:
        """Validation recall@20."""

        def tables() -> tuple[Tensor, Tensor]:
            users, items, _, predict = self._views()
            return predict(users), predict(items)

        return evaluate_in_lists(self.data, tables)["recall@20"]


def race(threads: int) -> tuple[list[dict[str, object]], list[str]]:
    """Both implementations in turn: rows of the table, and what is to be said beside it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, task = race_set(), TopKRecommendation(TOPK)
    system = BM3.of(task.system_arguments(data))
    system.prepare(data)
    loader = task.train_loader(system, data, BATCH, seed=0)
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.0, fused=True)

    def epoch() -> None:
        for batch in loader:
            optimizer.zero_grad()
            system.objective(batch)["loss"].backward()
            optimizer.step()

    def evaluate() -> None:
        system.eval()
        task.evaluate(system, data, "valid")
        system.train()

    epoch()
    evaluate()
    notes = [f"peak memory of ours {peak_mib():.0f} MiB"]
    peer = Plain(system, data)
    difference = _loss_difference(system, peer, data, task)
    notes.append(f"losses of the first 20 steps with the same masks within {difference:.1e}")
    adam = torch.optim.Adam(peer.weights, lr=1e-3, foreach=False)

    def plain_steps() -> None:
        for _, batch in zip(range(PLAIN_STEPS), iter(loader), strict=False):
            adam.zero_grad()
            peer.loss(batch["user"], batch["item"], None).backward()
            adam.step()

    times: dict[str, list[float]] = {"epoch": [], "evaluation": []}
    plain: dict[str, list[float]] = {"epoch": [], "evaluation": []}
    for _ in range(REPEATS):
        times["epoch"].append(seconds(epoch))
        plain["epoch"].append(seconds(plain_steps) * len(loader) / PLAIN_STEPS)
        times["evaluation"].append(seconds(evaluate))
        plain["evaluation"].append(seconds(peer.evaluate))
    rows: list[dict[str, object]] = []
    for name, authors in zip(times, AUTHORS.get(threads, (None, None)), strict=True):
        row = {"threads": threads, "seconds of": name, "ours": median_and_spread(times[name])}
        row |= {"plain": median_and_spread(plain[name]), "authors": authors}
        rows.append(row | {"plain / ours": paired_ratio(plain[name], times[name])})
    return rows, notes


def _loss_difference(
    system: BM3, peer: Plain, data: Interactions, task: TopKRecommendation
) -> float:
    """Largest relative difference of the two losses over 20 steps with the same masks."""
    twin = BM3.of(task.system_arguments(data))
    twin.prepare(data)
    twin.load_state_dict(system.state_dict())
    ours = torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    start = [weight.detach().clone() for weight in peer.weights]
    theirs = torch.optim.Adam(peer.weights, lr=1e-3)
    generator, worst = torch.Generator().manual_seed(1), 0.0
    sizes = {"user": data.n_users, "item": data.n_items, "image": data.n_items}
    sizes["text"] = data.n_items
    loader = task.train_loader(twin, data, BATCH, seed=1)
    for _, batch in zip(range(20), iter(loader), strict=False):
        user, item = batch["user"], batch["item"]
        masks = {
            name: torch.rand(n, twin.dim, generator=generator) >= twin.dropout
            for name, n in sizes.items()
        }
        keep = {name: mask[user if name == "user" else item] for name, mask in masks.items()}
        losses = twin.loss(user, item, keep)["loss"], peer.loss(user, item, masks)
        for loss, optimizer in zip(losses, (ours, theirs), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        worst = max(worst, abs(losses[0].item() / losses[1].item() - 1))
    for weight, first in zip(peer.weights, start, strict=True):
        weight.data.copy_(first)
        weight.grad = None
    return worst
