"""Statistics over the rows of all ranks, with gradient."""

from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import all_reduce_sum
from core.losses.rows import zero_invalid


def row_count(
    x: Float[Tensor, "n ..."], valid: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Number of valid rows on all ranks, at least 1, in the dtype of x and without gradient."""
    here = x.new_full((), len(x)) if valid is None else valid.sum().to(x.dtype)
    return all_reduce_sum(here).clamp(min=1)


def centred(
    x: Float[Tensor, "n dim"], count: Float[Tensor, ""], valid: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n dim"]:
    """Subtracts the mean row of all ranks; invalid rows become 0."""
    x = zero_invalid(x, valid)
    return zero_invalid(x - all_reduce_sum(x.sum(0)) / count, valid)
