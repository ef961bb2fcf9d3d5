"""All sensors in one model, which at the end lacks those that are missing: a baseline of MDiCo.

Multi-modal Co-learning for Earth Observation (arXiv 2510.19579) asks what a sensor is worth alone
after training with others. The plain answer is a model of all of them that is given, for a sensor
that is missing, what the data are filled with where they are missing: 0, the mean of standardised
values. The encoders are those of MDiCo, one a sensor; their features stand side by side before the
prediction. Nothing prepares the model for what it will lack.
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


class SensorFusion(nn.Module):
    """Features of all sensors side by side, and a prediction from them.

    Args:
        shapes: modality -> shape of one sample.
        n_outputs: numbers that are predicted.
        encoder: see `remote_sensing.systems.eo_colearning.MDiCo`.
        dim: width of encoders that are chosen by the shape.
        head_hidden: widths of hidden layers of the prediction.
        head_dropout: after each of these.

    Raises:
        DataError: encoders of different widths.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_outputs: int,
        encoder: dict[str, Any] | None = None,
        dim: int = 128,
        head_hidden: Sequence[int] = (),
        head_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.encoders = build_sensor_encoders(encoder, shapes, dim)
        width = sum(int(of.dim) for of in self.encoders.values())  # type: ignore[arg-type,misc]
        self.head = prediction_head(width, head_hidden, n_outputs, head_dropout)

    def features(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """Of all sensors side by side; those that the batch lacks are zeros."""
        there = next(batch[name] for name in self.shapes if name in batch)
        found = []
        for name, encoder in self.encoders.items():
            values = batch.get(name)
            if values is None:
                values = there.new_zeros(len(there), *self.shapes[name])
            found.append(encoder(values))
        return torch.cat(found, dim=1)

    def forward(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """Logits, or values."""
        out: Tensor = self.head(self.features(batch))
        return out


class AllSensors(System):
    """One model of all sensors, trained with all and asked with one.

    Args:
        shapes: modality -> shape of one sample.
        target: `_target_` and `n_outputs` of one of `remote_sensing.systems.targets`.
        encoder: see `remote_sensing.systems.eo_colearning.MDiCo`.
        dim: width of encoders that are chosen by the shape.
        head_hidden: widths of hidden layers of the prediction; none is a linear head.
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
        self.image_weights = image_weights
        self.target = build_part(target)
        self.fusion = SensorFusion(
            shapes, self.target.n_outputs, encoder, dim, head_hidden, head_dropout
        )
        self.shapes = self.fusion.shapes

    def prepare(self, data: Samples) -> None:
        """Takes what the cost needs of the training samples, and weights from a file."""
        self.target.prepare(data.columns("train"))
        load_image_weights(self, self.image_weights)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The cost of the prediction from all sensors.

        Raises:
            DataError: a single row, of which batch norm cannot learn.
        """
        refuse_single_row(self, batch[next(iter(self.shapes))])
        return {"loss": self.target.cost(self.fusion(batch), batch)}

    def predict_each(self, batch: Batch) -> dict[str, Float[Tensor, "batch outputs"]]:
        """What is predicted from every sensor that is there, all others missing."""
        return {n: self.fusion({n: batch[n]}) for n in self.shapes if n in batch}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Features from each sensor, all others missing, and `joint` of all; no unit vectors."""
        there = {name: batch[name] for name in self.shapes if name in batch}
        found = {name: self.fusion.features({name: of}) for name, of in there.items()}
        if len(there) == len(self.shapes):
            found["joint"] = self.fusion.features(there)
        return {name: of.float() for name, of in found.items()}
