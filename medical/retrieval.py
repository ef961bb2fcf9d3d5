"""Retrieval of patches by patches: whether one of the k nearest is of the class, and their vote."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.encoders.neighbours import nearest

KS = (1, 3, 5)
_VOTERS = 5


def retrieved(
    queries: Float[Tensor, "m dim"],
    query_labels: Int64[Tensor, " m"],
    keys: Float[Tensor, "n dim"],
    key_labels: Int64[Tensor, " n"],
) -> dict[str, Bool[Tensor, " m"]]:
    """Which queries succeed: `retrieval@k` by any of the k nearest keys, `majority@5` by a vote.

    Args:
        queries: centred and of unit length, so that Euclidean neighbours are those by cosine.
        query_labels: their classes.
        keys: likewise.
        key_labels: their classes.
    """
    k = min(_VOTERS, len(keys))
    found = key_labels[nearest(queries, keys, k)[1]]
    hits = found == query_labels[:, None]
    outcome = {f"retrieval@{n}": hits[:, :n].any(1) for n in KS}
    return outcome | {f"majority@{_VOTERS}": majority_of(found) == query_labels}


def majority_of(found: Int64[Tensor, "m k"]) -> Int64[Tensor, " m"]:
    """The most frequent label of each row; of equally frequent ones, the first met."""
    votes = (found[:, :, None] == found[:, None]).sum(2)
    k = found.shape[1]
    # An earlier place breaks a tie and outweighs no vote.
    rank = votes * k - torch.arange(k, device=found.device)
    return found.gather(1, rank.argmax(1, keepdim=True))[:, 0]
