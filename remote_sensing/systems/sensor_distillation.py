"""Knowledge distillation: a model of all sensors teaches one model a sensor; a baseline of MDiCo.

Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean, arXiv 1503.02531), among the
methods that Multi-modal Co-learning for Earth Observation (arXiv 2510.19579) compares with. The
teacher sees all sensors and learns from the targets alone; each student sees one sensor and learns
from the targets and from what the teacher says of the sample. Teacher and students learn in the
same steps, so that the students have the whole training; nothing of theirs reaches the teacher.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.checks import DataError
from core.trainers.system import Batch
from remote_sensing.systems.all_sensors import SensorFusion
from remote_sensing.systems.eo_colearning import refuse_single_row
from remote_sensing.systems.single_sensor import SingleSensor


class SensorDistillation(SingleSensor):
    """One student a sensor, and a teacher of all that is left behind after the training.

    Args:
        shapes: modality -> shape of one sample.
        target: `_target_` and `n_outputs` of one of `remote_sensing.systems.targets`.
        encoder: of the teacher and of the students; see
            `remote_sensing.systems.eo_colearning.MDiCo`.
        dim: width of encoders that are chosen by the shape.
        head_hidden: widths of hidden layers of the predictions; none is a linear head.
        head_dropout: after each of these.
        weight: of what the teacher says beside the targets.
        temperature: by which logits are divided before they are compared.
        image_weights: file of torchvision's ResNet-50, read before training.

    Raises:
        DataError: fewer than two modalities, encoders of different widths, or a weight or a
            temperature that means nothing.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        target: dict[str, Any],
        encoder: dict[str, Any] | None = None,
        dim: int = 128,
        head_hidden: Sequence[int] = (),
        head_dropout: float = 0.2,
        weight: float = 1.0,
        temperature: float = 2.0,
        image_weights: str | None = None,
    ) -> None:
        if len(shapes) < 2:
            raise DataError(
                f"distillation of one modality, {', '.join(shapes)}",
                expected="two or more for the teacher; one is enough to predict",
            )
        if weight < 0 or temperature <= 0:
            raise DataError(
                f"system.weight={weight}, system.temperature={temperature}",
                expected="a weight from 0 on and a temperature above 0",
            )
        super().__init__(shapes, target, encoder, dim, head_hidden, head_dropout, image_weights)
        self.weight, self.temperature = weight, temperature
        self.teacher = SensorFusion(
            shapes, self.target.n_outputs, encoder, dim, head_hidden, head_dropout
        )

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's cost, and of each student its own and how far it is from the teacher.

        Raises:
            DataError: a single row, of which batch norm cannot learn.
        """
        refuse_single_row(self, batch[next(iter(self.shapes))])
        taught = self.teacher(batch)
        terms = {"teacher": self.target.cost(taught, batch)}
        said: Float[Tensor, "batch outputs"] = taught.detach()
        for name, outputs in self.predict_each({n: batch[n] for n in self.shapes}).items():
            terms[name] = self.target.cost(outputs, batch)
            terms[f"imitation/{name}"] = self.weight * self.target.imitation(
                outputs, said, self.temperature
            )
        return {"loss": torch.stack(list(terms.values())).sum()} | terms
