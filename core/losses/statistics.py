"""Statistics over the rows of all ranks, with gradient."""

from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import all_reduce_sum


def row_count(
    x: Float[Tensor, "n ..."], valid: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """Number of valid rows on all ranks, at least 1, in the dtype of x and without gradient."""
    here = x.new_tensor(len(x)) if valid is None else valid.sum().to(x.dtype)
    return all_reduce_sum(here).clamp(min=1)


def centred(
    x: Float[Tensor, "n dim"], count: Float[Tensor, ""], valid: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n dim"]:
    """Subtracts the mean row of all ranks; invalid rows become 0."""
    if valid is None:
        return x - all_reduce_sum(x.sum(0)) / count
    x = x.masked_fill(~valid[:, None], 0)
    return (x - all_reduce_sum(x.sum(0)) / count).masked_fill(~valid[:, None], 0)
