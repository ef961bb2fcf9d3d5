"""Supervised contrast: all rows of the anchor's class are its positives."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit


@full_precision
def supcon(
    views: Float[Tensor, "views batch dim"],
    labels: Shaped[Tensor, " batch"],
    temperature: float = 0.07,
    *,
    base_temperature: float = 0.07,
    anchors: Literal["all", "first"] = "all",
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over anchors of -(τ/τ_base) (1/|P(i)|) Σ_{p∈P(i)} log softmax over all other rows.

    Khosla et al. 2020, eq. 2 (the sum outside the logarithm). An anchor without positives gives 0
    but is counted.

    Args:
        views: (V, B, D) embeddings, view-major.
        labels: (B,) classes.
        temperature: divisor τ.
        base_temperature: τ_base of the scale τ/τ_base.
        anchors: the rows of all views, or those of the first view only.
        normalize: bring the rows to unit length first.
        valid: (B,) False where a sample does not count.
        gather: candidates are this rank's rows or those of all ranks.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(labels, gather, valid)
    count = len(views)
    z = [unit(rows.keep_valid(view), normalize) for view in views]
    candidates = torch.cat([rows.everywhere(view) for view in z])
    taken = count if anchors == "all" else 1
    scores = torch.cat(z[:taken]) @ candidates.T / temperature

    everyone = rows.everywhere(labels)
    same_class = (labels[:, None] == everyone).repeat(taken, count)
    views_of = torch.arange(count, device=labels.device)
    same_view = views_of[:taken, None] == views_of
    out = torch.kron(same_view, rows.pairs(labels.device))
    if rows.valid is not None:
        out = out | ~rows.valid.repeat(count)
    # A row without any candidate keeps them all: it has no positives, and a finite sum.
    left_out = out & ~out.all(dim=1, keepdim=True)
    log_share = scores - scores.masked_fill(left_out, -torch.inf).logsumexp(1, keepdim=True)
    positive = same_class & ~out
    mean = log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    counted = None if valid is None else valid.repeat(taken)
    return global_mean(-(temperature / base_temperature) * mean, counted)
