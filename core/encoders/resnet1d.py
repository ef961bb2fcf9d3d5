"""A residual network with pre-activation for series."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError


class ResNet1D(nn.Module):
    """Pre-activation blocks over time, their mean, and a linear map.

    After Hong et al. 2020 (doi 10.1016/j.compbiomed.2020.103801). Convolutions keep
    ceil(time / stride) steps; every `shorten_every`-th block takes every `stride`-th step.

    Args:
        shape: of one series (channels, time).
        dim: width of the representation.
        width: channels of the first blocks.
        n_blocks: of two convolutions each.
        kernel: steps of a convolution.
        stride: of the blocks that shorten.
        shorten_every: every how many blocks one shortens: 2 are those of odd number, from 0.
        widen_every: after so many blocks the channels double.
        dropout: before every convolution but that of the first activation.

    Raises:
        DataError: the samples are no series.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dim: int = 128,
        width: int = 32,
        n_blocks: int = 8,
        kernel: int = 5,
        stride: int = 2,
        shorten_every: int = 2,
        widen_every: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(shape) != 2:
            raise DataError(
                f"samples of shape {list(shape)} for ResNet1D", expected="series (channels, time)"
            )
        self.dim = dim
        self.first = SameConv1d(shape[0], width, kernel)
        self.first_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList()
        before = width
        for number in range(n_blocks):
            after = width * 2 ** (number // widen_every)
            shortens = number % shorten_every == shorten_every - 1
            block = PreActivationBlock(
                before,
                after,
                kernel,
                stride if shortens else 1,
                dropout,
                batch_norm=True,
                activates_first=number > 0,
            )
            self.blocks.append(block)
            before = after
        self.last_norm = nn.BatchNorm1d(before)
        self.head = nn.Linear(before, dim)

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch dim"]:
        """(B, dim) representations."""
        x = self.first_norm(self.first(x)).relu()
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.last_norm(x).relu().mean(-1))
        return out


class PreActivationBlock(nn.Module):
    """Twice (batch norm, ReLU, dropout, convolution), added to the input.

    Where the block shortens, the input is max-pooled, with a zero after its end; where it widens,
    channels of zeros join it on both sides.

    Args:
        before: channels of the input.
        after: channels of the output.
        kernel: steps of a convolution.
        stride: of the first convolution and of the pooling.
        dropout: before the convolutions.
        batch_norm: before the ReLUs.
        activates_first: False leaves out what comes before the first convolution.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int,
        dropout: float,
        batch_norm: bool,
        activates_first: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.more = stride, after - before

        def activation(channels: int) -> nn.Module:
            norm = nn.BatchNorm1d(channels) if batch_norm else nn.Identity()
            return nn.Sequential(norm, nn.ReLU(), nn.Dropout(dropout))

        self.activation1 = activation(before) if activates_first else nn.Identity()
        self.convolution1 = SameConv1d(before, after, kernel, stride)
        self.activation2 = activation(after)
        self.convolution2 = SameConv1d(after, after, kernel)

    def forward(self, x: Float[Tensor, "batch before time"]) -> Float[Tensor, "batch after less"]:
        """(B, after, ceil(time / stride))."""
        branch: Tensor = self.convolution1(self.activation1(x))
        branch = self.convolution2(self.activation2(branch))
        if self.stride > 1:
            x = F.max_pool1d(F.pad(x, (0, self.stride - 1)), self.stride)
        left = self.more // 2
        return branch + F.pad(x, (0, 0, left, self.more - left))


class SameConv1d(nn.Conv1d):
    """A convolution that keeps ceil(time / stride) steps, of odd padding one more on the right."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1) -> None:
        super().__init__(before, after, kernel, stride)

    def forward(self, x: Float[Tensor, "batch before time"]) -> Float[Tensor, "batch after less"]:
        """(B, after, ceil(time / stride))."""
        (kernel,), (stride,), time = self.kernel_size, self.stride, x.shape[-1]
        padding = max(0, (-(-time // stride) - 1) * stride + kernel - time)
        return super().forward(F.pad(x, (padding // 2, padding - padding // 2)))
