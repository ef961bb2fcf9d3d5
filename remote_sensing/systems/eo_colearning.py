"""MDiCo: sensors that learn together, so that each predicts better alone.

Multi-modal Co-learning for Earth Observation, Machine Learning 114:279, 2025 (arXiv 2510.19579).
Of every sensor m two encoders see the sample: U_m, whose output is cut into z_spe, specific to the
sensor and useful, and z_unu, specific and not useful; and S_m, which a layer maps to z_sha, what
the sensors share. A sensor predicts from [z_spe, z_sha]: where one sensor is all there is, its own
two encoders and its head are all that runs.

L = w_main L_main + w_aux L_aux + w_con L_con + w_mod L_mod. L_main is the cost of the predictions;
L_aux that of one common head on z_spe and on z_sha; L_con pulls together the z_sha of a sample's
sensors; L_mod tells the sensors apart by z_spe and by z_unu.

The paper's figure is followed where the authors' code differs: the code feeds z_sha to the second
head of L_mod, so that the shared features are trained to reveal their sensor and z_unu is trained
by nothing (`mod_head_input="shared"`).
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.build import build_part
from core.data.checks import DataError
from core.data.samples import Samples
from core.distributed import global_mean
from core.losses import nt_xent
from core.losses.precision import full_precision
from core.trainers.system import Batch, System
from remote_sensing.systems.sensor_encoders import build_sensor_encoders, load_image_weights


class Parts(NamedTuple):
    """What a sensor's two encoders say of some samples, each (B, D/2)."""

    specific: Float[Tensor, "batch half"]
    unused: Float[Tensor, "batch half"]
    shared: Float[Tensor, "batch half"]

    @property
    def used(self) -> Float[Tensor, "batch dim"]:
        """What the prediction sees: z_spe and z_sha side by side."""
        return torch.cat([self.specific, self.shared], dim=1)


