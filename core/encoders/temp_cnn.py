"""TempCNN: convolutions over time for satellite image time series."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError


class TempCNN(nn.Module):
    """Blocks of (convolution, batch norm, ReLU, dropout), flattened, a hidden layer, a linear map.

    Pelletier, Webb, Petitjean 2019 (doi 10.3390/rs11050523). Nothing is pooled, so that a series of
    another length than that of `shape` is refused.

    Args:
        shape: of one series (channels, time).
        dim: width of the representation.
        hidden: channels of the convolutions; the hidden layer has four times as many.
        n_blocks: convolutions.
        kernel: steps of a convolution, odd.
        dropout: after every ReLU.
        layer_norm: end in a layer norm.

    Raises:
        DataError: the samples are no series, or the kernel is even.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 128,
        hidden: int = 128,
        n_blocks: int = 2,
        kernel: int = 5,
        dropout: float = 0.2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(shape) != 2:
            raise DataError(
                f"samples of shape {list(shape)} for TempCNN", expected="series (channels, time)"
            )
        if kernel % 2 == 0:
            raise DataError(f"a convolution over {kernel} steps", expected="an odd number")
        self.dim, self.shape = dim, tuple(shape)
        layers: list[nn.Module] = []
        for number in range(n_blocks):
            before = hidden if number else shape[0]
            layers += [
                nn.Conv1d(before, hidden, kernel, padding=kernel // 2),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
        width = (hidden if n_blocks else shape[0]) * shape[1]
        layers += [
            nn.Flatten(),
            nn.Linear(width, 4 * hidden),
            nn.BatchNorm1d(4 * hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden, dim),
        ]
        layers += [nn.LayerNorm(dim)] if layer_norm else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch dim"]:
        """The representation of every series.

        Raises:
            DataError: series of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(
                f"series of shape {tuple(x.shape)}",
                expected=f"(batch, {self.shape[0]}, {self.shape[1]})",
            )
        out: Tensor = self.layers(x)
        return out
