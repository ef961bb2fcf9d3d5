"""Features of regions and units: retrieval by reports as wholes and by their parts."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.evaluation.retrieval import retrieval_of_scores
from core.tasks.samples import SampleTask
from medical.systems.velvet_heads import VelvetHeads

TOPK = (1, 5, 10)
_ROWS = 64  # volumes that are scored at a time


class LocalRetrieval(SampleTask):
    """How often a case's own counterpart is found, both directions together.

    `r@k` is by the cosine of volume and report, `local_r@k` by how well the units of a report are
    found in the regions of a volume. Where the data say in which region each unit is (`places`),
    `attention_hit` is the share of units whose attention is largest there, and `attention_lift`
    that share over the one of regions drawn at random.

    Args:
        monitor: the metric that chooses checkpoints and configurations.

    Raises:
        DataError: the monitor is not known.
    """

    def __init__(self, monitor: str = "local_r@10") -> None:
        super().__init__(None, monitor)
        known = [f"{kind}@{k}" for kind in ("r", "local_r") for k in TOPK]
        known += ["mrr", "local_mrr", "attention_hit"]
        if monitor not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")

    @torch.no_grad()
    def evaluate(self, system: VelvetHeads, data: Samples, split: str) -> Evaluation:  # type: ignore[override]
        """Retrieval within a split, with the outcome of every case.

        Raises:
            DataError: the split has fewer than two cases, or the monitor needs what is not there.
        """
        rows = data.splits[split]
        if len(rows) < 2:
            raise DataError(f"{len(rows)} cases in the {split} split", expected="two or more")
        batch = {name: values.index_select(0, rows) for name, values in data.inputs.items()}
        vectors = system.embed(batch)
        local = torch.cat(
            [
                system.local_scores({"regions": some}, batch)
                for some in batch["regions"].split(_ROWS)
            ]
        )
        own = torch.arange(len(rows), device=rows.device)
        per_unit: dict[str, np.ndarray] = {}
        for ending, scores in (("", vectors["volume"] @ vectors["report"].T), ("local_", local)):
            both = [retrieval_of_scores(of, own, own, TOPK).per_unit for of in (scores, scores.T)]
            for name in (*(f"r@{k}" for k in TOPK), "mrr"):
                per_unit[ending + name] = np.mean([of[name] for of in both], axis=0)
        metrics = {name: float(values.mean()) for name, values in per_unit.items()}
        if "places" in batch:
            hits, chance = _hits(system, batch)
            per_unit["attention_hit"] = hits
            metrics["attention_hit"] = float(np.nanmean(hits))
            metrics["attention_lift"] = metrics["attention_hit"] / chance
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor} where the data do not say the places of units",
                expected=f"one of {', '.join(metrics)}",
            )
        ids = np.array([data.ids[row] for row in rows.tolist()])
        return Evaluation(metrics, "case", ids, per_unit)


def _hits(system: VelvetHeads, batch: dict[str, Tensor]) -> tuple[np.ndarray, float]:
    """The share of each case's units that look at their own region, and chance."""
    weights = system.attention(batch)
    places: Int64[Tensor, "batch units"] = batch["places"].long()
    known = places >= 0
    hit = (weights.argmax(2) == places) & known
    shares = hit.sum(1).double() / known.sum(1)  # NaN of a case of which no place is known
    return shares.cpu().numpy(), 1 / weights.shape[2]
