"""Linear probes on frozen features: of several labels a chip, and of the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from core.data.checks import DataError
from core.evaluation.average_precision import mean_average_precision
from core.evaluation.linear_probe import LinearProbe

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)
# Fewer patches than this teach the probe of pixels, drawn at random.
_MOST_PATCHES = 20_000


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


def patch_labels(
    cover: UInt8[Tensor, "n height width"], n_patches: int, n_classes: int, unknown: int
) -> Int64[Tensor, "n patches"]:
    """The class of most pixels of each square patch, -1 where it has none; row by row.

    Raises:
        DataError: the chips have not so many square patches.
    """
    side = (cover[0].numel() / n_patches) ** 0.5
    size = round(side)
    if size < 1 or size**2 * n_patches != cover[0].numel() or cover.shape[1] % size:
        raise DataError(f"{n_patches} tokens of chips of {cover.shape[2]} x {cover.shape[1]}")
    cells = cover.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
    flat = cells.flatten(3).flatten(1, 2)
    counts = torch.stack([(flat == number).sum(2) for number in range(n_classes)], 2)
    known = (flat != unknown).any(2)
    return torch.where(known, counts.argmax(2), -1)


@torch.no_grad()
def fit_pixels(
    tokens: Float[Tensor, "n patches dim"], labels: Int64[Tensor, "n patches"], penalty: float
) -> LinearProbe:
    """A logistic regression from tokens to the classes of their patches.

    Raises:
        DataError: fewer than two classes among the patches.
    """
    x, y = tokens.flatten(0, 1), labels.flatten()
    rows = torch.arange(len(y), device=y.device)[y >= 0]
    if len(rows) > _MOST_PATCHES:
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows = rows[drawn[:_MOST_PATCHES].to(rows.device)]
    x, y = x[rows].float(), y[rows]
    return LinearProbe.fit(x, y, x, y, (penalty,))


def pixel_classes(
    probe: LinearProbe, tokens: Float[Tensor, "n patches dim"], height: int, width: int
) -> Int64[Tensor, "n height width"]:
    """The class of every pixel: scores of the patches, enlarged bilinearly."""
    side = round((height * width / tokens.shape[1]) ** 0.5)
    scores = probe.scores(tokens.flatten(0, 1).float()).unflatten(0, tokens.shape[:2])
    image = scores.transpose(1, 2).unflatten(2, (height // side, width // side))
    return interpolate(image, (height, width), mode="bilinear", align_corners=False).argmax(1)
