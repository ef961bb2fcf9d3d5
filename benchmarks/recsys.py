"""BM3 on the race set: seconds of a training epoch and of a full-ranking evaluation, peak memory.

Run `make bench`, or `python -m benchmarks.recsys --threads 1 2`. The race set has 20,000 users,
7,000 items, and 4096-d image and 384-d text features. Ours is raced, step by step in turn, against
a plain implementation of the same model (all items projected, masks over all nodes, COO graph,
unfused Adam, the network run again for each block of users, metrics in Python lists), and stands
next to the authors' code, whose figures were measured on a quiet machine with two AMD EPYC virtual
cores and torch 2.11. Both implementations get the same dropout masks for the loss curve.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, dropout, linear

from core.encoders.graph import normalized_adjacency
from core.report import print_table
from recsys.data.demo import generate_grs
from recsys.data.interactions import Interactions
from recsys.systems.bm3 import BM3
from recsys.task import TopKRecommendation

# Seconds of the authors' code by number of threads: epoch (59 steps), evaluation of validation.
AUTHORS = {1: (22.95, 2.4), 2: (15.7, 2.0)}
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
        """Validation recall@20, as a toolbox with Python lists computes it, and all the metrics."""
        positives: dict[int, list[int]] = {}
        for user, item in self.data.valid.T.tolist():
            positives.setdefault(user, []).append(item)
        evaluated = sorted(positives)
        seen: dict[int, list[int]] = {}
        for user, item in self.data.train.T.tolist():
            seen.setdefault(user, []).append(item)
        ranked = []
        for start in range(0, len(evaluated), 4096):
            block = evaluated[start : start + 4096]
            users, items, _, predict = self._views()
            scores = predict(users)[block] @ predict(items).T
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
        result = {}
        for k in TOPK:
            top, reach = hits[:, :k], np.minimum(count, k)
            precision = top.cumsum(1) / np.arange(1, k + 1)
            result[f"recall@{k}"] = (top.sum(1) / count).mean()
            result[f"ndcg@{k}"] = ((top * discount[:k]).sum(1) / ideal[reach]).mean()
            result[f"map@{k}"] = ((precision * top).sum(1) / reach).mean()
            result[f"precision@{k}"] = top.mean()
        return float(result["recall@20"])


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def race(threads: int, plain: bool, epochs: int) -> dict[str, float]:
    """All figures at one number of threads; with `plain`, of both implementations in turn."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, task = race_set(), TopKRecommendation(TOPK)
    system = BM3(**task.system_arguments(data))
    system.prepare(data)
    system.adjacency()
    loader = task.train_loader(system, data, BATCH, seed=0)
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    figures: dict[str, float] = {}
    peer = Plain(system, data) if plain else None
    if peer is not None:
        figures["loss difference"] = _loss_difference(system, peer, data, task)
        adam = torch.optim.Adam(peer.weights, lr=1e-3, foreach=False)

    def epoch() -> None:
        for batch in loader:
            optimizer.zero_grad()
            system.objective(batch)["loss"].backward()
            optimizer.step()

    def plain_steps(n: int) -> None:
        assert peer is not None
        for _, batch in zip(range(n), iter(loader), strict=False):
            adam.zero_grad()
            peer.loss(batch["user"], batch["item"], None).backward()
            adam.step()

    def evaluate() -> None:
        system.eval()
        task.evaluate(system, data, "valid")
        system.train()

    epoch()
    evaluate()
    times: dict[str, list[float]] = {"epoch": [], "evaluation": []}
    if peer is not None:
        times |= {"plain epoch": [], "plain evaluation": []}
    steps = 12
    for _ in range(epochs):
        times["epoch"].append(seconds(epoch))
        times["evaluation"] += [seconds(evaluate) for _ in range(3)]
        if peer is not None:
            times["plain epoch"].append(seconds(lambda: plain_steps(steps)) * len(loader) / steps)
            times["plain evaluation"].append(seconds(peer.evaluate))
    for name, values in times.items():
        figures[name] = statistics.median(values)
        figures[f"{name} spread"] = max(values) - min(values)
    figures["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def _loss_difference(
    system: BM3, peer: Plain, data: Interactions, task: TopKRecommendation
) -> float:
    """Largest relative difference of the two losses over 20 steps with the same masks."""
    twin = BM3(**task.system_arguments(data))
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
        worst = max(worst, float((losses[0] / losses[1] - 1).abs()))
    for weight, first in zip(peer.weights, start, strict=True):
        weight.data.copy_(first)
        weight.grad = None
    return worst


def main() -> None:
    """Races each number of threads in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=3, help="counted repeats")
    parser.add_argument("--one", choices=["ours", "both"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(race(arguments.threads[0], arguments.one == "both", arguments.epochs)))
        return
    rows = []
    for threads in arguments.threads:
        found = {}
        for which in ("ours", "both"):
            command = [sys.executable, "-m", "benchmarks.recsys", "--one", which]
            command += ["--threads", str(threads), "--epochs", str(arguments.epochs)]
            # The commands set this too.
            env = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
            found[which] = json.loads(run.stdout.splitlines()[-1])
        both = found["both"]
        for name, authors in zip(("epoch", "evaluation"), AUTHORS.get(threads, ()), strict=False):
            rows.append(
                {
                    "threads": threads,
                    "seconds of": name,
                    "ours": f"{both[name]:.2f} ± {both[f'{name} spread'] / 2:.2f}",
                    "plain": f"{both[f'plain {name}']:.2f}",
                    "authors": f"{authors:.2f}",
                    "plain / ours": f"{both[f'plain {name}'] / both[name]:.1f}",
                    "authors / ours": f"{authors / both[name]:.1f}",
                }
            )
        print(f"{threads} thread(s): peak memory {found['ours']['peak MiB']:.0f} MiB")
        print(
            f"  loss of the first 20 steps: within {both['loss difference']:.1e} of the plain one"
        )
    print_table(rows, "BM3 on the race set, medians of interleaved repeats")


if __name__ == "__main__":
    main()
