"""Contrast of more than two views, or modalities, at once."""

import math
from collections.abc import Callable
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.nt_xent import nt_xent
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, logsumexp_or_empty, unit


@full_precision
def mv_info_nce(
    views: Float[Tensor, "views batch dim"],
    temperature: float = 0.5,
    *,
    denominator: Literal["all", "cross_view"] = "all",
    normalize: bool = True,
    valid: Bool[Tensor, "views batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over samples of -log Σ_{l≠l'} e^{u_l·u_l'/τ} + log Σ_l Σ_{(j,m)≠(i,l)} e^{u_il·u_jm/τ}.

    Koromilas et al. 2025, MV-InfoNCE. The denominator holds all other rows, as in the authors'
    code, or only those of other views, as the equation is printed.

    Args:
        views: (V, B, D) embeddings, view-major, V >= 2.
        temperature: divisor τ.
        denominator: "all" other rows, or those of other views ("cross_view").
        normalize: bring the rows to unit length first.
        valid: (V, B) False where a view of a sample is missing: it leaves both terms, and samples
            with fewer than two views are not counted.
        gather: candidates are this rank's rows or those of all ranks.

    Returns:
        Scalar in float32 at least.
    """
    z, everyone, present, rows = _views(views, normalize, valid, gather)
    itself = rows.pairs(z.device)
    sums = []
    for view, anchors in enumerate(z):
        scores = torch.einsum("nd,mkd->nmk", anchors, everyone) / temperature
        out = ~present[view, rows.start : rows.start + rows.size, None, None] | ~present
        if denominator == "all":
            out[:, view] |= itself
        else:
            out[:, view] = True
        sums.append(logsumexp_or_empty(scores.masked_fill(out, -torch.inf).flatten(1), 1))
    # Ordered pairs: every product is counted twice.
    positive = _positives(z, temperature, _own(present, rows)) + math.log(2)
    return _mean(logsumexp_or_empty(torch.stack(sums), 0) - positive, _own(present, rows))


@full_precision
def mv_dhel(
    views: Float[Tensor, "views batch dim"],
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    valid: Bool[Tensor, "views batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over samples of -log Σ_{l<l'} e^{u_l·u_l'/τ} + Σ_l log Σ_{j≠i} e^{u_il·u_jl/τ}.

    Koromilas et al. 2025, MV-DHEL: alignment over all pairs of views, uniformity within each view
    on its own. The product of the views' sums is taken as a sum of logarithms, so that it cannot
    overflow. Arguments as in `mv_info_nce`; with two views it is DHEL.

    Returns:
        Scalar in float32 at least.
    """
    z, everyone, present, rows = _views(views, normalize, valid, gather)
    scores = torch.einsum("mnd,mkd->mnk", z, everyone) / temperature
    out = rows.pairs(z.device) | ~present[:, None]
    sums = logsumexp_or_empty(scores.masked_fill(out, -torch.inf), 2)
    own = _own(present, rows)
    sums = sums.masked_fill(sums.isneginf() | ~own, 0).sum(0)
    return _mean(sums - _positives(z, temperature, own), own)


@full_precision
def poly_view(
    views: Float[Tensor, "views batch dim"],
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """Mean over ordered pairs of views of the cross entropy with all rows of other samples.

    Shidani et al. 2024, the geometric poly-view loss: view β of the sample among view β and all
    views of the other samples. Arguments as in `mv_info_nce`.

    Returns:
        Scalar in float32 at least.
    """
    z, everyone, _, rows = _views(views, normalize, None, gather)
    itself = rows.pairs(z.device)[:, None]
    terms = []
    for view, anchors in enumerate(z):
        scores = torch.einsum("nd,mkd->nmk", anchors, everyone) / temperature
        negative = logsumexp_or_empty(scores.masked_fill(itself, -torch.inf).flatten(1), 1)
        for other, partners in enumerate(z):
            if other != view:
                positive = (anchors * partners).sum(1) / temperature
                terms.append(global_mean(torch.logaddexp(positive, negative) - positive))
    return torch.stack(terms).mean()


def pairwise(
    loss: Callable[[Tensor, Tensor], Tensor], views: Float[Tensor, "views batch dim"]
) -> Float[Tensor, ""]:
    """Mean over the pairs of views of a loss of two views, e.g. `nt_xent`."""
    pairs = combinations(views, 2)
    return torch.stack([loss(first, second) for first, second in pairs]).mean()


@full_precision
def average_view(
    views: Float[Tensor, "views batch dim"], temperature: float = 0.5, *, gather: Gather = "full"
) -> Float[Tensor, ""]:
    """Mean over views of `nt_xent` with the mean of the other views' unit rows.

    The mean is not brought to unit length again.
    """
    z = unit(views, normalize=True)
    others = (z.sum(0) - z) / (len(z) - 1)
    terms = [
        nt_xent(view, other, temperature, normalize=False, gather=gather)
        for view, other in zip(z, others, strict=True)
    ]
    return torch.stack(terms).mean()


def _views(
    views: Tensor, normalize: bool, valid: Tensor | None, gather: Gather
) -> tuple[Tensor, Tensor, Tensor, Rows]:
    """Unit rows (V, n, D), those of all ranks (V, N, D), their presence (V, N), and the rows."""
    rows = Rows.of(views[0], gather)
    if valid is None:
        valid = torch.ones(views.shape[:2], dtype=torch.bool, device=views.device)
    z = unit(views.masked_fill(~valid[..., None], 0), normalize)
    # The ranks' rows are joined sample by sample, so that each view stays in one piece.
    everyone = rows.everywhere(z.transpose(0, 1)).transpose(0, 1)
    present = rows.everywhere(valid.T.to(torch.uint8)).T.bool()
    return z, everyone, present, rows


def _own(present: Tensor, rows: Rows) -> Tensor:
    return rows.own(present.T).T


def _positives(z: Tensor, temperature: float, own: Tensor) -> Float[Tensor, " n"]:
    """Log Σ_{l<l'} exp(u_l·u_l'/τ) over the views that a sample has."""
    first, second = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    scores = (z[first] * z[second]).sum(-1) / temperature
    return logsumexp_or_empty(scores.masked_fill(~(own[first] & own[second]), -torch.inf), 0)


def _mean(losses: Float[Tensor, " n"], own: Bool[Tensor, "views n"]) -> Float[Tensor, ""]:
    counted = own.sum(0) >= 2
    return global_mean(losses.masked_fill(~counted, 0), counted)
