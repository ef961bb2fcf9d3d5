"""Classification: what a system that predicts classes itself gets right."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.classification import classification
from core.evaluation.evaluation import Evaluation
from core.tasks.samples import Augment, SampleTask, as_float
from core.trainers.system import Batch, System

_ROWS = 1024  # that are predicted at a time


@runtime_checkable
class Classifier(Protocol):
    """A system that knows the classes."""

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores of every row, without augmentation; the largest is the prediction."""
        ...


class Classification(SampleTask):
    """Accuracy, balanced accuracy and F1 of `system.predict`, with a value a sample.

    Args:
        augment: makes one view of a batch of the first modality, for systems of views.
        monitor: `accuracy`, `balanced_accuracy`, `macro_f1` or `weighted_f1`.
        label: name of the label that is predicted; samples without it are not evaluated.

    Raises:
        DataError: the monitor is none of these.
    """

    def __init__(
        self, augment: Augment | None = None, monitor: str = "accuracy", label: str = "label"
    ) -> None:
        super().__init__(augment, monitor)
        self.label = label
        known = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
        if monitor not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """Metrics of a split, with the value of every sample that has a label.

        Raises:
            DataError: no sample of the split has the label, or the system predicts no classes.
        """
        rows = data.splits[split]
        labels = data.labels.get(self.label, torch.full((len(data.ids),), -1, device=rows.device))
        rows = rows[labels[rows] >= 0]
        if len(rows) == 0:
            raise DataError(
                f"no sample of the {split} split has a {self.label}",
                expected=f"task.label: one of {', '.join(data.labels) or 'the labels, of none'}",
            )
        scores = predict_all(system, data, rows)
        ids = np.array([data.ids[row] for row in rows.tolist()])
        return classification(scores, labels[rows], ids)


@torch.no_grad()
def predict_all(
    system: System, data: Samples, rows: Int64[Tensor, " n"]
) -> Float[Tensor, "n classes"]:
    """`system.predict` of some rows, on the device of the data.

    Raises:
        DataError: the system predicts no classes, or was trained on samples of other shapes.
    """
    if not isinstance(system, Classifier):
        raise DataError(
            f"{type(system).__name__} predicts no classes",
            fix="probe its representations: data=table or data=digits_demo",
        )
    shapes = getattr(system, "shapes", data.shapes)
    if shapes != data.shapes:
        raise DataError(f"samples of {data.shapes}", expected=f"those of the training, {shapes}")
    scores = []
    for some in rows.split(_ROWS):
        batch = {name: values.index_select(0, some) for name, values in data.inputs.items()}
        scores.append(system.predict(as_float(batch, data)).float())
    return torch.cat(scores)
