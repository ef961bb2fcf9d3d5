"""The linear probe of several labels a chip, on frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.average_precision import mean_average_precision

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)


@dataclass(frozen=True)
class RidgeProbe:
    """Least squares from standardised features to 0 or 1 for every label, with a penalty.

    Attributes:
        weight: (dim, classes), of the standardised features.
        bias: (classes,).
        mean: (dim,) of the training rows.
        std: (dim,) of the training rows; 1 where a feature is constant.
        penalty: the one chosen.
    """

    weight: Float[Tensor, "dim classes"]
    bias: Float[Tensor, " classes"]
    mean: Float[Tensor, " dim"]
    std: Float[Tensor, " dim"]
    penalty: float

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        features: Float[Tensor, "n dim"],
        targets: Bool[Tensor, "n classes"],
        valid_features: Float[Tensor, "v dim"],
        valid_targets: Bool[Tensor, "v classes"],
        penalties: Sequence[float] = PENALTIES,
    ) -> Self:
        """Minimises the mean squared error + penalty ||W||^2, exactly, for each penalty.

        The penalty is chosen on validation, by mAP.

        Args:
            features: training rows.
            targets: their labels.
            valid_features: rows that choose the penalty.
            valid_targets: their labels.
            penalties: those to choose from.

        Raises:
            DataError: no training rows, or features that are not finite.
        """
        if len(features) == 0:
            raise DataError("no training chip has labels", expected="a land-cover map of some")
        if not bool(torch.isfinite(features).all()):
            raise DataError(
                "training rows hold NaN or infinite values",
                expected="finite embeddings",
                fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
            )
        x, y = features.double(), targets.double()
        std, mean = torch.std_mean(x, 0, correction=0)
        std = torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1.0)
        x, bias = (x - mean) / std, y.mean(0)
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        along = vectors.T @ (x.T @ (y - bias) / len(x))
        best: tuple[float, Self] | None = None
        for penalty in sorted(penalties, reverse=True):
            weight = vectors @ (along / (values.clamp(min=0) + penalty)[:, None])
            probe = cls(weight, bias, mean, std, penalty)
            score = 0.0
            if len(penalties) > 1:
                score = mean_average_precision(probe.scores(valid_features), valid_targets)[0]
            if best is None or score > best[0]:
                best = score, probe
        assert best is not None
        return best[1]

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m classes"]:
        """One score a label, around 0 and 1."""
        return ((features.double() - self.mean) / self.std) @ self.weight + self.bias
