"""Spread-out regularisation: different items should be orthogonal."""

from jaxtyping import Float
from torch import Tensor

from core.distributed import all_reduce_sum, global_sum
from core.losses.precision import full_precision
from core.losses.rows import unit


@full_precision
def spread_out(x: Float[Tensor, "batch dim"], *, normalize: bool = True) -> Float[Tensor, ""]:
    """Mean of s(x_i, x_j)² over i ≠ j: the second moment of Zhang et al. 2017 (ICCV), eq. 8.

    By Σ_ij (x_i·x_j)² = |XᵀX|², so memory and communication are D x D, over the rows of all ranks.

    Args:
        x: (B, D) embeddings.
        normalize: bring the rows to unit length first.

    Returns:
        Scalar in float32 at least; 0 for fewer than two rows.
    """
    x = unit(x, normalize)
    rows = all_reduce_sum(x.new_full((), len(x)))
    products = all_reduce_sum(x.T @ x).square().sum()
    own = global_sum(x.square().sum(1).square())
    return (products - own) / (rows * (rows - 1)).clamp(min=1)
