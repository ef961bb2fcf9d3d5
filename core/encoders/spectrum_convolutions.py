"""A convolution network for the Fourier coefficients of series."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.resnet1d import PreActivationBlock, SameConv1d


class SpectrumConvNet(nn.Module):
    """A branch for the amplitudes and one for the phases, side by side.

    A branch is a convolution, ReLU, two residual blocks without normalisation that halve the bins,
    and a linear map of those left to one number (Demirel and Holz, arXiv 2510.22655).

    Args:
        shape: of one spectrum (twice the channels, bins): amplitudes first, as
            `core.augment.projections.fourier` gives them.
        widths: channels of the convolution and of the blocks.
        kernel: bins of a convolution.

    Attributes:
        dim: twice the last width.

    Raises:
        DataError: the samples are no spectra.
    """

    def __init__(
        self, shape: Sequence[int], widths: Sequence[int] = (16, 32, 64), kernel: int = 3
    ) -> None:
        super().__init__()
        if len(shape) != 2 or shape[0] % 2:
            raise DataError(
                f"samples of shape {list(shape)} for SpectrumConvNet",
                expected="spectra (amplitudes and phases of the channels, bins)",
            )
        channels, bins = shape[0] // 2, shape[1]
        first, second, third = widths
        self.dim = 2 * third

        def branch() -> nn.Module:
            return nn.Sequential(
                SameConv1d(channels, first, kernel),
                nn.ReLU(),
                PreActivationBlock(first, second, kernel, 2, 0.0, batch_norm=False),
                PreActivationBlock(second, third, kernel, 2, 0.0, batch_norm=False),
                nn.Linear(-(-bins // 4), 1),
                nn.Flatten(),
            )

        self.amplitude, self.phase = branch(), branch()

    def forward(self, x: Float[Tensor, "batch two_channels bins"]) -> Float[Tensor, "batch dim"]:
        """(B, dim) representations: the half of the amplitudes, then that of the phases."""
        amplitude, phase = x.chunk(2, 1)
        return torch.cat([self.amplitude(amplitude), self.phase(phase)], 1)
