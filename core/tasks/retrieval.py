"""Retrieval: finding a sample's row of one modality among candidates, given all the others."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.tasks.samples import Augment, SampleTask, embed_all
from core.trainers.system import System

_CANDIDATES_SEED = 0
_TILE_SCORES = 1 << 22  # scores held at a time


@runtime_checkable
class Scorer(Protocol):
    """A system that says how well a candidate fits the other modalities of a sample."""

    def score(
        self, candidates: Float[Tensor, "m dim"], queries: Sequence[Float[Tensor, "n dim"]]
    ) -> Float[Tensor, "n m"]:
        """Scores of embedded candidates of one modality, given those of all others."""
        ...


class Retrieval(SampleTask):
    """How often a sample's own row of a modality is scored above the other candidates.

    Every sample of the split is a query. Candidates are the distinct rows of the modality in the
    split: a copy of the true row is not a wrong answer, and equal rows are one candidate. Where
    there are more than `n_candidates` of them, each query has its own row and others drawn for it
    with a fixed seed, the same for every system. A candidate that scores as much as the true row
    counts as above it.

    Metrics: `accuracy`, the share of queries whose own row scores highest, which is 1 over the
    number of candidates by chance; `mrr`, the mean of 1 over its rank. What a system has to say of
    itself (`System.report(data) -> {metric: value}`) stands beside them.

    Args:
        target: the modality that is looked for; None is the first.
        n_candidates: candidates of a query, at most.
        augment: makes one view of a batch of the first modality, for systems of views.
        monitor: `accuracy` or `mrr`.

    Raises:
        DataError: fewer than two candidates, or the monitor is none of these.
    """

    def __init__(
        self,
        target: str | None = None,
        n_candidates: int = 32,
        augment: Augment | None = None,
        monitor: str = "accuracy",
    ) -> None:
        super().__init__(augment, monitor)
        self.target, self.n_candidates = target, n_candidates
        if monitor not in ("accuracy", "mrr"):
            raise DataError(f"task.monitor={monitor}", expected="accuracy or mrr")
        if n_candidates < 2:
            raise DataError(f"task.n_candidates={n_candidates}", expected="a number from 2")

    @torch.no_grad()
    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """Metrics of a split, with the outcome of every query.

        Raises:
            DataError: there is no such modality, no other one, or only one candidate; the system
                does not score candidates, or its scores are not finite.
        """
        target = self._target(data)
        if not isinstance(system, Scorer):
            raise DataError(
                f"{type(system).__name__} does not score candidates",
                fix="probe its representations: data=table or data=digits_demo",
            )
        rows = data.splits[split]
        of_target = data.inputs[target].index_select(0, rows).flatten(1)
        distinct, own = of_target.unique(dim=0, return_inverse=True)
        if len(distinct) < 2:
            raise DataError(
                f"{len(distinct)} distinct rows of {target} in the {split} split",
                expected="two candidates or more",
            )
        first = torch.full((len(distinct),), len(rows), device=rows.device)
        places = torch.arange(len(rows), device=rows.device)
        first = first.scatter_reduce(0, own, places, "amin")
        vectors = embed_all(system, data, rows)
        candidates = vectors.pop(target)[first]
        queries = [vectors[name] for name in data.inputs if name != target]
        chance = torch.Generator().manual_seed(_CANDIDATES_SEED)
        ranks = []
        for some in places.split(max(1, _TILE_SCORES // len(distinct))):
            scores = system.score(candidates, [of[some] for of in queries])
            if not bool(scores.isfinite().all()):
                raise DataError(
                    "scores of candidates that are NaN or infinite",
                    expected="numbers",
                    fix="the training diverged: lower the learning rate, or use an earlier "
                    "checkpoint",
                )
            drawn = self._others(own[some], len(distinct), chance)
            true = scores.gather(1, own[some, None])
            ranks.append(1 + ((scores >= true) & drawn).sum(1))
        rank = torch.cat(ranks).double()
        outcomes = {"accuracy": (rank == 1).double(), "mrr": 1 / rank}
        report = getattr(system, "report", None)
        metrics = {name: float(values.mean()) for name, values in outcomes.items()}
        return Evaluation(
            metrics | (report(data) if report else {}),
            "sample",
            np.array([data.ids[row] for row in rows.tolist()]),
            {name: values.cpu().numpy() for name, values in outcomes.items()},
        )

    def _target(self, data: Samples) -> str:
        names = list(data.inputs)
        target = names[0] if self.target is None else self.target
        if target not in names or len(names) < 2:
            raise DataError(
                f"task.target={target} with the modalities {', '.join(names)}",
                expected="one of two or more modalities",
            )
        return target

    def _others(
        self, own: Int64[Tensor, " n"], n_distinct: int, chance: torch.Generator
    ) -> Bool[Tensor, "n m"]:
        """Which other candidates each query has; drawn on the CPU, so that devices agree."""
        not_own = torch.arange(n_distinct, device=own.device) != own[:, None]
        if n_distinct <= self.n_candidates:
            return not_own
        keys = torch.rand(len(own), n_distinct, generator=chance).to(own.device)
        keys = keys.masked_fill(~not_own, -1)
        chosen = keys.topk(self.n_candidates - 1, dim=1).indices
        return torch.zeros_like(not_own).scatter(1, chosen, True)
