"""The head of DINO: from embeddings to logits of prototypes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class DINOHead(nn.Module):
    """Three linear layers, unit length, and cosines with K prototypes (DINO, appendix C).

    Caron et al. 2021, as DINOv2 (Oquab et al. 2023) uses it for class tokens and, with weights of
    its own, for patches. The last layer is weight-normalised with its gain fixed at 1, so logits
    are cosines; the temperatures are the loss's.

    Args:
        input_dim: width of the embeddings.
        n_prototypes: K.
        hidden_dim: width of both hidden layers.
        bottleneck_dim: width of what has unit length.

    Attributes:
        prototypes: (K, bottleneck_dim) of any length; held still at first by systems that say so.
    """

    def __init__(
        self,
        input_dim: int,
        n_prototypes: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(n_prototypes, bottleneck_dim))
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, x: Float[Tensor, "*batch input_dim"]) -> Float[Tensor, "*batch prototypes"]:
        """Cosines with the prototypes, in [-1, 1]."""
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.prototypes, dim=-1))
