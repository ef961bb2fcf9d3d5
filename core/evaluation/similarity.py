"""How alike two representations of the same samples are: linear CKA, mutual nearest neighbours.

The spaces may have different widths: only relations between samples are compared.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.encoders.neighbours import largest_of_blocks


@torch.no_grad()
def linear_cka(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n other"], debiased: bool = False
) -> Float[Tensor, ""]:
    """Centred kernel alignment with linear kernels (Kornblith et al. 2019, eq. 3 to 5).

    Computed in float64 from products of the widths, so that no matrix of samples by samples is
    held. With fewer samples than a few times the width, the plain value is near 1 for any two
    representations; the debiased one takes the unbiased HSIC of Song et al. 2012 (eq. 5) for all
    three terms and is about 0 for unrelated ones.

    Args:
        x: (n, dim).
        y: (n, other), the same samples in the same order.
        debiased: needs 4 samples or more.

    Returns:
        Scalar in [0, 1]; debiased at most 1 and possibly below 0. NaN where a representation has
        no variation.

    Raises:
        DataError: different numbers of samples, or fewer than 2, 4 when debiased.
    """
    least = 4 if debiased else 2
    if len(x) != len(y) or len(x) < least:
        raise DataError(
            f"{len(x)} and {len(y)} samples",
            expected=f"two representations of the same {least} samples or more",
        )
    x, y = _centred(x.double()), _centred(y.double())
    hsic = _unbiased_hsic if debiased else _hsic
    value: Tensor = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    return value


def _centred(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Columns of mean 0; a constant one is 0, not the rounding error of its mean."""
    return (x - x.mean(0)).masked_fill((x == x[0]).all(0), 0)


def _hsic(x: Float[Tensor, "n dim"], y: Float[Tensor, "n other"]) -> Float[Tensor, ""]:
    """(n - 1)^2 HSIC of centred features."""
    return (x.T @ y).square().sum()


def _unbiased_hsic(x: Float[Tensor, "n dim"], y: Float[Tensor, "n other"]) -> Float[Tensor, ""]:
    """The unbiased HSIC of centred features, times n (n - 3), from sums over samples.

    With K = x x^T and L = y y^T less their diagonals k and l: trace(K L) = ||x^T y||^2 - k.l, and
    as the rows of K + diag(k) sum to 0, K 1 = -k.
    """
    n = len(x)
    k, l = x.square().sum(1), y.square().sum(1)  # noqa: E741
    trace = (x.T @ y).square().sum() - k @ l
    return trace + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l)


@torch.no_grad()
def mutual_knn(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "n other"],
    k: int = 10,
    block_rows: int | None = None,
) -> Float[Tensor, ""]:
    """Mean share of a sample's k nearest others that are the same in both representations.

    Huh et al. 2024 (the Platonic representation hypothesis), eq. 11, by cosine. Of others at equal
    cosine any may be among the k. For unrelated representations about k / (n - 1).

    Args:
        x: (n, dim).
        y: (n, other), the same samples in the same order.
        k: neighbours, 1 to n - 1.
        block_rows: samples whose cosines are held at a time; by default as many as a bounded block
            holds.

    Returns:
        Scalar in [0, 1], float64.

    Raises:
        DataError: different numbers of samples, or k out of range.
    """
    n = len(x)
    if len(y) != n or not 1 <= k < n:
        raise DataError(
            f"{k} neighbours among {n} and {len(y)} samples",
            expected="two representations of the same samples, and 1 neighbour to one less than"
            " there are samples",
        )
    first, second = (_neighbours(z, k, block_rows) for z in (x, y))
    # One number for each sample and neighbour.
    sample = torch.arange(n, device=x.device)[:, None] * n
    return torch.isin(sample + first, sample + second).double().mean()


def _neighbours(x: Float[Tensor, "n dim"], k: int, block_rows: int | None) -> Int64[Tensor, "n k"]:
    """The k rows of largest cosine with each row, without itself."""
    unit = normalize(x.to(torch.promote_types(x.dtype, torch.float32)))

    def scores(rows: slice) -> Tensor:
        cosines = unit[rows] @ unit.T
        return cosines.diagonal_scatter(
            cosines.new_full((len(cosines),), -torch.inf), offset=rows.start
        )

    with torch.autocast(x.device.type, enabled=False):
        return largest_of_blocks(scores, len(x), len(x), k, x.device, block_rows)[1]
