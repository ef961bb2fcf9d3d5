"""Unit prototypes that embeddings are compared with."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Prototypes(nn.Module):
    """Cosines of embeddings with learned prototypes (SwAV, Caron et al. 2020, section 3.1).

    The optimizer's step takes the prototypes off the unit sphere: call `normalize` after each, for
    instance in `on_train_batch_end`.

    Args:
        dim: width of the embeddings.
        count: number of prototypes K.

    Attributes:
        weight: (K, dim) the prototypes.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))

    def forward(self, embeddings: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch count"]:
        """Products of the L2-normalised embeddings with the prototypes, in [-1, 1]."""
        return F.linear(F.normalize(embeddings, dim=-1), self.weight)

    @torch.no_grad()
    def normalize(self) -> None:
        """Brings the prototypes back to length 1, in place."""
        self.weight.copy_(F.normalize(self.weight, dim=1))
