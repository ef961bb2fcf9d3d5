"""Views of skeletons (B, 3, time, joints), batched on the device; every row draws its own.

Scaling, rotation and shear are linear maps about a joint, which stays where it is in every frame.
"""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.augment.draws import Draws
from core.augment.series import CropAndResize, Jitter, rotation_about
from core.data.checks import DataError


class LinearMap(Protocol):
    """A random linear map of space for every row."""

    def matrices(self, draws: Draws) -> Float[Tensor, "batch 3 3"]:
        """The identity where nothing happens."""
        ...


class AxisScaling:
    """A factor for each of the three axes.

    Args:
        low: smallest factor.
        high: largest factor.
        p: how often.
    """

    def __init__(self, low: float = 0.7, high: float = 1.2, p: float = 1.0) -> None:
        self.low, self.high, self.p = low, high, p

    def matrices(self, draws: Draws) -> Float[Tensor, "batch 3 3"]:
        """Diagonal matrices."""
        rows = draws.happens(self.p)
        return _or_identity(rows, torch.diag_embed(draws.uniform(self.low, self.high, 3)))


class AxisTurns:
    """A rotation about each of the three axes, x first.

    Args:
        degrees: the largest angle either way.
        p: how often.
    """

    def __init__(self, degrees: float = 10.0, p: float = 1.0) -> None:
        self.degrees, self.p = degrees, p

    def matrices(self, draws: Draws) -> Float[Tensor, "batch 3 3"]:
        """Rotations."""
        rows = draws.happens(self.p)
        angles = torch.deg2rad(draws.uniform(-self.degrees, self.degrees, 3))
        axes = torch.eye(3, device=angles.device).expand(len(angles), 3, 3)
        x, y, z = rotation_about(axes, angles).unbind(1)
        return _or_identity(rows, z @ y @ x)


class Shear:
    """Every axis leans towards the two others.

    Args:
        sigma: standard deviation of the six slopes.
        p: how often.
    """

    def __init__(self, sigma: float = 0.2, p: float = 1.0) -> None:
        self.sigma, self.p = sigma, p

    def matrices(self, draws: Draws) -> Float[Tensor, "batch 3 3"]:
        """Matrices with a diagonal of ones."""
        rows = draws.happens(self.p)
        slopes = self.sigma * draws.normal(3, 3)
        identity = torch.eye(3, device=slopes.device)
        return _or_identity(rows, slopes * (1 - identity) + identity)


class AboutJoint:
    """Linear maps in turn, about a joint.

    Args:
        maps: the first is applied first.
        pivot: number of the joint that stays where it is.
    """

    def __init__(self, maps: list[LinearMap], pivot: int = 2) -> None:
        self.maps, self.pivot = maps, pivot

    def __call__(
        self, x: Float[Tensor, "batch 3 time joints"], draws: Draws
    ) -> Float[Tensor, "batch 3 time joints"]:
        """One view of every skeleton.

        Raises:
            DataError: the samples are no skeletons in space, or lack the joint.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not 0 <= self.pivot < x.shape[3]:
            raise DataError(
                f"samples of shape {list(x.shape[1:])} cannot be turned about joint {self.pivot}",
                expected="skeletons (3, time, joints) that have this joint",
            )
        first, *others = (each.matrices(draws) for each in self.maps)
        for matrices in others:
            first = matrices @ first
        matrix = first.to(x.dtype)
        centre = x[..., self.pivot].contiguous()
        rest = (centre - matrix @ centre)[..., None]
        return (matrix @ x.flatten(2)).view_as(x).add_(rest)


class SkeletonViews:
    """The views of CMC-CMKM for skeletons: noise, crop in time, scaling, rotation, shear.

    The authors' code scales and turns about joint 0, whatever joint is asked for; `pivot=0` does
    the same.

    Args:
        jitter: standard deviation of the noise, always added, in units of the skeletons.
        crop: range of the share of the time that is kept.
        scale: range of the factor of each axis.
        degrees: largest angle about each axis.
        shear: standard deviation of the slopes.
        p: how often each of the last four happens.
        pivot: number of the joint that scaling, rotation and shear keep in place; 2 is the spine of
            UTD-MHAD.
    """

    def __init__(
        self,
        jitter: float = 0.1,
        crop: tuple[float, float] = (0.8, 0.9),
        scale: tuple[float, float] = (0.7, 1.2),
        degrees: float = 10.0,
        shear: float = 0.2,
        p: float = 0.75,
        pivot: int = 2,
    ) -> None:
        self.jitter = Jitter(jitter)
        self.crop = CropAndResize(*crop, p)
        maps: list[LinearMap] = [AxisScaling(*scale, p), AxisTurns(degrees, p), Shear(shear, p)]
        self.maps = AboutJoint(maps, pivot)

    def __call__(
        self, x: Float[Tensor, "batch 3 time joints"], draws: Draws
    ) -> Float[Tensor, "batch 3 time joints"]:
        """One view of every skeleton."""
        return self.maps(self.crop(self.jitter(x, draws), draws), draws)


def _or_identity(rows: Bool[Tensor, " batch"], matrices: Tensor) -> Tensor:
    identity = torch.eye(3, device=matrices.device)
    return torch.where(rows[:, None, None], matrices, identity)
