"""Prediction of a view's cluster assignment from another view."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.sinkhorn import sinkhorn


@full_precision
def swav(
    scores: Float[Tensor, "views batch prototypes"],
    temperature: float = 0.1,
    *,
    assigned_views: Sequence[int] = (0, 1),
    queue_scores: Float[Tensor, "assigned queue prototypes"] | None = None,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Tensor, ""]:
    """Mean over pairs of views v ≠ w, v assigned, of -mean Σ Q_v log softmax(scores_w / τ).

    Caron et al. 2020, eq. 2 with multi-crop. Q comes from `sinkhorn`, without gradient.

    Args:
        scores: (V, B, K) products of unit embeddings with unit prototypes; full size views first.
        temperature: divisor τ.
        assigned_views: the views that give assignments, in the paper the two of full size.
        queue_scores: (A, M, K) scores of earlier embeddings with the prototypes of today, one block
            an assigned view; they take part in the balance only.
        epsilon: of `sinkhorn`.
        iterations: of `sinkhorn`.

    Returns:
        Scalar in float32 at least.
    """
    log_shares = F.log_softmax(scores / temperature, dim=-1)
    terms = []
    for number, view in enumerate(assigned_views):
        balanced = scores[view].detach()
        if queue_scores is not None:
            balanced = torch.cat([balanced, queue_scores[number].detach()])
        assignment = sinkhorn(balanced, epsilon, iterations)[: scores.shape[1]]
        terms += [
            global_mean(-(assignment * log_shares[other]).sum(-1))
            for other in range(len(scores))
            if other != view
        ]
    return torch.stack(terms).mean()
