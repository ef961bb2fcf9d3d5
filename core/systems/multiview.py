"""MV-InfoNCE and MV-DHEL: all views of a sample in one contrast (arXiv 2507.06979)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.losses import average_view, mv_dhel, mv_info_nce, nt_xent, pairwise, poly_view
from core.systems.joint_embedding import JointEmbedding
from core.trainers.system import Batch

Contrast = Literal["mv_dhel", "mv_info_nce", "pairwise", "average", "poly_view"]


class MultiView(JointEmbedding):
    """One loss over any number of views, on the projections of a two-layer head.

    Args:
        shapes: modality -> shape of one sample.
        n_views: augmented views of a sample in a step; so many times the work of one.
        encoder: see `core.encoders.build`.
        hidden_dim: width inside the head.
        dim: width of the projections.
        batch_norm: in the head; the paper has it.
        temperature: a divisor of the cosines; the paper has 0.5 on CIFAR, 0.1 on ImageNet.
        contrast: the paper's `mv_dhel`, which repels within each view alone, and `mv_info_nce`,
            which repels all rows; and what it compares them with: `pairwise`, the mean of NT-Xent
            over the pairs of views (PWE, with two views SimCLR); `average`, NT-Xent with the mean
            of the other views (AVG); `poly_view`, the geometric poly-view loss (PVC).

    Raises:
        DataError: there are fewer than two views, or no such contrast.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_views: int = 4,
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 128,
        dim: int = 64,
        batch_norm: bool = False,
        temperature: float = 0.5,
        contrast: Contrast = "mv_dhel",
    ) -> None:
        if n_views < 2:
            raise DataError(f"system.n_views={n_views}", expected="2 views or more")
        if contrast not in get_args(Contrast):
            known = ", ".join(get_args(Contrast))
            raise DataError(f"system.contrast={contrast}", expected=f"one of {known}")
        super().__init__(shapes, n_views, encoder, hidden_dim, dim, batch_norm)
        self.temperature, self.contrast = temperature, contrast

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The chosen contrast of the views (V, B, dim)."""
        views, temperature = self.views(batch), self.temperature
        match self.contrast:
            case "mv_dhel":
                loss = mv_dhel(views, temperature)
            case "mv_info_nce":
                loss = mv_info_nce(views, temperature)
            case "pairwise":
                loss = pairwise(lambda a, b: nt_xent(a, b, temperature), views)
            case "average":
                loss = average_view(views, temperature)
            case "poly_view":
                loss = poly_view(views, temperature)
        return {"loss": loss}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """The projections on the sphere, where the paper measures how many dimensions they use."""
        return {name: normalize(rows, dim=1) for name, rows in super().project(batch).items()}
