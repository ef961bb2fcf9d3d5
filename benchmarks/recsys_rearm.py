"""REARM on the race set: seconds of its graphs, of a training step and of an evaluation.

Ours is raced, in turn, against a plain implementation of the same model: co-occurrence by a double
loop over Python sets, cosines of users from the full product of their 4096 numbers, attention by
`nn.MultiheadAttention`, COO graphs, all nodes represented in every step, unfused AdamW, the network
run again for each block of users, metrics in Python lists. Of its graphs a share of the rows is
made and the time scaled up. Beside both stand the authors' figures, measured on another, quiet
machine with two AMD EPYC virtual cores and torch 2.11.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.race import interleaved, median_and_spread, paired_ratio, peak_mib, seconds
from benchmarks.recsys_race import BATCH, TOPK, evaluate_in_lists, race_set
from core.encoders.graph import normalized_adjacency
from recsys.data.interactions import Interactions
from recsys.systems.rearm import MODALITIES, REARM, interest_features
from recsys.task import TopKRecommendation

# Seconds of the authors' code by number of threads: all graphs, one step, one evaluation.
AUTHORS = {1: (127.4, 5.1, 3.5), 2: (107.5, 3.75, 2.3)}
STEPS_OF_EPOCH = 59
REPEATS, SHARE = 5, 100  # one row in SHARE of the plain graphs is made


class Plain(nn.Module):
    """REARM written straight from its equations, on copies of a given system's weights."""

    def __init__(self, system: REARM, data: Interactions) -> None:
        super().__init__()
        self.data = data
        for name in ("ids", "features", "project", "norm", "activation", "meta", "down", "up"):
            setattr(self, name, deepcopy(getattr(system, name)))
        self.self_attention = nn.ModuleDict()
        self.mutual_attention = nn.ModuleDict()
        for place in ("self_attention", "mutual_attention"):
            for name, ours in getattr(system, place).items():
                theirs = nn.MultiheadAttention(1, 1, ours.dropout, batch_first=True)
                theirs.in_proj_weight.data.copy_(ours.in_proj_weight)
                theirs.in_proj_bias.data.copy_(ours.in_proj_bias)
                theirs.out_proj.weight.data.copy_(ours.out_proj_weight)
                theirs.out_proj.bias.data.copy_(ours.out_proj_bias)
                getattr(self, place)[name] = theirs
        self.graphs = {
            kind: _coo(system.graph(kind).ids, system.graph(kind).weights)
            for kind in ("user", "item")
        }
        adjacency = normalized_adjacency(*data.train, data.n_users, data.n_items)
        self.adjacency = adjacency.to_sparse_coo().coalesce()
        self.n_products, self.n_layers, self.dim = system.n_products, system.n_layers, system.dim
        self.temperature = system.temperature
        self.cl_weight, self.diff_weight = system.cl_weight, system.diff_weight

    def nodes(self) -> tuple[Tensor, Tensor]:
        """The representations of all users and items, and F of both."""
        rows = {}
        for kind in ("user", "item"):
            parts = [self.ids[kind].weight]
            for modality in MODALITIES:
                name = f"{kind}_{modality}"
                parts.append(self.project[name](self.features[name].weight))
            x = torch.cat(parts, 1)
            for _ in range(self.n_products[kind]):
                x = torch.sparse.mm(self.graphs[kind], x)
            rows[kind] = F.normalize(x, dim=1).chunk(3, 1)
        user_ids, *users = rows["user"]
        item_ids, *items = rows["item"]
        users = [self.activation(x) for x in users]
        items = self._attend(*(x[:, :, None] for x in items))
        x = torch.cat([torch.cat([user_ids, *users], 1), torch.cat([item_ids, *items], 1)])
        layers = [x]
        for _ in range(self.n_layers):
            layers.append(torch.sparse.mm(self.adjacency, layers[-1]))
        x = torch.stack(layers).mean(0)
        d = self.dim
        own, contents = x[:, :d], x[:, d:]
        share = []
        for kind, part in (
            ("user", slice(self.data.n_users)),
            ("item", slice(self.data.n_users, None)),
        ):
            knowledge = self.meta[kind](contents[part]).detach()
            down, up = self.down[kind](knowledge), self.up[kind](knowledge)
            down, up = (down + down.mean(0)).softmax(1), (up + up.mean(0)).softmax(1)
            share.append((((own[part, :, None] * down).sum(1))[:, :, None] * up).sum(1))
        image, text = contents.chunk(2, 1)
        parts = (image, text, torch.cat(share))
        return torch.cat([self.activation(x) + own for x in parts], 1), contents

    def _attend(self, image: Tensor, text: Tensor) -> list[Tensor]:
        own = [
            self._after(x, self.self_attention[name], x, x)
            for name, x in (("image", image), ("text", text))
        ]
        both = [
            self._after(own[0], self.mutual_attention["image"], own[1], own[0]),
            self._after(own[1], self.mutual_attention["text"], own[0], own[1]),
        ]
        return [x[:, :, 0] for x in both]

    def _after(
        self, x: Tensor, attention: nn.MultiheadAttention, query: Tensor, context: Tensor
    ) -> Tensor:
        asked = attention(query, context, context)[0]
        return self.activation(self.norm((x + asked)[:, :, 0]))[:, :, None]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The three terms, from the representations of all nodes."""
        n, nodes, contents = self.data.n_users, *self.nodes()
        users, items = batch["user"], batch["item"] + n
        negatives = batch["negative"] + n
        margin = (nodes[users] * (nodes[items] - nodes[negatives])).sum(1)
        contrast = overlap = 0.0
        for rows in (users.unique(), torch.cat([items, negatives]).unique()):
            image, text = (F.normalize(x, dim=1) for x in contents[rows].chunk(2, 1))
            logits = image @ text.T / self.temperature
            contrast = contrast + F.cross_entropy(logits, torch.arange(len(rows)))
        for rows in (users, items):
            image, text = (x - x.mean(0) for x in contents[rows].chunk(2, 1))
            image, text = (x / (x.norm(dim=1, keepdim=True).detach() + 1e-6) for x in (image, text))
            overlap = overlap + (image.T @ text).square().mean()
        loss = -F.logsigmoid(margin).mean() + self.cl_weight * contrast
        return loss + self.diff_weight * overlap

    @torch.no_grad()
    def evaluate(self) -> float:
        """Validation recall@20."""

        def tables() -> tuple[Tensor, Tensor]:
            nodes = self.nodes()[0]
            return nodes[: self.data.n_users], nodes[self.data.n_users :]

        self.eval()
        recall = evaluate_in_lists(self.data, tables)["recall@20"]
        self.train()
        return recall


def plain_graph_seconds(data: Interactions, system: REARM) -> float:
    """Seconds of the plain graphs, estimated from evenly spaced rows."""
    users, items = data.train.tolist()
    partners: dict[str, dict[int, set[int]]] = {"user": {}, "item": {}}
    for user, item in zip(users, items, strict=True):
        partners["user"].setdefault(user, set()).add(item)
        partners["item"].setdefault(item, set()).add(user)
    total = 0.0
    for kind, n in (("user", data.n_users), ("item", data.n_items)):
        sets = [partners[kind].get(node, set()) for node in range(n)]
        counts = torch.zeros(n)
        heads = range(SHARE // 2, n, SHARE)

        def rows_of_sets(sets: list = sets, counts: Tensor = counts, heads: range = heads) -> None:
            for head in heads:
                for tail in range(head + 1, len(sets)):
                    common = len(sets[head].intersection(sets[tail]))
                    if common:
                        counts[tail] = common
                counts.topk(200)

        total += SHARE * seconds(rows_of_sets)
        for modality in MODALITIES:
            x = data.features[modality]
            if kind == "user":
                x = interest_features(x, *data.train, data.n_users)
            unit = F.normalize(x, dim=1)
            # As many rows as a product is efficient with.
            some, k = unit[: n // 20], system.neighbours[kind]
            total += 20 * seconds(lambda unit=unit, some=some, k=k: (some @ unit.T).topk(k))
    return total


def race(threads: int) -> tuple[list[dict[str, object]], list[str]]:
    """Both implementations in turn: rows of the table, and what is to be said beside it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, task = race_set(), TopKRecommendation(TOPK)
    # Every part of the graphs, as the authors' code builds them.
    system = REARM.of(task.system_arguments(data), item_image_weight=0.1)
    built = [seconds(lambda: system._build_graphs(data)) for _ in range(2)]
    system.prepare(data)
    loader = task.train_loader(system, data, BATCH, seed=0)
    batches = iter(loader)
    settings = {"lr": 5e-5, "weight_decay": 5e-4}
    adam = torch.optim.AdamW(system.parameters(), fused=True, **settings)

    def step() -> None:
        adam.zero_grad()
        system.objective(next(batches))["loss"].backward()
        adam.step()

    def evaluate() -> None:
        system.eval()
        task.evaluate(system, data, "valid")
        system.train()

    step()
    evaluate()
    notes = [f"peak memory of ours {peak_mib():.0f} MiB, {len(loader)} steps an epoch"]

    peer = Plain(system, data)
    notes.append(
        f"losses of 10 steps without dropout within {_difference(system, peer, loader):.1e}"
    )
    plain_batches = iter(task.train_loader(system, data, BATCH, seed=1))
    plain_adam = torch.optim.AdamW(peer.parameters(), foreach=False, **settings)

    def plain_step() -> None:
        plain_adam.zero_grad()
        peer.loss(next(plain_batches)).backward()
        plain_adam.step()

    plain_step()
    times = interleaved(
        {"step": step, "plain step": plain_step, "eval": evaluate, "plain eval": peer.evaluate},
        REPEATS,
    )
    plain_graphs = [plain_graph_seconds(data, system) for _ in range(2)]
    notes.append(f"peak memory of both {peak_mib():.0f} MiB")
    epoch = {
        f"{name}": [STEPS_OF_EPOCH * t for t in times[name]] for name in ("step", "plain step")
    }
    figures = {
        "all graphs": (built, plain_graphs),
        "training step": (times["step"], times["plain step"]),
        "epoch, 59 steps": (epoch["step"], epoch["plain step"]),
        "evaluation": (times["eval"], times["plain eval"]),
    }
    graphs, one_step, evaluation = AUTHORS.get(threads, (None, None, None))
    published = (graphs, one_step, one_step and STEPS_OF_EPOCH * one_step, evaluation)
    rows: list[dict[str, object]] = []
    for (name, (ours, plain)), authors in zip(figures.items(), published, strict=True):
        row = {"threads": threads, "seconds of": name, "ours": median_and_spread(ours)}
        row |= {"plain": median_and_spread(plain), "authors": authors}
        rows.append(row | {"plain / ours": paired_ratio(plain, ours)})
    return rows, notes


def _difference(system: REARM, peer: Plain, loader: Iterable[dict[str, Tensor]]) -> float:
    """Largest relative difference of the two losses over 10 steps of both without dropout."""
    networks = system.eval(), peer.eval()
    adams = [torch.optim.AdamW(n.parameters(), lr=1e-3, fused=True) for n in networks]
    worst = 0.0
    for _, batch in zip(range(10), loader, strict=False):
        losses = system.objective(batch)["loss"], peer.loss(batch)
        for loss, adam in zip(losses, adams, strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()
        worst = max(worst, abs(losses[0].item() / losses[1].item() - 1))
    for network in networks:
        network.train()
    return worst


def _coo(ids: Tensor, weights: Tensor) -> Tensor:
    rows = torch.arange(len(ids))[:, None].expand_as(ids)
    places = torch.stack([rows.flatten(), ids.flatten()])
    return torch.sparse_coo_tensor(places, weights.flatten(), (len(ids), len(ids))).coalesce()
