"""Perceptrons: encoders of vectors, and the heads that losses look at."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """Hidden layers with ReLU over everything but the batch dimension, flattened.

    Args:
        shape: of one sample.
        hidden: widths of the hidden layers.
        dim: width of the representation, which is not activated.
    """

    def __init__(
        self, shape: Sequence[int], hidden: Sequence[int] = (256,), dim: int = 128
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = [prod(shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], dim))

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """The representation of every sample."""
        out: Tensor = self.layers(x)
        return out


class ProjectionHead(nn.Module):
    """Linear, ReLU, Linear between a representation and its loss (SimCLR, arXiv 2002.05709).

    Args:
        in_dim: width of the representation.
        hidden_dim: width between the two layers.
        dim: width of the projection.
        batch_norm: normalise after both layers, which then have no bias; the last without learned
            scale and shift, as many follow-ups of SimCLR do.
    """

    def __init__(self, in_dim: int, hidden_dim: int, dim: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.dim = dim
        norms = (nn.BatchNorm1d(hidden_dim), nn.BatchNorm1d(dim, affine=False))
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden_dim, bias=not batch_norm),
            norms[0] if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(hidden_dim, dim, bias=not batch_norm),
            norms[1] if batch_norm else nn.Identity(),
        )

    def forward(self, h: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch dim"]:
        """The projection of every representation, of any length."""
        out: Tensor = self.layers(h)
        return out
