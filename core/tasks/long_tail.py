"""Probing of what was learned from a long-tailed part of balanced training data."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.tasks.probing import Probing
from core.tasks.samples import Augment
from core.trainers.system import System
from core.trainers.task import Loader


class LongTailProbing(Probing):
    """`Probing` on the whole training split of systems that train on a long-tailed part of it.

    Class c of C keeps n tail^(c / (C - 1)) of its n training samples, as in long-tailed CIFAR. The
    classifiers are fitted on all of them, so that they do not carry the imbalance themselves.

    Args:
        augment: makes one view of a batch.
        monitor: as in `Probing`.
        k: neighbours that vote.
        tail: how many samples the last class keeps, as a share; 1 keeps all.
        minimum: samples that each class keeps at least, if it has them.
        seed: of which ones.

    Raises:
        DataError: the monitor is unknown, or `tail` is not in (0, 1].
    """

    def __init__(
        self,
        augment: Augment | None = None,
        monitor: str = "knn_accuracy",
        k: int = 20,
        tail: float = 0.05,
        minimum: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(augment, monitor, k)
        if not 0 < tail <= 1:
            raise DataError(f"task.tail={tail}", expected="a share above 0, at most 1")
        self.tail, self.minimum, self.seed = tail, minimum, seed

    def trained_on(self, data: Samples) -> Samples:
        """The data with the long-tailed part as training split.

        Raises:
            DataError: there is no label to make a tail of.
        """
        if "label" not in data.labels:
            raise DataError("a long tail of classes", expected="data with a label")
        rows = data.splits["train"]
        kept = long_tail(
            data.labels["label"][rows], data.n_classes["label"], self.tail, self.minimum, self.seed
        )
        return replace(data, splits=data.splits | {"train": rows[kept]})

    def system_arguments(self, data: Samples) -> dict[str, Any]:
        """The sizes that a system is built with; `n_train` is that of the long-tailed part."""
        return super().system_arguments(self.trained_on(data))

    def train_loader(
        self,
        system: System,
        data: Samples,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of the long-tailed part; `index` counts its rows."""
        part = self.trained_on(data)
        return super().train_loader(system, part, batch_size, seed, rank, world_size)

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """As `Probing`, and what the system reports of the part that it was trained on."""
        found = super().evaluate(system, data, split)
        report = getattr(system, "report", None)
        found.metrics.update(report(self.trained_on(data)) if report else {})
        return found


def long_tail(
    labels: Int64[Tensor, " n"], n_classes: int, tail: float, minimum: int, seed: int
) -> Int64[Tensor, " kept"]:
    """The rows that a long-tailed part keeps, ascending; those of unknown class are left out.

    Args:
        labels: class of every row, negative where unknown.
        n_classes: C.
        tail: share that class C - 1 keeps; class 0 keeps all, those between geometrically fewer.
        minimum: rows that a class keeps at least, if it has them.
        seed: of which rows.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = []
    for number in range(n_classes):
        own = order[labels.cpu()[order] == number]
        share = tail ** (number / max(n_classes - 1, 1))
        kept.append(own[: max(minimum, round(len(own) * share))])
    return torch.cat(kept).sort().values.to(labels.device)
