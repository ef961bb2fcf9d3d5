"""A small map from the latent space of one view to that of another."""

from jaxtyping import Float
from torch import Tensor, nn


class LatentMapper(nn.Module):
    """A convolution that halves the vector, ReLU, a transposed one that gives its length back.

    The vector is taken as a signal of one channel (Demirel and Holz, arXiv 2510.22655).

    Args:
        hidden_channels: between the two.
    """

    def __init__(self, hidden_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, hidden_channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose1d(hidden_channels, 1, 3, stride=2, padding=1, output_padding=1),
        )

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Of each vector, of even length, its counterpart."""
        mapped: Tensor = self.layers(x[:, None])
        return mapped[:, 0]
