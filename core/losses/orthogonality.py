"""What two modalities of the same rows say apart from each other."""

from jaxtyping import Float
from torch import Tensor

from core.distributed import all_reduce_sum
from core.losses.precision import full_precision
from core.losses.statistics import centred, row_count


@full_precision
def orthogonality(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch other_dim"]
) -> Float[Tensor, ""]:
    """Mean square of the entries of AᵀB, for rows centred over the batch and brought to length 1.

    The difference loss of domain separation networks (Bousmalis et al. 2016, eq. 5) as REARM
    computes it (arXiv 2508.13745): the length, plus 1e-6, is no part of the gradient.

    Args:
        a: (B, D) embeddings of one modality.
        b: (B, E) embeddings of the other.

    Returns:
        Scalar in float32 at least, of the rows of all ranks.
    """
    count = row_count(a)
    a, b = centred(a, count), centred(b, count)
    a = a / (a.detach().norm(dim=1, keepdim=True) + 1e-6)
    b = b / (b.detach().norm(dim=1, keepdim=True) + 1e-6)
    return all_reduce_sum(a.T @ b).square().mean()