class MDiCo(System):
    """Co-learning of two sensors or more, each of which predicts alone.

    Args:
        shapes: modality -> shape of one sample.
        target: `_target_` and `n_outputs` of one of `remote_sensing.systems.targets`.
        encoder: `_target_` and arguments of all encoders, or modality -> such; None: TempCNN for
            series, ResNet-50 for images. Each is built twice.
        dim: width D of encoders that are chosen by the shape; halves of it are z_spe and z_unu.
        head_hidden: widths of hidden layers of the predictions; none is a linear head.
        head_dropout: after each of these.
        temperature: τ of L_con.
        main_weight: of L_main.
        auxiliary_weight: of L_aux.
        contrast_weight: of L_con, the sum over the ordered pairs of sensors: with two sensors their
            one pair counts twice, with M there are M (M - 1).
        modality_weight: of L_mod.
        mod_head_input: what the second head of L_mod sees, z_unu or, as in the authors' code,
            z_sha.
        image_weights: file of torchvision's ResNet-50, read before training.

    Raises:
        DataError: fewer than two modalities, or encoders of an odd or of different widths.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        target: dict[str, Any],
        encoder: dict[str, Any] | None = None,
        dim: int = 128,
        head_hidden: Sequence[int] = (),
        head_dropout: float = 0.2,
        temperature: float = 0.1,
        main_weight: float = 1.0,
        auxiliary_weight: float = 1.0,
        contrast_weight: float = 1.0,
        modality_weight: float = 1.0,
        mod_head_input: Literal["unused", "shared"] = "unused",
        image_weights: str | None = None,
    ) -> None:
        super().__init__()
        if len(shapes) < 2:
            raise DataError(
                f"MDiCo of one modality, {', '.join(shapes)}",
                expected="two or more to learn from; one is enough to predict",
            )
        if mod_head_input not in ("unused", "shared"):
            raise DataError(f"system.mod_head_input={mod_head_input}", expected="unused or shared")
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.temperature, self.image_weights = temperature, image_weights
        self.main_weight, self.auxiliary_weight = main_weight, auxiliary_weight
        self.contrast_weight, self.modality_weight = contrast_weight, modality_weight
        self.reads_shared = mod_head_input == "shared"
        self.target = build_part(target)

        self.unique = build_sensor_encoders(encoder, shapes, dim)
        self.common = build_sensor_encoders(encoder, shapes, dim)
        width = next(int(of.dim) for of in self.unique.values())  # type: ignore[arg-type]
        if width % 2:
            raise DataError(f"encoders of width {width}", expected="an even one, cut into halves")
        half, n = width // 2, self.target.n_outputs
        self.share = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, half), nn.BatchNorm1d(half), nn.ReLU())
                for name in shapes
            }
        )
        self.heads = nn.ModuleDict(
            {name: prediction_head(width, head_hidden, n, head_dropout) for name in shapes}
        )
        self.auxiliary_head = nn.Linear(half, n)
        self.specific_head = nn.Linear(half, len(shapes))
        self.unused_head = nn.Linear(half, len(shapes))

    def prepare(self, data: Samples) -> None:
        """Takes what the cost needs of the training samples, and weights from a file."""
        self.target.prepare(data.columns("train"))
        load_image_weights(self, self.image_weights)

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The four terms and their weighted sum.

        Raises:
            DataError: a single row, of which batch norm cannot learn.
        """
        refuse_single_row(self, batch[next(iter(self.shapes))])
        parts = self.encode({name: batch[name] for name in self.shapes})
        costs = [self.sensor_costs(name, of, batch) for name, of in parts.items()]
        main, auxiliary, modality = (torch.stack(of).mean() for of in zip(*costs, strict=True))
        pairs = combinations([of.shared for of in parts.values()], 2)
        # Both orders of a pair cost the same.
        contrast = 2 * torch.stack([nt_xent(a, b, self.temperature) for a, b in pairs]).sum()
        loss = self.main_weight * main + self.auxiliary_weight * auxiliary
        loss = loss + self.contrast_weight * contrast + self.modality_weight * modality
        terms = {"loss": loss, "main": main, "auxiliary": auxiliary}
        return terms | {"contrast": contrast, "modality": modality}

    def encode(self, sensors: Batch) -> dict[str, Parts]:
        """The parts of every sensor that is there."""
        parts = {}
        for name, x in sensors.items():
            specific, unused = self.unique[name](x).chunk(2, dim=1)
            parts[name] = Parts(specific, unused, self.share[name](self.common[name](x)))
        return parts

    def sensor_costs(self, name: str, of: Parts, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """A sensor's share of L_main, L_aux and L_mod, each a scalar."""
        main = self.target.cost(self.heads[name](of.used), batch)
        both = [self.target.cost(self.auxiliary_head(z), batch) for z in (of.specific, of.shared)]
        number = list(self.shapes).index(name)
        second = of.shared if self.reads_shared else of.unused
        guesses = self.specific_head(of.specific), self.unused_head(second)
        told = [_told_apart(logits, number) for logits in guesses]
        return main, torch.stack(both).mean(), torch.stack(told).mean()

    def predict_each(self, batch: Batch) -> dict[str, Float[Tensor, "batch outputs"]]:
        """What every sensor that is there predicts by itself: logits, or values."""
        parts = self.encode({name: batch[name] for name in self.shapes if name in batch})
        return {name: self.heads[name](of.used) for name, of in parts.items()}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """What each sensor's prediction sees, z_spe and z_sha side by side, not of unit length."""
        parts = self.encode({name: batch[name] for name in self.shapes if name in batch})
        return {name: of.used.float() for name, of in parts.items()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch half"]]:
        """z_sha of each sensor, which can be compared between sensors; not of unit length."""
        parts = self.encode({name: batch[name] for name in self.shapes if name in batch})
        return {name: of.shared.float() for name, of in parts.items()}


def prediction_head(width: int, hidden: Sequence[int], n: int, dropout: float) -> nn.Sequential:
    """Hidden layers of (linear, ReLU, dropout), if any, and a linear one."""
    layers: list[nn.Module] = []
    widths = [width, *hidden]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n))


def refuse_single_row(system: System, rows: Tensor) -> None:
    """Ends a training whose batch norm would have one row to learn from.

    Raises:
        DataError: the system trains on a batch of one row.
    """
    if system.training and len(rows) == 1:
        raise DataError(
            "a batch of one sample, of which batch norm cannot learn",
            expected="two rows or more for every process",
            fix="choose trainer.batch_size_global so that the rows do not leave one over",
        )


@full_precision
def _told_apart(logits: Float[Tensor, "batch sensors"], number: int) -> Float[Tensor, ""]:
    """Cross entropy of saying of all rows that they are of one sensor."""
    return global_mean(-F.log_softmax(logits, dim=1)[:, number])
