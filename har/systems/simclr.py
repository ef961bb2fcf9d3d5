"""SimCLR on one sensor: two augmented views of a window attract (ICML 2020, arXiv 2002.05709).

With the projection and the encoders of CMC, as the single sensors in the tables of Brinzea,
Khaertdinov and Asteriadis (IJCNN 2022, arXiv 2205.10071).
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.data.checks import DataError
from core.encoders.build import build_encoder
from core.losses import nt_xent
from core.trainers.system import Batch, System
from har.systems.encoders import Projection, encoder_config


class SimCLR(System):
    """NT-Xent between two views of one modality.

    Args:
        shapes: modality -> shape of one window, one modality.
        encoder: modality -> `_target_` and arguments, or one for all; None: the published ones,
            see `har.systems.encoders`.
        hidden_dim: width inside the projection.
        dim: width of the projection.
        temperature: a divisor of the cosines, above 0.
        modality: which sensor learns, where the windows have several.

    Raises:
        DataError: the windows have several modalities and none is named, or not the one that is;
            the temperature is not above 0.
    """

    n_views = 2

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 256,
        dim: int = 128,
        temperature: float = 0.1,
        modality: str | None = None,
    ) -> None:
        super().__init__()
        if modality is None and len(shapes) != 1:
            raise DataError(
                f"SimCLR of {', '.join(shapes)}",
                expected="one modality",
                fix=f"data.modalities=[{next(iter(shapes))}], or system=cmc for several",
            )
        if modality is not None and modality not in shapes:
            raise DataError(f"system.modality={modality}", expected=f"one of {', '.join(shapes)}")
        if not temperature > 0:
            raise DataError(f"system.temperature={temperature}", expected="above 0")
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.modality = modality or next(iter(shapes))
        self.encoder = build_encoder(encoder_config(encoder, self.modality), shapes[self.modality])
        self.head = Projection(int(self.encoder.dim), hidden_dim, dim)  # type: ignore[arg-type]
        self.temperature = temperature

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent of both views, every projection an anchor."""
        views = batch[f"views/{self.modality}"]
        h = self.encoder(views.flatten(0, 1))
        self.latest = {"features": h[: views.shape[1]].detach()}
        first, second = self.head(h).unflatten(0, (2, -1))
        return {"loss": nt_xent(first, second, temperature=self.temperature)}

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The representations before the projection, not of unit length."""
        return {self.modality: self.encoder(batch[self.modality]).float()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The projections as they leave the head."""
        return {self.modality: self.head(self.encoder(batch[self.modality])).float()}
