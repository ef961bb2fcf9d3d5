"""Each sensor by itself: what co-learning has to beat (arXiv 2510.19579).

The encoder of MDiCo, one of a sensor in place of two, and a linear head. The sensors share nothing
but the batches: they are trained side by side, and each is what it would be alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.build import build_part
from core.data.samples import Samples
from core.trainers.system import Batch, System
from remote_sensing.systems.eo_colearning import prediction_head, refuse_single_row
from remote_sensing.systems.sensor_encoders import build_sensor_encoders, load_image_weights


class SingleSensor(System):
    """Independent models, one a sensor.

    Args:
        shapes: modality -> shape of one sample.
        target: `_target_` and `n_outputs` of one of `remote_sensing.systems.targets`.
        encoder: see `remote_sensing.systems.eo_colearning.MDiCo`.
        dim: width of encoders that are chosen by the shape.
        head_hidden: widths of hidden layers of the predictions; none is a linear head.
        head_dropout: after each of these.
        image_weights: file of torchvision's ResNet-50, read before training.

    Raises:
        DataError: encoders of different widths.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        target: dict[str, Any],
        encoder: dict[str, Any] | None = None,
        dim: int = 128,
        head_hidden: Sequence[int] = (),
        head_dropout: float = 0.2,
        image_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.image_weights = image_weights
        self.target = build_part(target)
        self.encoders = build_sensor_encoders(encoder, shapes, dim)
        width = next(int(of.dim) for of in self.encoders.values())  # type: ignore[arg-type]
        n = self.target.n_outputs
        self.heads = nn.ModuleDict(
            {name: prediction_head(width, head_hidden, n, head_dropout) for name in shapes}
        )

    def prepare(self, data: Samples) -> None:
        """Takes what the cost needs of the training samples, and weights from a file."""
        self.target.prepare(data.columns("train"))
        load_image_weights(self, self.image_weights)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The sum over the sensors, so that each has the gradient it would have alone.

        Raises:
            DataError: a single row, of which batch norm cannot learn.
        """
        refuse_single_row(self, batch[next(iter(self.shapes))])
        predicted = self.predict_each({name: batch[name] for name in self.shapes})
        costs = {name: self.target.cost(outputs, batch) for name, outputs in predicted.items()}
        return {"loss": torch.stack(list(costs.values())).sum(), **costs}

    def predict_each(self, batch: Batch) -> dict[str, Float[Tensor, "batch outputs"]]:
        """What every sensor that is there predicts: logits, or values."""
        features = self._encode(batch)
        return {name: self.heads[name](z) for name, z in features.items()}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Each sensor's features, not of unit length."""
        return {name: z.float() for name, z in self._encode(batch).items()}

    def _encode(self, batch: Batch) -> dict[str, Tensor]:
        return {name: of(batch[name]) for name, of in self.encoders.items() if name in batch}
