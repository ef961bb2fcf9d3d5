"""Supervised classification of one sensor or of both: the upper rows of the field's tables.

The encoders of CMC with the classifier that Brinzea, Khaertdinov and Asteriadis put on frozen ones
(IJCNN 2022, arXiv 2205.10071), all trained together, see `core.evaluation.readout.Readout`. It
learns from the windows as they are: whether the authors augment here we do not know, and the views
of the contrastive methods, made to be hard to match, cost accuracy. `task.augment` may name others.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.evaluation.readout import Readout
from core.systems.sla import cross_entropy, n_classes_of
from core.trainers.system import Batch, System
from har.systems.encoders import build_encoders


class Supervised(System):
    """Cross entropy of the activities.

    Args:
        shapes: modality -> shape of one window.
        n_classes: name of a label -> number of its classes; `label` is learned.
        encoder: modality -> `_target_` and arguments, or one for all; None: the published ones,
            see `har.systems.encoders`.
        hidden_dim: width of each modality's first layer in the classifier.

    Raises:
        DataError: the data have no label.
    """

    n_views = 1

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.encoders = build_encoders(encoder, shapes)
        dims = {name: int(own.dim) for name, own in self.encoders.items()}  # type: ignore[arg-type]
        self.readout = Readout(dims, n_classes_of(self, n_classes), hidden_dim)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over the windows whose activity is known."""
        views = {name: batch[f"views/{name}"][0] for name in self.encoders}
        return {"loss": cross_entropy(self.predict(views), batch["label"])}

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        features = {name: encoder(batch[name]) for name, encoder in self.encoders.items()}
        scores: Tensor = self.readout(features)
        return scores

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The encoders' features, not of unit length."""
        return {name: encoder(batch[name]).float() for name, encoder in self.encoders.items()}
