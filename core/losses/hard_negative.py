"""Contrast with hard negatives, corrected for negatives that are positives in truth."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, both, other_view_scores, two_view_scores, unit


@full_precision
def hard_negative(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float = 0.5,
    *,
    tau_plus: float = 0.1,
    beta: float = 1.0,
    negatives: Literal["all", "cross"] = "all",
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """-log e^{pos} / (e^{pos} + N_g) with the negatives weighted by their own hardness.

    Robinson et al. 2021, eq. 4: N_g = max((-N τ⁺ e^{pos} + Σ_j w_j e^{neg_j}) / (1 - τ⁺),
    N e^{-1/τ}) over the N negatives of an anchor, w_j = e^{β neg_j} / mean_k e^{β neg_k}. The
    gradient also flows through the weights, as in the authors' code. β = 0 is the debiased loss;
    with τ⁺ = 0 as well it is `nt_xent`, or with the negatives of the other view alone `info_nce`.
    All is computed on logarithms, so that no logit overflows. Further arguments as in `info_nce`.

    Args:
        a: (B, D) embeddings of one view.
        b: (B, D) embeddings of the other.
        temperature: divisor τ.
        tau_plus: prior τ⁺ that a negative is of the anchor's class, in [0, 1).
        beta: concentration β on hard negatives, 0.5 to 2 in the paper.
        negatives: of an anchor, the other samples in both views, N = 2B - 2, or for two modalities
            in the other view only, N = B - 1 (Choi et al. 2023).
        normalize: see `info_nce`.
        valid: see `info_nce`.
        ids: see `info_nce`.
        gather: see `info_nce`.

    Returns:
        Scalar in float32 at least, mean over 2B anchors.
    """
    rows = Rows.of(a, gather, valid, ids)
    a, b = (unit(rows.keep_valid(x), normalize) for x in (a, b))
    scored = two_view_scores if negatives == "all" else other_view_scores
    positive, scores = scored(a, b, temperature, rows)
    is_negative = ~scores.isneginf()
    count = is_negative.sum(1)
    alone = count == 0
    scores = scores.masked_fill(alone[:, None], 0)
    log_count = count.clamp(min=1).to(positive.dtype).log()
    # -inf times a β of 0 is NaN, so the entries that are no negatives are masked once more.
    weights = (beta * scores).masked_fill(~(is_negative | alone[:, None]), -torch.inf)
    log_sum = log_count + (weights + scores).logsumexp(1) - weights.logsumexp(1)
    floor = log_count - 1 / temperature
    shift = torch.stack([positive, log_sum, floor]).amax(0).detach()
    scaled_positive = (positive - shift).exp()
    corrected = (log_sum - shift).exp() - count * tau_plus * scaled_positive
    spread = torch.maximum(corrected / (1 - tau_plus), (floor - shift).exp())
    losses = (scaled_positive + spread).log() + shift - positive
    return global_mean(losses.masked_fill(alone, 0), both(valid))
