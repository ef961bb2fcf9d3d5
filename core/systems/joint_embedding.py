"""What methods that compare views of one sample share: an encoder, a head, and its embeddings."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.encoders.build import build_encoder
from core.encoders.mlp import ProjectionHead
from core.trainers.system import Batch, System


class JointEmbedding(System):
    """An encoder and a projection head; `embed` is the encoder, the head is for the loss.

    Args:
        shapes: modality -> shape of one sample; the first modality is what the views are of.
        n_views: augmented views of a sample in a step.
        encoder: `_target_` and arguments of the encoder, which is also given the shape; None
            chooses by the shape, see `core.encoders.build`.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head, see `ProjectionHead`.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_views: int = 2,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 128,
        dim: int = 64,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.shapes = {name: list(shape) for name, shape in shapes.items()}
        self.modality = next(iter(shapes))
        self.n_views = n_views
        self.encoder: nn.Module = build_encoder(encoder, shapes[self.modality])
        self.head = ProjectionHead(self.encoder.dim, hidden_dim, dim, batch_norm)  # type: ignore[arg-type]

    def views(self, batch: Batch) -> Float[Tensor, "views batch dim"]:
        """The projections of all views, from one pass of the encoder."""
        views = batch["views"]
        h = self.encoder(views.flatten(0, 1))
        self.latest = {"features": h[: views.shape[1]].detach()}
        projections: Tensor = self.head(h)
        out: Tensor = projections.unflatten(0, (len(views), -1))
        return out

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The representations before the head, not of unit length."""
        return {self.modality: self.encoder(batch[self.modality]).float()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The projections, raw as they leave the head: what RankMe is measured on."""
        return {self.modality: self.head(self.encoder(batch[self.modality])).float()}
