"""SimCLR: two views attract, the other samples repel (ICML 2020, arXiv 2002.05709)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from core.losses import nt_xent
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch


class SimCLR(JointEmbedding):
    """NT-Xent between two views (eq. 1), on the projections of a two-layer head.

    Args:
        shapes: modality -> shape of one sample.
        encoder: see `core.encoders.build`.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head.
        temperature: a divisor of the cosines.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 128,
        dim: int = 64,
        batch_norm: bool = False,
        temperature: float = 0.5,
    ) -> None:
        super().__init__(shapes, 2, encoder, hidden_dim, dim, batch_norm)
        self.temperature = temperature

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """NT-Xent of both views, every row an anchor."""
        first, second = self.views(batch)
        return {"loss": nt_xent(first, second, temperature=self.temperature)}
