"""Multimodal contrastive learning with hard negative sampling for human activity recognition.

Choi, Beedu, Essa, 2023 (arXiv 2309.01262). CMC of skeleton and inertial sensors in which the
negatives of an anchor are weighted by their closeness to it, and the loss is corrected for those
that are of the anchor's own activity. No code of the authors is known: the loss is that of
Robinson et al. (ICLR 2021, arXiv 2010.04592), encoders and projections are those of CMC.
Decided here, where we do not know the paper: the negatives are those of the other modality, so
that `beta = tau_plus = 0` is CMC exactly; `negatives = all` takes both modalities' as Robinson et
al. do.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from core.data.checks import DataError
from core.losses import hard_negative
from core.trainers.system import Batch
from har.systems.cmc import CMC


class HardNegatives(CMC):
    """CMC with weighted, debiased negatives.

    Args:
        shapes: modality -> shape of one window, two modalities.
        encoder: see `CMC`.
        hidden_dim: see `CMC`.
        dim: see `CMC`.
        temperature: a divisor of the cosines.
        beta: concentration on close negatives, acting on cosine / temperature; 0 is the debiased
            loss.
        tau_plus: prior that a negative is of the anchor's activity, in [0, 1), about 1 / classes.
        negatives: `cross`: the N - 1 of the other modality; `all`: the 2N - 2 of both.

    Raises:
        DataError: as `CMC`; `tau_plus` is not in [0, 1), or the negatives are something else.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        encoder: dict[str, Any] | None = None,
        hidden_dim: int = 256,
        dim: int = 128,
        temperature: float = 1.0,
        beta: float = 1.0,
        tau_plus: float = 0.1,
        negatives: Literal["cross", "all"] = "cross",
    ) -> None:
        super().__init__(shapes, encoder, hidden_dim, dim, temperature)
        if not 0 <= tau_plus < 1:
            raise DataError(f"system.tau_plus={tau_plus}", expected="at least 0, below 1")
        if negatives not in ("cross", "all"):
            raise DataError(f"system.negatives={negatives}", expected="cross or all")
        self.beta, self.tau_plus, self.negatives = beta, tau_plus, negatives

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of hard negatives, every projection an anchor."""
        first, second = self.projections(batch)
        loss = hard_negative(
            first,
            second,
            self.temperature,
            tau_plus=self.tau_plus,
            beta=self.beta,
            negatives=self.negatives,
        )
        return {"loss": loss}
