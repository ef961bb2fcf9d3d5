"""Slides as bags of patches: how systems learn from, are judged by, embed and search them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.multi_crop import MultiCrop
from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.evaluation.rank import rankme
from core.evaluation.simpleshot import SimpleShot
from core.trainers.system import System
from medical.bag_heads import SlideClassifier, bag_means, mi_simpleshot
from medical.data.bags import Bag, write_bag
from medical.data.slide_files import MPP_TIMES_MAGNIFICATION
from medical.data.slides import Slides
from medical.patch_task import PatchProbing, embed_images
from medical.scores import REPORTED, judged_classes, row_of

_HEADS = ("abmil", "mean_pooling", "mi_simpleshot")


class SlideProbing(PatchProbing):
    """What frozen features of patches tell of the class of a slide.

    `mean_pooling_*`: SimpleShot on the mean of a slide's patches. `mi_simpleshot_*`, of data with
    `regions/` of the slides' classes: prototypes of labelled regions of training patients against
    the few patches nearest to each; no slide teaches. `abmil_*`: gated attention trained on the
    training slides. Of the heads only attention is chosen on validation, and on the validation
    split itself it is not chosen at all.

    Args:
        augment: makes the crops that systems of views learn from.
        monitor: the metric that chooses checkpoints and configurations.
        size: see `PatchProbing`.
        nearest: patches of a slide that speak for a class in MI-SimpleShot.
        abmil_epochs: of the training of attention, at most.
        abmil_lr: of its AdamW.
        seed: of its weights and order.

    Raises:
        DataError: the monitor is none of these.
    """

    def __init__(
        self,
        augment: MultiCrop | None = None,
        monitor: str = "mean_pooling_balanced_accuracy",
        size: int | None = None,
        nearest: int = 5,
        abmil_epochs: int = 20,
        abmil_lr: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(augment, "rankme", size)
        self.monitor, self.nearest = monitor, nearest
        self.abmil_epochs, self.abmil_lr, self.seed = abmil_epochs, abmil_lr, seed
        known = ["rankme", *(f"{head}_{metric}" for head in _HEADS for metric in REPORTED)]
        if monitor not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")

    def has_split(self, data: Slides, split: str) -> bool:  # type: ignore[override]
        """Whether any slide is in the split."""
        return any(slide.split == split for slide in data.slides)

    def evaluate(self, system: System, data: Slides, split: str) -> Evaluation:  # type: ignore[override]
        """Metrics of the slides of a split; the test units are its patients.

        Raises:
            DataError: the split is empty, or has nothing that the monitor needs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split has no slides")
        features = self.vectors(system, data)["image"]
        metrics: dict[str, float] = {}
        own = [
            n for n, slide in enumerate(data.slides) if slide.split == split and slide.label >= 0
        ]
        scores = self._scores(system, data, features, split, own) if own else {}
        labels = torch.tensor([data.slides[n].label for n in own], device=features.device)
        patients = [data.slides[n].patient for n in own]
        found = {
            name: judged_classes(of, labels, patients, "patient") for name, of in scores.items()
        }
        for head, of in found.items():
            metrics |= {f"{head}_{metric}": value for metric, value in of.metrics.items()}
        if split == "test" or self.monitor == "rankme":
            metrics["rankme"] = float(rankme(features[data.splits[split]]))
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: cannot be measured on the {split} split of these "
                "slides",
                expected=f"one of {', '.join(metrics) or 'rankme'}",
            )
        if not found:
            return Evaluation(metrics)
        per_unit = {
            f"{head}_{metric}": values
            for head, of in found.items()
            for metric, values in of.per_unit.items()
        }
        first = next(iter(found.values()))
        table = [row_of(head, of) for head, of in found.items()]
        return Evaluation(metrics, "patient", first.unit_ids, per_unit, table)

    def _scores(
        self,
        system: System,
        data: Slides,
        features: Float[Tensor, "n dim"],
        split: str,
        own: Sequence[int],
    ) -> dict[str, Float[Tensor, "slides classes"]]:
        """Head -> scores of the slides `own`, the largest of which is the prediction."""
        n_classes = len(data.slide_classes)
        numbers = {s: _labelled(data, s) for s in ("train", "valid")}
        labels = {
            s: torch.tensor([data.slides[n].label for n in of], device=features.device)
            for s, of in numbers.items()
        }
        if len(labels["train"].unique()) < 2:
            return {}
        bags = {s: [features[data.rows_of(n)] for n in of] for s, of in numbers.items()}
        asked = [features[data.rows_of(n)] for n in own]
        means = SimpleShot.fit(bag_means(bags["train"]), labels["train"], n_classes)
        scores = {"mean_pooling": -means.squared_distances(bag_means(asked))}
        prototypes = self._prototypes(system, data)
        if prototypes is not None:
            scores["mi_simpleshot"] = -mi_simpleshot(prototypes, asked, self.nearest)
        if split == "test" or self.monitor.startswith("abmil"):
            # The validation split must not choose the weights it is then judged by.
            judge = (bags["valid"], labels["valid"]) if split == "test" else ()
            classifier = SlideClassifier.fit(
                bags["train"],
                labels["train"],
                n_classes,
                *judge,
                epochs=self.abmil_epochs,
                lr=self.abmil_lr,
                seed=self.seed,
            )
            scores["abmil"] = classifier.scores(asked)
        return scores

    def _prototypes(self, system: System, data: Slides) -> SimpleShot | None:
        """Of regions of training patients; None where some class of the slides has none."""
        if data.regions is None or "label" not in data.regions.labels:
            return None
        names = data.regions.classes["label"]
        slide_class = [
            data.slide_classes.index(name) if name in data.slide_classes else -1 for name in names
        ]
        label = data.regions.labels["label"]
        # A region without a label is of no class either.
        of = torch.tensor([*slide_class, -1], device=label.device)[label]
        rows = data.regions.splits["train"]
        rows = rows[of[rows] >= 0]
        if len(of[rows].unique()) < len(data.slide_classes):
            return None
        features = embed_images(system, data.regions, rows, self.size)
        return SimpleShot.fit(features, of[rows], len(data.slide_classes))

    def embed_into(self, system: System, data: Slides, folder: Path) -> list[dict[str, Any]]:
        """Writes a bag for every slide, `SLIDE.h5`, into a folder; returns a line for each."""
        magnification = MPP_TIMES_MAGNIFICATION / data.grid.mpp
        lines = []
        for number, slide in enumerate(data.slides):
            rows = data.rows_of(number)
            features = embed_images(system, data, rows, self.size)
            bag = Bag(features, data.corners[rows.cpu()])
            file = folder / f"{slide.id}.h5"
            own = MPP_TIMES_MAGNIFICATION / slide.mpp
            write_bag(file, bag, data.grid.size, magnification, own)
            lines.append({"bag": str(file), "patches": len(rows), "width": features.shape[1]})
        return lines


def _labelled(data: Slides, split: str) -> list[int]:
    return [n for n, slide in enumerate(data.slides) if slide.split == split and slide.label >= 0]
