"""Bayesian personalised ranking."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision


@full_precision
def bpr(
    positive_scores: Float[Tensor, "*batch"],
    negative_scores: Float[Tensor, "*batch"],
    *,
    valid: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Mean of -log σ(positive - negative) (Rendle et al. 2009, BPR-Opt without the prior).

    Args:
        positive_scores: scores of items that the user has chosen, any shape.
        negative_scores: scores of items that the user has not, of a shape that broadcasts with it.
        valid: bool, False where a pair does not count.

    Returns:
        Scalar in float32 at least.
    """
    margins = positive_scores - negative_scores
    if valid is not None:
        margins = margins.masked_fill(~valid, 0)
    return global_mean(-F.logsigmoid(margins), valid)


@full_precision
def embedding_penalty(*rows: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Sum of squares of the embeddings that a batch touches, over the batch size.

    Args:
        rows: (B, D) embeddings of the users, of the positive and of the negative items.

    Returns:
        Scalar Σ ||row||² / B in float32 at least; its weight is the caller's.
    """
    return sum(
        (global_mean(x.square().sum(1)) for x in rows[1:]), global_mean(rows[0].square().sum(1))
    )
