"""Self-supervised label augmentation: the joint label of class and transformation.

Lee, Hwang, Shin, ICML 2020 (arXiv 1910.05872). Class and transformation are predicted
together; what it is compared with is in `core.systems.supervised`.
Differs from the authors' code: weight decay spares norms and biases; the images are in [0, 1].
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.augment.transformations import Transformations
from core.build import build_part
from core.data.checks import DataError
from core.distributed import global_mean
from core.encoders.build import build_encoder
from core.losses.precision import full_precision
from core.trainers.system import Batch, System


def joint_labels(label: Int64[Tensor, " batch"], count: int) -> Int64[Tensor, " rows"]:
    """Number y * M + j of each of the B * M copies, sample-major; negative where y is unknown."""
    number = label[:, None] * count + torch.arange(count, device=label.device)
    return torch.where(label[:, None] < 0, -1, number).flatten()


def aggregated(logits: Float[Tensor, "rows joint"], count: int) -> Float[Tensor, "batch classes"]:
    """Mean over j of the logits of copy j, each read at its own transformation.

    Args:
        logits: (B * M, N * M) joint logits of sample-major copies, class-major.
        count: M.
    """
    by_copy: Tensor = logits.unflatten(1, (-1, count)).unflatten(0, (-1, count))
    return by_copy.diagonal(dim1=1, dim2=3).mean(-1)


def single(logits: Float[Tensor, "batch joint"], count: int) -> Float[Tensor, "batch classes"]:
    """The joint logits of untransformed samples, read at the identity."""
    return logits[:, ::count]


@full_precision
def cross_entropy(
    logits: Float[Tensor, "rows classes"], label: Int64[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Mean over the rows of all processes whose label is known."""
    costs = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return global_mean(costs, label >= 0)


@full_precision
def distillation(
    teacher: Float[Tensor, "batch classes"],
    student: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² KL(softmax(teacher / T) || softmax(student / T)), mean over rows; the teacher is fixed."""
    goal = F.log_softmax(teacher.detach() / temperature, 1)
    found = F.log_softmax(student / temperature, 1)
    divergence = F.kl_div(found, goal, reduction="none", log_target=True).sum(1)
    return temperature**2 * global_mean(divergence)


class SLA(System):
    """Cross entropy with the joint labels; inference from one copy, all copies, or a student.

    Args:
        shapes: modality -> shape of one sample; the first modality is classified.
        n_classes: name of a label -> number of its classes; `label` is learned.
        transformations: `_target_` and arguments from `core.augment.transformations`; None is the
            four rotations.
        encoder: `_target_` and arguments; None is three convolutions for images up to 16 pixels,
            ResNet-32 up to 64, and what `core.encoders.build` says for others.
        inference: what `predict` gives: the mean over all copies (`aggregated`, M passes), the
            untransformed sample alone (`single`), or a second head that learns from the
            aggregation while training (`distilled`, one pass).
        distillation_temperature: T of the self-distillation.
        with_large_loss: sums the joint loss over the transformations in place of the mean, as the
            paper does for ImageNet and iNaturalist.

    Raises:
        DataError: the data have no label, or the inference is none of these.
    """

    n_views = 1

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        transformations: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        inference: Literal["aggregated", "single", "distilled"] = "aggregated",
        distillation_temperature: float = 1.0,
        with_large_loss: bool = False,
    ) -> None:
        super().__init__()
        if inference not in ("aggregated", "single", "distilled"):
            raise DataError(
                f"system.inference={inference}", expected="aggregated, single or distilled"
            )
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.modality, classes = next(iter(shapes)), n_classes_of(self, n_classes)
        self.transformations = build_transformations(transformations)
        self.encoder, width = build_classifier_trunk(encoder, shapes[self.modality])
        self.joint = nn.Linear(width, classes * self.transformations.count)
        self.student = nn.Linear(width, classes) if inference == "distilled" else None
        self.inference, self.temperature = inference, distillation_temperature
        self.with_large_loss = with_large_loss

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The joint cross entropy and, with a student, its cross entropy and distillation."""
        label, count = batch["label"], self.transformations.count
        features = self.encoder(self.transformations(batch["views"][0]).flatten(0, 1))
        logits = self.joint(features)
        joint = cross_entropy(logits, joint_labels(label, count))
        if self.with_large_loss:
            joint = joint * count
        if self.student is None:
            return {"loss": joint}
        scores = self.student(features[::count])
        terms = {"joint": joint, "student": cross_entropy(scores, label)}
        teacher = aggregated(logits, count)
        terms["distillation"] = distillation(teacher, scores, self.temperature)
        return {"loss": torch.stack(list(terms.values())).sum()} | terms

    def predict(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores as `inference` says."""
        if self.inference != "aggregated":
            return self.predict_single(batch)
        copies = self.transformations(batch[self.modality]).flatten(0, 1)
        return aggregated(self.joint(self.encoder(copies)), self.transformations.count)

    def predict_single(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Class scores from one pass: those of the student where there is one."""
        features = self.encoder(batch[self.modality])
        if self.student is not None:
            scores: Tensor = self.student(features)
            return scores
        return single(self.joint(features), self.transformations.count)

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The encoder's features of the untransformed samples, not of unit length."""
        return {self.modality: self.encoder(batch[self.modality]).float()}


def n_classes_of(system: System, n_classes: dict[str, int]) -> int:
    """Classes of the label `label`.

    Raises:
        DataError: the data have no such label.
    """
    if "label" not in n_classes:
        raise DataError(f"{type(system).__name__} learns classes and the data have no `label`")
    return n_classes["label"]


def build_transformations(config: dict[str, Any] | None) -> Transformations:
    """The group of a config, or the four rotations."""
    config = config or {"_target_": "core.augment.transformations.Rotations"}
    found: Transformations = build_part(config)
    return found


def build_classifier_trunk(
    config: dict[str, Any] | None, shape: Sequence[int]
) -> tuple[nn.Module, int]:
    """The encoder of a config, or the paper's for the shape, and its width."""
    if config is None and len(shape) == 3 and max(shape[1:]) <= 16:
        config = {"_target_": "core.encoders.small_convolutions.PooledConvNet"}
    elif config is None and len(shape) == 3 and max(shape[1:]) <= 64:
        config = {"_target_": "core.encoders.resnet32.ResNet32"}
    encoder = build_encoder(config, shape)
    return encoder, int(encoder.dim)  # type: ignore[arg-type]
