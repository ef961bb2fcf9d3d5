"""Balanced soft assignment of samples to prototypes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import logsumexp_over_ranks
from core.losses.precision import full_precision


@full_precision
@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "batch prototypes"],
    epsilon: float = 0.05,
    iterations: int = 3,
    *,
    valid: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch prototypes"]:
    """Sinkhorn-Knopp iterations on exp(scores / ε), so that all prototypes are used equally.

    Caron et al. 2020 (SwAV), section 3.2 and appendix A.1: the prototypes are scaled to equal mass
    and then the samples, in turn, over the batch of all ranks. Computed on logarithms, which equals
    the usual form and cannot overflow.

    Args:
        scores: (B, K) similarities of samples and prototypes.
        epsilon: entropy weight ε; smaller is sharper.
        iterations: number of turns.
        valid: (B,) False where a sample takes no part; its row of the result is 0.

    Returns:
        (B, K) assignments without gradient; valid rows sum to 1.
    """
    log_q = scores / epsilon
    if valid is not None:
        log_q = log_q.masked_fill(~valid[:, None], -torch.inf)
    for _ in range(iterations):
        log_q = log_q - _finite(logsumexp_over_ranks(log_q.logsumexp(0)))
        log_q = log_q - _finite(log_q.logsumexp(1, keepdim=True))
    return log_q.exp()


def _finite(log_sums: Tensor) -> Tensor:
    # The sum over nothing is -inf; there is nothing to scale then.
    return log_sums.masked_fill(log_sums.isneginf(), 0)
