"""Alignment, uniformity and modality gap: where pairs and modalities lie on the sphere.

All of them L2-normalise the rows they are given and compute in float32 or better.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

# Distances held at a time: 16 MiB of float32 on a CPU, 1 GiB on an accelerator.
_TILE_PAIRS = {"cpu": 1 << 22, "other": 1 << 28}


@torch.no_grad()
def alignment(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n dim"], alpha: float = 2.0
) -> Float[Tensor, ""]:
    """Mean distance of the pairs to the power alpha; 0 where each pair is one point.

    Wang & Isola 2020, section 4.1: E ||f(x) - f(y)||^alpha.

    Args:
        x: (N, D), one view or modality.
        y: the other one of each pair, in the same order.
        alpha: positive.

    Returns:
        Scalar in [0, 2^alpha], float32 or better.
    """
    distances: Tensor = (_unit_rows(x) - _unit_rows(y)).norm(dim=1)
    return distances.pow(alpha).mean()


@torch.no_grad()
def uniformity(
    x: Float[Tensor, "n dim"], t: float = 2.0, tile_pairs: int | None = None
) -> Float[Tensor, ""]:
    """Log of the mean Gaussian potential of all pairs of distinct rows; lower is more uniform.

    Wang & Isola 2020, section 4.1: log E exp(-t ||f(x) - f(y)||^2), over pairs as their code does,
    not over the diagonal.

    Args:
        x: (N, D), N of at least 2.
        t: positive.
        tile_pairs: distances held at a time, but one of each row at least; by default 16 MiB on a
            CPU, 1 GiB elsewhere.

    Returns:
        Scalar in [-4t, 0], 0 for a collapsed embedding, float64; NaN for fewer than two rows.
    """
    unit = _unit_rows(x)
    n = len(unit)
    if tile_pairs is None:
        tile_pairs = _TILE_PAIRS["cpu" if x.device.type == "cpu" else "other"]
    size = max(1, math.isqrt(tile_pairs))
    logs = []
    with torch.autocast(x.device.type, enabled=False):
        for row in range(0, n, size):
            for column in range(row, n, size):
                tile = unit[row : row + size] @ unit[column : column + size].T
                exponents = (2 * t * (tile - 1)).clamp(max=0)
                if column == row:
                    exponents.fill_diagonal_(-torch.inf)
                # Twice: a tile beside the diagonal stands for its mirror image too.
                twice = 0.0 if column == row else math.log(2)
                logs.append(exponents.flatten().logsumexp(0).double() + twice)
    if n < 2:
        return x.new_full((), torch.nan, dtype=torch.float64)
    return torch.stack(logs).logsumexp(0) - math.log(n * (n - 1))


@torch.no_grad()
def modality_gap(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> Float[Tensor, ""]:
    """Distance between the mean of one modality and that of the other (Liang et al. 2022).

    Args:
        x: (N, D), one modality.
        y: (M, D), the other, in the same space; pairs are not needed.

    Returns:
        Scalar in [0, 2], float32 or better.
    """
    gap: Tensor = (_unit_rows(x).mean(0) - _unit_rows(y).mean(0)).norm()
    return gap


def _unit_rows(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    return normalize(x.to(torch.promote_types(x.dtype, torch.float32)))
