"""Probing: what frozen representations tell of the labels, and how many dimensions they use."""

import numpy as np
import torch
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.evaluation.knn import knn_predict
from core.evaluation.linear_probe import PENALTIES, LinearProbe
from core.evaluation.rank import rankme
from core.tasks.samples import Augment, SampleTask, embed_all, joint_embedding
from core.trainers.system import System

# Validation must not choose the penalty it is then judged by; on standardised features this one is
# close to the best for most.
_VALIDATION_PENALTY = 1e-3


class Probing(SampleTask):
    """Linear probe and k nearest neighbours on frozen representations.

    `linear_accuracy` and `knn_accuracy` are of the label `label`; those of a further label NAME are
    called `linear_accuracy/NAME`. The classifiers see training rows with a known label. On the test
    split the probe's penalty is chosen on validation; on the validation split it is fixed, and the
    probe is fitted only if `monitor` asks for it. `rankme` is of the split's own rows: of the
    projections where the system has them (`System.project`), as its paper says, else of the
    embeddings. What a system has to say of itself (`System.report(data) -> {metric: value}`)
    stands beside them.

    Args:
        augment: makes one view of a batch.
        monitor: `linear_accuracy`, `knn_accuracy`, or, without labels, `rankme`.
        k: neighbours that vote.
        local_augment: makes one local view of a batch, for multi-crop.

    Raises:
        DataError: the monitor is none of these.
    """

    def __init__(
        self,
        augment: Augment | None = None,
        monitor: str = "knn_accuracy",
        k: int = 20,
        local_augment: Augment | None = None,
    ) -> None:
        super().__init__(augment, monitor, local_augment)
        self.k = k
        known = ("linear_accuracy", "knn_accuracy", "rankme")
        if monitor.partition("/")[0] not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """Accuracies and RankMe of a split, with the outcome of every sample.

        Raises:
            DataError: the split is empty, or has no labels that the monitor needs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split is empty")
        splits = ("train", "valid", "test") if split == "test" else ("train", "valid")
        known = {s: data.splits[s] for s in splits}
        features = {
            s: joint_embedding(embed_all(system, data, rows)).float() for s, rows in known.items()
        }
        outcomes: dict[str, Tensor] = {}
        for name, values in data.labels.items():
            labels = {s: values[rows] for s, rows in known.items()}
            if all(bool((of >= 0).any()) for of in labels.values()):
                ending = "" if name == "label" else f"/{name}"
                correct = self._correct(features, labels, split, data.n_classes[name], ending)
                outcomes |= {f"{metric}{ending}": hits for metric, hits in correct.items()}
        metrics = {name: float(hits.nanmean()) for name, hits in outcomes.items()}
        projections = embed_all(system, data, data.splits[split], projected=True)
        metrics["rankme"] = float(rankme(joint_embedding(projections)))
        report = getattr(system, "report", None)
        metrics |= report(data) if report else {}
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: the data have no such labels",
                expected=f"one of {', '.join(metrics)}",
            )
        ids = [data.ids[row] for row in data.splits[split].tolist()]
        per_unit = {name: hits.cpu().numpy() for name, hits in outcomes.items()}
        return Evaluation(metrics, "sample", np.array(ids), per_unit)

    def _correct(
        self,
        features: dict[str, Tensor],
        labels: dict[str, Tensor],
        split: str,
        n_classes: int,
        ending: str,
    ) -> dict[str, Tensor]:
        """Metric -> 1 where a sample of the split was told right, 0 where not, NaN if unknown."""
        rows = {s: of >= 0 for s, of in labels.items()}
        x = {s: features[s][rows[s]] for s in rows}
        y = {s: labels[s][rows[s]] for s in rows}
        votes = knn_predict(x["train"], y["train"], x[split], n_classes, self.k)
        predicted = {"knn_accuracy": votes.argmax(1)}
        if split == "test" or self.monitor == f"linear_accuracy{ending}":
            penalties = PENALTIES if split == "test" else (_VALIDATION_PENALTY,)
            probe = LinearProbe.fit(x["train"], y["train"], x["valid"], y["valid"], penalties)
            predicted["linear_accuracy"] = probe.predict(x[split])
        return {name: _hits(rows[split], guess == y[split]) for name, guess in predicted.items()}


def _hits(known: Tensor, correct: Tensor) -> Tensor:
    hits = torch.full(known.shape, torch.nan, device=known.device)
    hits[known] = correct.float()
    return hits
