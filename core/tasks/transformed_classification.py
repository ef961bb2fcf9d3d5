"""Classification by systems that may look at several transformed copies of a test sample."""

from typing import Protocol, cast, runtime_checkable

from torch import Tensor

from core.augment.draws import Draws
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.tasks.classification import Classification
from core.tasks.samples import Augment
from core.trainers.system import Batch, System


@runtime_checkable
class PredictsFromOneCopy(Protocol):
    """A classifier that can also do with the untransformed sample."""

    def predict_single(self, batch: Batch) -> Tensor:
        """(B, classes) scores from one pass."""
        ...


class TransformedClassification(Classification):
    """`Classification`, with inference from the untransformed sample alone on validation.

    On the test split the metrics are those of `system.predict`, and `single_accuracy` is that of
    `system.predict_single`, which costs one pass. Validation uses the single pass, as its paper
    does (arXiv 1910.05872). Systems without `predict_single` are evaluated as usual.

    Args:
        augment: makes the training images; None leaves them as they are.
        monitor: see `Classification`.
        label: see `Classification`.
    """

    def __init__(
        self, augment: Augment | None = None, monitor: str = "accuracy", label: str = "label"
    ) -> None:
        super().__init__(augment or _as_they_are, monitor, label)

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """As `Classification`."""
        if not isinstance(system, PredictsFromOneCopy):
            return super().evaluate(system, data, split)
        single = cast(System, OneCopy(system))
        alone = super().evaluate(single, data, split)
        if split == "valid":
            return alone
        found = super().evaluate(system, data, split)
        found.metrics["single_accuracy"] = alone.metrics["accuracy"]
        return found


def _as_they_are(images: Tensor, draws: Draws) -> Tensor:
    return images


class OneCopy:
    """A system whose prediction is that from the untransformed sample alone."""

    def __init__(self, system: PredictsFromOneCopy) -> None:
        self.predict = system.predict_single
        if hasattr(system, "shapes"):
            self.shapes = system.shapes
