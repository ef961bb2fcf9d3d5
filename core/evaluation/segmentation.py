"""Mean intersection over union, with a value for every image, patient or scene."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation


class SegmentationScores:
    """Counts pixels or voxels over batches, on the device, and keeps them apart by image.

    torchmetrics' MulticlassJaccardIndex gives the same mean, but no values of the units.

    Args:
        n_classes: number of classes.
        ignore_index: label of what is not to be counted, where there is any. If it is the number
            of a class, that class is left out of the mean too.
    """

    def __init__(self, n_classes: int, ignore_index: int | None = None) -> None:
        self.n_classes, self.ignore_index = n_classes, ignore_index
        self._ids: list[int | str] = []
        # Intersection, prediction, truth: (3, batch, n_classes) of each batch.
        self._counts: list[Int[Tensor, "3 batch classes"]] = []

    def update(
        self,
        predicted: Int[Tensor, " batch *space"],
        target: Int[Tensor, " batch *space"],
        ids: Sequence[int] | Sequence[str],
    ) -> None:
        """Counts a batch.

        Args:
            predicted: classes, 0 to n_classes - 1, anything where the target is ignored.
            target: classes, or `ignore_index`.
            ids: the unit of each image; tiles of one scene or slices of one patient share theirs.

        Raises:
            DataError: shapes that do not match, or a number that is no class.
        """
        if predicted.shape != target.shape or len(ids) != len(target):
            raise DataError(
                f"predictions of shape {tuple(predicted.shape)}, targets of shape"
                f" {tuple(target.shape)}, {len(ids)} ids",
                expected="a class for each pixel of the target, and an id for each image",
            )
        target = target.flatten(1).long()
        if self.ignore_index is None:
            counted = torch.ones_like(target, dtype=torch.bool)
        else:
            counted = target != self.ignore_index
        guess = predicted.flatten(1).long()
        for name, values in (("prediction", guess), ("target", target)):
            low, high = torch.stack(torch.aminmax(values.where(counted, 0))).tolist()
            if low < 0 or high >= self.n_classes:
                raise DataError(
                    f"a {name} holds numbers from {low} to {high}",
                    expected=f"0 to {self.n_classes - 1}, or ignore_index={self.ignore_index}",
                    fix="set ignore_index to the label of what is not to be counted",
                )
        # Ignored pixels are of one class more, which is dropped.
        guess, truth = (x.where(counted, self.n_classes) for x in (guess, target))
        bins = self.n_classes + 1
        image = torch.arange(len(target), device=target.device)[:, None]
        cells = torch.bincount(
            ((image * bins + truth) * bins + guess).flatten(), minlength=len(target) * bins**2
        )
        confusion = cells.unflatten(0, (len(target), bins, bins))[:, :-1, :-1]
        self._counts.append(
            torch.stack([confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2)])
        )
        self._ids += ids

    def evaluation(self, unit: str = "image") -> Evaluation:
        """Metrics of everything that was counted.

        `miou` is the mean of intersection over union of all images together, over the classes that
        are true or predicted somewhere; `pixel_accuracy` the share of pixels that are right. The
        values of the units are linearised as in `core.evaluation.classification`: their mean is the
        metric, and to bootstrap that mean is to bootstrap the metric to first order.

        Args:
            unit: what the ids are of.

        Raises:
            DataError: nothing was counted.
        """
        counts = torch.cat(self._counts, 1) if self._counts else torch.zeros(3, 0, self.n_classes)
        unit_ids, unit_of_image = np.unique(np.asarray(self._ids), return_inverse=True)
        of_units = counts.new_zeros(3, len(unit_ids), self.n_classes)
        of_units.index_add_(1, torch.as_tensor(unit_of_image, device=counts.device), counts)
        right, guessed, true = of_units.double().cpu().numpy()
        if true.sum() == 0:
            raise DataError(
                "no pixel has a label", expected="one or more that are not ignore_index"
            )
        union = guessed + true - right
        if self.ignore_index is not None and 0 <= self.ignore_index < self.n_classes:
            union[:, self.ignore_index] = 0
        present = union.sum(0) > 0
        right_present, union = right[:, present], union[:, present]
        iou = right_present.sum(0) / union.sum(0)
        accuracy = right.sum() / true.sum()
        metrics = {"miou": float(iou.mean()), "pixel_accuracy": float(accuracy)}
        moves = {
            "miou": ((right_present - iou * union) / union.sum(0)).mean(1),
            "pixel_accuracy": (right - accuracy * true).sum(1) / true.sum(),
        }
        per_unit = {name: metrics[name] + len(unit_ids) * move for name, move in moves.items()}
        return Evaluation(metrics, unit, unit_ids, per_unit)
