"""A convolution network for scalograms of series."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError


class ScalogramConvNet(nn.Module):
    """Four convolutions over scale and time, which also see the scalogram at coarser rates.

    The last three halve both axes; the scalogram, averaged to the size of their input, joins the
    channels of the third and of the fourth. A linear map takes time to one number, then another
    the scales (Demirel and Holz, arXiv 2510.22655).

    Args:
        shape: of one scalogram (channels, scales, time).
        widths: channels of the four convolutions; the last is the width of the representation.
        kernel: of the convolutions, odd.

    Attributes:
        dim: the last width.

    Raises:
        DataError: the samples are no scalograms.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (32, 64, 96, 128),
        kernel: int = 5,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise DataError(
                f"samples of shape {list(shape)} for ScalogramConvNet",
                expected="scalograms (channels, scales, time)",
            )
        channels, scales, time = shape
        first, second, third, self.dim = widths
        self.layer1 = _convolution(channels, first, kernel, 1)
        self.layer2 = _convolution(first, second, kernel, 2)
        self.layer3 = _convolution(second + channels, third, kernel, 2)
        self.layer4 = _convolution(third + channels, self.dim, kernel, 2)
        self.over_time = nn.Linear(-(-time // 8), 1)
        self.over_scales = nn.Linear(-(-scales // 8), 1)

    def forward(self, x: Float[Tensor, "batch channels scales time"]) -> Float[Tensor, "batch dim"]:
        """(B, dim) representations."""
        maps = self.layer2(self.layer1(x))
        maps = self.layer3(torch.cat([maps, _averaged(x, 2)], 1))
        maps = self.layer4(torch.cat([maps, _averaged(x, 4)], 1))
        out: Tensor = self.over_scales(self.over_time(maps).squeeze(-1)).squeeze(-1)
        return out


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def _averaged(x: Tensor, by: int) -> Tensor:
    # As many as convolutions leave where `by` does not divide the size.
    return F.avg_pool2d(x, by, ceil_mode=True)
