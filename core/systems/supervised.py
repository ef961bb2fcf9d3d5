"""Supervised classification, with and without transformed copies of the samples.

What self-supervised label augmentation is compared with (Lee, Hwang, Shin, ICML 2020, arXiv
1910.05872, section 2): cross entropy of the classes on the samples (the baseline), on all their
copies (DA), and with a second head for the transformation (MT).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.systems.sla import (
    build_classifier_trunk,
    build_transformations,
    cross_entropy,
    n_classes_of,
)
from core.trainers.system import Batch, System


class Supervised(System):
    """Cross entropy of the classes: on the samples, or on all their transformed copies.

    Args:
        shapes: modality -> shape of one sample; the first modality is classified.
        n_classes: name of a label -> number of its classes; `label` is learned.
        transformations: as in `SLA`; None learns from the samples alone, which is the baseline,
            and otherwise all copies have their sample's class (DA).
        encoder: as in `SLA`.
        predict_transformation: a second head learns the transformation (MT).
        average: `predict` gives the mean of the logits of all copies, M passes.

    Raises:
        DataError: the data have no label, or without transformations one of them is asked for.
    """

    n_views = 1

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        transformations: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        predict_transformation: bool = False,
        average: bool = False,
    ) -> None:
        super().__init__()
        if transformations is None and (predict_transformation or average):
            raise DataError(
                "there are no transformations to predict or to average over",
                fix="name them: system.transformations={_target_: core.augment.transformations...}",
            )
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.modality, classes = next(iter(shapes)), n_classes_of(self, n_classes)
        self.transformations = transformations and build_transformations(transformations)
        self.encoder, width = build_classifier_trunk(encoder, shapes[self.modality])
        self.head = nn.Linear(width, classes)
        self.pretext = None
        if self.transformations and predict_transformation:
            self.pretext = nn.Linear(width, self.transformations.count)
        self.average = average

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The cross entropy of the classes and, for MT, that of the transformations."""
        x, label = batch["views"][0], batch["label"]
        if not self.transformations:
            return {"loss": cross_entropy(self.head(self.encoder(x)), label)}
        count = self.transformations.count
        features = self.encoder(self.transformations(x).flatten(0, 1))
        classes = cross_entropy(self.head(features), label.repeat_interleave(count))
        if self.pretext is None:
            return {"loss": classes}
        number = torch.arange(count, device=x.device).repeat(len(x))
        pretext = cross_entropy(self.pretext(features), number)
        return {"loss": classes + pretext, "classes": classes, "transformations": pretext}

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores, of all copies where `average` says so."""
        if not self.transformations or not self.average:
            return self.predict_single(batch)
        copies = self.transformations(batch[self.modality]).flatten(0, 1)
        logits: Tensor = self.head(self.encoder(copies)).unflatten(
            0, (-1, self.transformations.count)
        )
        return logits.mean(1)

    def predict_single(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores of the untransformed samples."""
        scores: Tensor = self.head(self.encoder(batch[self.modality]))
        return scores

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The encoder's features of the untransformed samples, not of unit length."""
        return {self.modality: self.encoder(batch[self.modality]).float()}
