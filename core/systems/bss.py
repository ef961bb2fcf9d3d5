"""Batch Styles Standardization: views of one style each, compared across styles.

Scalbert, Vakalopoulou, Couzinie-Devy, ICLR 2024 (arXiv 2303.06088). The styles are made with the
views: `core.augment.styles.StyledViews` gives all images of a view the style of one of them, or, as
the plain Fourier augmentation it is compared with, each that of another. No domain labels are used.
Differs from the paper: the authors' code could not be consulted, so that the replaced box and the
range of its area are ours; SimCLR's negatives are, by default, those of the anchor's own style.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.checks import DataError
from core.distributed import global_mean
from core.losses import poly_view
from core.losses.precision import full_precision
from core.losses.rows import Rows, logsumexp_or_empty, unit
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch


@full_precision
def same_style(
    views: Float[Tensor, "views batch dim"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """Mean over ordered pairs of views a ≠ b of the cross entropy with negatives of view a alone.

    -log e^{z_i^a·z_i^b/τ} / (e^{z_i^a·z_i^b/τ} + Σ_{j≠i} e^{z_i^a·z_j^a/τ}): the positive is in
    another style, the negatives are in the anchor's, on all processes, so that no difference of
    style tells them apart.

    Args:
        views: (V, B, D) embeddings, brought to unit length here; V >= 2.
        temperature: divisor τ.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(views[0], "full")
    z = unit(views, normalize=True)
    itself = rows.pairs(z.device)
    terms = []
    for view, anchors in enumerate(z):
        scores = anchors @ rows.everywhere(anchors).T / temperature
        negative = logsumexp_or_empty(scores.masked_fill(itself, -torch.inf), 1)
        for other, partners in enumerate(z):
            if other != view:
                positive = (anchors * partners).sum(1) / temperature
                terms.append(global_mean(torch.logaddexp(positive, negative) - positive))
    return torch.stack(terms).mean()


def usual_encoder(shape: Sequence[int]) -> dict[str, Any] | None:
    """Three strided convolutions for images of 17 to 31 pixels; None for what is usual elsewhere.

    See `core.encoders.build`.
    """
    small = len(shape) == 3 and 16 < max(shape[1:]) < 32
    return {"_target_": "core.encoders.small_convolutions.StridedConvNet"} if small else None


class BSSSimCLR(JointEmbedding):
    """SimCLR between views of different styles.

    Args:
        shapes: modality -> shape of one sample.
        n_views: views of a batch, each in a style of its own.
        encoder: `_target_` and arguments, see `core.encoders.build`; None is three strided
            convolutions for images of 17 to 31 pixels.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head.
        temperature: a divisor of the cosines.
        negatives: other images in the anchor's own style (`same_style`), or in all views (`all`,
            SimCLR's own loss).

    Raises:
        DataError: the negatives are neither.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_views: int = 2,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 512,
        dim: int = 128,
        batch_norm: bool = False,
        temperature: float = 0.5,
        negatives: Literal["same_style", "all"] = "same_style",
    ) -> None:
        encoder = encoder or usual_encoder(next(iter(shapes.values())))
        super().__init__(shapes, n_views, encoder, hidden_dim, dim, batch_norm)
        self.temperature = temperature
        if negatives not in ("same_style", "all"):
            raise DataError(f"system.negatives={negatives}", expected="same_style or all")
        self.loss = same_style if negatives == "same_style" else poly_view

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """Each view's rows as anchors, each other view's as positives."""
        return {"loss": self.loss(self.views(batch), self.temperature)}
