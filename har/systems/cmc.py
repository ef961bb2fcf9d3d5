"""CMC: the two sensors of one clip attract each other, those of other clips repel.

Contrastive multiview coding (Tian, Krishnan, Isola, ECCV 2020, arXiv 1906.05849) of skeletons and
inertial sensors, as Brinzea, Khaertdinov and Asteriadis use it (IJCNN 2022, arXiv 2205.10071): an
encoder and a projection for each modality, and the cross entropy of finding a clip's other sensor
among those of the batch, in both directions.
Differs from the authors' recipe: the learning rate stays as it is where theirs is halved after 20
epochs without a lower training loss.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.losses import info_nce
from core.trainers.system import Batch, System
from har.systems.encoders import Projection, build_encoders


class CMC(System):
    """Symmetric InfoNCE between the projections of two modalities.

    Args:
        shapes: modality -> shape of one window, two modalities.
        encoder: modality -> `_target_` and arguments, or one for both; None: the published ones,
            see `har.systems.encoders`.
        hidden_dim: width inside the projections.
        dim: width of the projections.
        temperature: a divisor of the cosines, above 0.

    Raises:
        DataError: the windows have one modality, or more than two; the temperature is not above 0.
    """

    n_views = 1

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 256,
        dim: int = 128,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if len(shapes) != 2:
            raise DataError(
                f"{type(self).__name__} of {', '.join(shapes)}",
                expected="two modalities",
                fix="data.modalities=[skeleton,imu]",
            )
        if not temperature > 0:
            raise DataError(f"system.temperature={temperature}", expected="above 0")
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.temperature = temperature
        self.encoders = build_encoders(encoder, shapes)
        self.heads = nn.ModuleDict(
            {
                name: Projection(int(own.dim), hidden_dim, dim)  # type: ignore[arg-type]
                for name, own in self.encoders.items()
            }
        )

    def projections(self, batch: Batch) -> list[Float[Tensor, "batch dim"]]:
        """Those of one view of each modality, of any length."""
        features = {
            name: encoder(batch[f"views/{name}"][0]) for name, encoder in self.encoders.items()
        }
        self.latest = {"features": next(iter(features.values())).detach()}
        return [self.heads[name](of) for name, of in features.items()]

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE, the mean of both directions."""
        first, second = self.projections(batch)
        return {"loss": info_nce(first, second, self.temperature)}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The representations before the projections, not of unit length."""
        return {name: encoder(batch[name]).float() for name, encoder in self.encoders.items()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The projections as they leave the heads; their cosines compare the modalities."""
        return {name: self.heads[name](of).float() for name, of in self.embed(batch).items()}
