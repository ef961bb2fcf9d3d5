"""Bags of instances pooled by gated attention."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ABMIL(nn.Module):
    """Attention-based multiple-instance learning with the gate (Ilse et al. 2018, eq. 9).

    Instances h are embedded by dropout, a linear layer, ReLU and dropout; their scores are
    w tanh(V h) sigmoid(U h), and the bag is the sum of the embedded instances weighted by the
    softmax of the scores. The widths are those usual for slides of pathology.

    Args:
        input_dim: width of the instances.
        dim: width of the embedded instances and of the bag.
        hidden: rows of V and U.
        dropout: after the embedding.
        input_dropout: before it.

    Attributes:
        dim: width of the bag.
    """

    def __init__(
        self,
        input_dim: int = 1024,
        dim: int = 512,
        hidden: int = 384,
        dropout: float = 0.25,
        input_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Sequential(
            nn.Dropout(input_dropout), nn.Linear(input_dim, dim), nn.ReLU(), nn.Dropout(dropout)
        )
        self.values = nn.Linear(dim, hidden)
        self.gates = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(
        self,
        bags: Float[Tensor, "batch instances input_dim"],
        mask: Bool[Tensor, "batch instances"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) pooled bags; 0 for a bag without instances.

        Args:
            bags: (B, N, input_dim), padded to the longest.
            mask: (B, N) True for instances, False for padding; None: all are instances.
        """
        embedded = self.embedding(bags)
        weights = self._weights(embedded, mask)
        if mask is not None:
            embedded = embedded.masked_fill(~mask[..., None], 0)
        return torch.einsum("bn,bnd->bd", weights, embedded)

    def attention(
        self,
        bags: Float[Tensor, "batch instances input_dim"],
        mask: Bool[Tensor, "batch instances"] | None = None,
    ) -> Float[Tensor, "batch instances"]:
        """(B, N) weights of the instances, which sum to 1 in each bag; 0 for padding."""
        return self._weights(self.embedding(bags), mask)

    def _weights(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.score(self.values(embedded).tanh() * self.gates(embedded).sigmoid())[..., 0]
        if mask is None:
            weights: Tensor = scores.softmax(-1)
        else:
            # The lowest number instead of -inf: a bag without instances gives no NaN.
            lowest = torch.finfo(scores.dtype).min
            weights = scores.masked_fill(~mask, lowest).softmax(-1) * mask
        return weights
