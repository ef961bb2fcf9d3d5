"""Finite groups of transformations that keep the label: all of them, on every sample of a batch.

Each is called with (B, ...) and gives (B, M, ...): the M transformed copies of every sample, the
first of which is the sample itself. They are not random; random views come before them.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from core.data.checks import DataError

# RGB, RBG, GRB, GBR, BRG, BGR
COLOUR_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


class Transformations(Protocol):
    """M transformations of which the first is the identity.

    Attributes:
        count: M.
    """

    count: int

    def __call__(self, x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch count ..."]:
        """The copies of every sample."""
        ...


class Rotations:
    """Counter-clockwise rotations of square images.

    Args:
        quarters: by how many times 90 degrees; (0, 2) leaves out the sideways ones.
    """

    def __init__(self, quarters: Sequence[int] = (0, 1, 2, 3)) -> None:
        self.quarters, self.count = quarters, len(quarters)

    def __call__(
        self, x: Float[Tensor, "batch channels side side"]
    ) -> Float[Tensor, "batch count channels side side"]:
        """The copies of every image.

        Raises:
            DataError: the images are not square.
        """
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise DataError(
                f"samples of shape {list(x.shape[1:])} cannot be rotated",
                expected="square images (channels, side, side)",
            )
        return torch.stack([torch.rot90(x, k, (2, 3)) for k in self.quarters], 1)


class ColourPermutations:
    """The three channels of images in other orders.

    Args:
        orders: of the channels; the default is all six.
    """

    def __init__(self, orders: Sequence[Sequence[int]] = COLOUR_ORDERS) -> None:
        self.orders, self.count = [list(order) for order in orders], len(orders)

    def __call__(
        self, x: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch count 3 height width"]:
        """The copies of every image.

        Raises:
            DataError: the images have not three channels.
        """
        if x.shape[1] != 3:
            raise DataError(
                f"samples of shape {list(x.shape[1:])} have no colours to exchange",
                expected="images (3, height, width)",
            )
        return torch.stack([x[:, order] for order in self.orders], 1)


class Combinations:
    """Every transformation of one group followed by every one of another.

    Copy i * inner.count + j is the i-th of `outer` after the j-th of `inner`.

    Args:
        outer: the group that changes slowly.
        inner: the group that changes fast.
    """

    def __init__(self, outer: Transformations, inner: Transformations) -> None:
        self.outer, self.inner, self.count = outer, inner, outer.count * inner.count

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch count ..."]:
        """The copies of every sample."""
        inner = self.inner(x)
        both: Tensor = self.outer(inner.flatten(0, 1)).unflatten(0, inner.shape[:2])
        return both.transpose(1, 2).flatten(1, 2)


class TimeReversal:
    """A series as it is and backwards."""

    count = 2

    def __call__(
        self, x: Float[Tensor, "batch channels time"]
    ) -> Float[Tensor, "batch 2 channels time"]:
        """The copies of every series."""
        return torch.stack([x, x.flip(-1)], 1)


class AxisRotations:
    """A sensor turned about one of its axes by 0, 90, 180 and 270 degrees.

    Args:
        axis: 0, 1 or 2, of every three channels (x, y, z) of the series.
    """

    count = 4

    def __init__(self, axis: int = 2) -> None:
        self.axis = axis

    def __call__(
        self, x: Float[Tensor, "batch channels time"]
    ) -> Float[Tensor, "batch 4 channels time"]:
        """The copies of every series.

        Raises:
            DataError: the channels are not x, y, z of one sensor or of several.
        """
        if x.ndim != 3 or x.shape[1] % 3:
            raise DataError(
                f"samples of shape {list(x.shape[1:])} have no axes to rotate",
                expected="series (channels, time), x, y and z of each sensor in turn",
            )
        sensors = x.unflatten(1, (-1, 3))
        first, second = (self.axis + 1) % 3, (self.axis + 2) % 3
        turned = [sensors]
        for _ in range(3):
            before, after = turned[-1], turned[-1].clone()
            after[:, :, first], after[:, :, second] = -before[:, :, second], before[:, :, first]
            turned.append(after)
        return torch.stack(turned, 1).flatten(2, 3)
