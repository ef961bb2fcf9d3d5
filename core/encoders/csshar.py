"""A convolution network and a transformer over what it makes of a sensor's series."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.positions import SinCosPositions, grid_places


class CSSHAR(nn.Module):
    """The encoder of CSSHAR (Khaertdinov et al. 2021), as CMC-CMKM uses it for inertial sensors.

    Three convolutions of 5 steps, padded by 1 and so shortening by 2 each, with batch norm and
    ReLU; sinusoidal positions, dropout, post-norm transformer layers; all tokens in one vector.

    Args:
        shape: of one sample (channels, time), time at least 7.
        widths: channels of the convolutions; the last is the width of the tokens.
        depth: transformer layers.
        heads: of each layer.
        hidden: width of the feed-forward layers.
        dropout: after the positions and in every layer.

    Attributes:
        dim: (time - 2 convolutions) times the last width, 5632 for 50 steps.

    Raises:
        DataError: the samples are no series, or too short.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (32, 64, 128),
        *,
        depth: int = 2,
        heads: int = 2,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        shortest = 2 * len(widths) + 1
        if len(shape) != 2 or shape[1] < shortest:
            raise DataError(
                f"samples of shape {list(shape)} for {type(self).__name__}",
                expected=f"series (channels, time) of at least {shortest} steps",
            )
        self.shape = list(shape)
        self.dim = (shape[1] - 2 * len(widths)) * widths[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise([shape[0], *widths]):
            layers += [nn.Conv1d(before, after, 5, padding=1), nn.BatchNorm1d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.positions = SinCosPositions(widths[-1])
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(widths[-1], heads, hidden, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch dim"]:
        """(B, dim) features.

        Raises:
            DataError: the samples have another shape.
        """
        if list(x.shape[1:]) != self.shape:
            raise DataError(f"series of shape {list(x.shape[1:])}", expected=f"{self.shape}")
        tokens = self.convolutions(x).transpose(1, 2)
        grid = (tokens.shape[1],)
        places = self.positions.embedding(grid_places(grid, tokens), grid)
        encoded: Tensor = self.layers(self.dropout(tokens + places))
        return encoded.flatten(1)
