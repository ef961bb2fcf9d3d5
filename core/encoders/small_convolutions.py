"""Convolution networks of three layers, for images of a few pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PooledConvNet(nn.Module):
    """Two convolutions, a max-pool, a third convolution; the last map is averaged to 2 x 2.

    Args:
        shape: of one image (channels, height, width).
        widths: channels of the three maps.

    Attributes:
        dim: 4 times the last width.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int] = (16, 32, 48)) -> None:
        super().__init__()
        first, second, third = widths
        self.dim = 4 * third
        self.layers = nn.Sequential(
            *_convolution(shape[0], first),
            *_convolution(first, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "b d"]:
        """(B, dim) features."""
        # A quarter faster on a CPU, and what accelerators like.
        out: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return out


class StridedConvNet(nn.Module):
    """Convolutions that halve the map, which is averaged in the end.

    Args:
        shape: of one image (channels, height, width).
        widths: channels of the maps.

    Attributes:
        dim: the last width.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        self.dim = widths[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise([shape[0], *widths]):
            layers += _convolution(before, after, stride=2)
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "b d"]:
        """(B, dim) features."""
        # A quarter faster on a CPU, and what accelerators like.
        out: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return out


def _convolution(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]
