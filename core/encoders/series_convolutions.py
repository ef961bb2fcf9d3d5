"""A convolution network of three layers for series and skeletons, quick on a CPU."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError


class SeriesConvNet(nn.Module):
    """Two convolutions of 5 steps that halve the rate, one of 3, averaged over parts of the time.

    Args:
        shape: of one sample: a series (channels, time), or a skeleton (coordinates, time, joints),
            of which every coordinate of every joint is a channel.
        widths: channels of the three convolutions.
        parts: of the time that are averaged, each by itself.

    Attributes:
        dim: `parts` times the last width.

    Raises:
        DataError: the samples are neither series nor skeletons.
    """

    def __init__(
        self, shape: Sequence[int], widths: Sequence[int] = (48, 64, 64), parts: int = 4
    ) -> None:
        super().__init__()
        if len(shape) not in (2, 3):
            raise DataError(
                f"samples of shape {list(shape)} for {type(self).__name__}",
                expected="series (channels, time) or skeletons (coordinates, time, joints)",
            )
        first, second, third = widths
        self.dim = parts * third
        self.layers = nn.Sequential(
            *_convolution(prod(shape) // shape[1], first, 5, 2),
            *_convolution(first, second, 5, 2),
            *_convolution(second, third, 3, 1),
            nn.AdaptiveAvgPool1d(parts),
            nn.Flatten(),
        )

    def forward(self, x: Float[Tensor, "batch channels time ..."]) -> Float[Tensor, "batch dim"]:
        """(B, dim) features of series or skeletons, of any length."""
        if x.ndim == 4:
            x = x.transpose(2, 3).flatten(1, 2)
        features: Tensor = self.layers(x)
        return features


def _convolution(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv1d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm1d(after), nn.ReLU()]
