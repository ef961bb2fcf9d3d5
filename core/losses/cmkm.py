"""Contrast of two modalities with positives that frozen encoders of each have found."""

from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, both, unit


@full_precision
def cmkm(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    known_a: Float[Tensor, "batch features_a"],
    known_b: Float[Tensor, "batch features_b"],
    temperature: float = 0.1,
    *,
    top: int = 1,
    intra_weight: float = 1.0,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """CMC-CMKM (Brinzea et al. 2022): `info_nce` with mined positives and intra-modal negatives.

    The positives of anchor a_i are b_i and b_j for the `top` samples j whose frozen features are
    nearest to those of i in modality b, P_i together:
    -1/|P_i| Σ_{p∈P_i} log e^{a_i·b_p/τ} / (Σ_j e^{a_i·b_j/τ} + w Σ_{n∉P_i} e^{a_i·a_n}),
    likewise for anchors b_i. The intra-modal terms have no temperature. `top` = 0 with w = 0 is
    `info_nce`. Where the paper is not known to us in detail: the mean over positives stands outside
    the logarithm as in `supcon`, and a mined sample is no intra-modal negative. Further arguments
    as in `info_nce`.

    Args:
        a: (B, D) embeddings of one modality.
        b: (B, D) embeddings of the other.
        known_a: (B, E) features of the first modality by its frozen encoder; compared by cosine.
        known_b: (B, F) features of the second by its own.
        temperature: divisor τ of the scores between the modalities.
        top: mined positives of an anchor.
        intra_weight: w.
        normalize: see `info_nce`; for a and b.
        valid: see `info_nce`.
        ids: see `info_nce`; rows of equal ids are not mined either.
        gather: see `info_nce`.

    Returns:
        Scalar in float32 at least, mean over 2B anchors.
    """
    rows = Rows.of(a, gather, valid, ids)
    a, b = (unit(rows.keep_valid(x), normalize) for x in (a, b))
    every_a, every_b = rows.everywhere(a), rows.everywhere(b)
    similar_a, similar_b = (_similarities(x, rows) for x in (known_a, known_b))
    shares = [
        _mean_log_share(own @ other.T / temperature, own @ same.T, similar, top, intra_weight, rows)
        for own, other, same, similar in (
            (a, every_b, every_a, similar_b),
            (b, every_a, every_b, similar_a),
        )
    ]
    return global_mean(-torch.cat(shares), both(valid))


@torch.no_grad()
def _similarities(known: Tensor, rows: Rows) -> Tensor:
    """Cosines with all candidates."""
    z = F.normalize(rows.keep_valid(known), dim=1)
    return z @ rows.everywhere(z).T


def _mean_log_share(
    inter: Tensor, intra: Tensor, similar: Tensor, top: int, weight: float, rows: Rows
) -> Tensor:
    own = rows.pairs(inter.device)
    excluded = rows.excluded()
    if excluded is None:
        excluded = torch.zeros_like(own)
    similar = similar.masked_fill(own | excluded, -torch.inf)
    nearest = similar.topk(min(top, rows.total), dim=1).indices
    # Too few candidates leave some at -inf among the nearest.
    mined = torch.zeros_like(own).scatter(1, nearest, True) & ~similar.isneginf()
    positive = own | mined
    no_negative = positive | excluded
    log_weight = log(weight) if weight > 0 else -torch.inf
    terms = [
        inter.masked_fill(excluded, -torch.inf),
        (intra + log_weight).masked_fill(no_negative, -torch.inf),
    ]
    log_shares = inter - torch.cat(terms, 1).logsumexp(1, keepdim=True)
    return log_shares.masked_fill(~positive, 0).sum(1) / positive.sum(1)
