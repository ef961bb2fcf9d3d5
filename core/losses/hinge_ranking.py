"""Pairwise ranking with a hinge: a pair must be more alike than the anchor and other candidates."""

from jaxtyping import Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit


@full_precision
def hinge_ranking(
    anchors: Float[Tensor, "batch dim"],
    candidates: Float[Tensor, "batch dim"],
    margin: float = 0.6,
    *,
    normalize: bool = True,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over i and j ≠ i of max(0, margin - a_i·c_i + a_i·c_j) (Kiros et al. 2014, one way).

    Only the anchors are ranked for: the other half of a symmetric loss is the same function with
    the arguments exchanged.

    Args:
        anchors: (B, D) embeddings.
        candidates: (B, D) embeddings; row i belongs to anchor i, the rows of all ranks do not.
        margin: by which a pair is to be better, in cosines.
        normalize: bring the rows to unit length first.
        gather: whether the rows of the other ranks are candidates.

    Returns:
        Scalar in float32 at least; 0 for a single pair.
    """
    rows = Rows.of(anchors, gather)
    a, c = unit(anchors, normalize), unit(candidates, normalize)
    own = (a * c).sum(1, keepdim=True)
    hinge = (margin - own + a @ rows.everywhere(c).T).relu()
    others = hinge.masked_fill(rows.pairs(a.device), 0).sum(1)
    return global_mean(others / max(rows.total - 1, 1))
