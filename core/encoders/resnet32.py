"""ResNet-32 for images of 32 x 32 pixels, with shortcuts that have no weights."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ResNet32(nn.Module):
    """Three stages of five basic blocks, widths 16, 32, 64 (He et al. 2016, section 4.2).

    Where a block halves the map, its shortcut is every second pixel with the new channels at 0
    (option A).

    Args:
        shape: of one image (channels, height, width).

    Attributes:
        dim: 64.
    """

    dim = 64

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(shape[0], 16), nn.BatchNorm2d(16), nn.ReLU()]
        before = 16
        for width in (16, 32, 64):
            for number in range(5):
                stride = 2 if width > 16 and number == 0 else 1
                layers.append(BasicBlock(before, width, stride))
                before = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 64"]:
        """Features averaged over the last map, a quarter of the image's side."""
        out: Tensor = self.layers(images)
        return out


class BasicBlock(nn.Module):
    """Two convolutions and the shortcut around them.

    Args:
        before: channels of the input.
        width: channels of the output.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, width - before
        self.residual = nn.Sequential(
            _convolution(before, width, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _convolution(width, width),
            nn.BatchNorm2d(width),
        )

    def forward(
        self, x: Float[Tensor, "batch before height width"]
    ) -> Float[Tensor, "batch width rows columns"]:
        """The activated sum."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return torch.relu(self.residual(x) + shortcut)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
