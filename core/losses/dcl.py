"""Decoupled contrastive learning: the positive is left out of the denominator."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, both, logsumexp_or_empty, two_view_scores, unit


@full_precision
def dcl(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float = 0.1,
    *,
    sigma: float | None = None,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over both views of -s_ii + log Σ_{j≠i} (e^{s_ij} + e^{a_i·a_j/τ}).

    Yeh et al. 2022, eq. 5; with `sigma` the weighted form DCLW, eq. 6: the positive term times
    2 - B softmax_i(a_i·b_i/σ), without gradient through the weight. An anchor without negatives
    has the positive term alone. Further arguments as in `info_nce`.

    Args:
        a: (B, D) embeddings of one view.
        b: (B, D) embeddings of the other.
        temperature: divisor τ.
        sigma: divisor σ of the weights, 0.5 in the paper; None for equal weights.
        normalize: see `info_nce`.
        valid: see `info_nce`.
        ids: see `info_nce`.
        gather: see `info_nce`.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(a, gather, valid, ids)
    a, b = (unit(rows.keep_valid(x), normalize) for x in (a, b))
    positive, negatives = two_view_scores(a, b, temperature, rows)
    if sigma is not None:
        weight = _weights((a * b).sum(1).detach() / sigma, rows)
        positive = positive * weight.repeat(2)
    spread = logsumexp_or_empty(negatives, 1)
    spread = spread.masked_fill(spread.isneginf(), 0)
    return global_mean(spread - positive, both(valid))


def _weights(similarity: Float[Tensor, " n"], rows: Rows) -> Float[Tensor, " n"]:
    anchors = rows.anchors()
    if anchors is not None:
        similarity = similarity.masked_fill(~anchors, -torch.inf)
    pairs = rows.total if rows.valid is None else rows.valid.sum()
    return 2 - pairs * rows.own(rows.everywhere(similarity).softmax(0))
