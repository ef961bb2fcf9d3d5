"""Spread of a batch by the distances of nearest neighbours."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, unit


@full_precision
def koleo(
    x: Float[Tensor, "batch dim"],
    *,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    gather: Gather = "full",
    eps: float = 1e-8,
) -> Float[Tensor, ""]:
    """-mean log(||x_i - x_nn(i)|| + ε), the estimator of Kozachenko and Leonenko.

    Sablayrolles et al. 2019, eq. 2. The neighbour is the nearest by cosine; no gradient goes
    through its choice, but one goes to the neighbour itself.

    Args:
        x: (B, D) embeddings.
        normalize: bring the rows to unit length first.
        valid: (B,) False where a row does not count.
        gather: neighbours are sought among this rank's rows or those of all ranks.
        eps: ε, which bounds the loss where two rows are equal.

    Returns:
        Scalar in float32 at least.
    """
    rows = Rows.of(x, gather, valid)
    x = unit(rows.keep_valid(x), normalize)
    everyone = rows.everywhere(x)
    cosines = x.detach() @ everyone.detach().T
    if rows.valid is not None:
        cosines.masked_fill_(~rows.valid, -torch.inf)
    own = torch.arange(rows.start, rows.start + rows.size, device=x.device)
    cosines[own - rows.start, own] = -torch.inf
    nearest = cosines.argmax(1)
    # Its ε, added to every difference, gives equal rows a gradient too.
    distance = F.pairwise_distance(x, everyone[nearest], eps=eps)
    return global_mean(-(distance + eps).log(), valid)
