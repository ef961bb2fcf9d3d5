"""Co-occurrence of joints: a convolution network that sees all joints at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError


class CooccurrenceCNN(nn.Module):
    """Hierarchical co-occurrence network (Li et al. 2018), as CMC-CMKM uses it for skeletons.

    Positions, and their differences from frame to frame (0 in the first), go through a branch each:
    two convolutions see every joint alone, then the joints become the channels of maps of features
    x time. The maps of both branches are stacked along the features and convolved twice more. No
    convolution is padded, and none but the first and the last two is followed by a ReLU.

    Args:
        shape: of one sample (coordinates, time, joints), time at least 48.
        widths: channels after each of the six convolutions; the second, whose channels become an
            axis of the maps, at least 26.

    Attributes:
        dim: 256 for 48 to 63 frames with the usual widths; in general what is left of the maps.

    Raises:
        DataError: the samples are no skeletons, or the maps would vanish.
    """

    def __init__(
        self, shape: Sequence[int], widths: Sequence[int] = (64, 32, 32, 64, 128, 256)
    ) -> None:
        super().__init__()
        if len(shape) != 3 or shape[1] < 48:
            raise DataError(
                f"samples of shape {list(shape)} for {type(self).__name__}",
                expected="skeletons (coordinates, time, joints) of at least 48 frames",
                fix="cut longer windows or resample to more frames, e.g. 50",
            )
        if widths[1] < 26:
            raise DataError(
                f"a second convolution to {widths[1]} channels, an axis of later maps",
                expected="at least 26",
            )
        self.shape = list(shape)
        features, frames = (_after_two(size) for size in (widths[1], shape[1] - 2))
        self.dim = widths[-1] * _after_two(2 * features) * _after_two(frames)
        self.positions = _Branch(shape[0], shape[2], widths)
        self.motions = _Branch(shape[0], shape[2], widths)
        self.together = nn.Sequential(
            nn.Conv2d(widths[3], widths[4], 3),
            nn.BatchNorm2d(widths[4]),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(widths[4], widths[5], 3),
            nn.BatchNorm2d(widths[5]),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )

    def forward(self, x: Float[Tensor, "batch coordinates time joints"]) -> Float[Tensor, "b d"]:
        """(B, dim) features.

        Raises:
            DataError: the samples have another shape.
        """
        if list(x.shape[1:]) != self.shape:
            raise DataError(f"skeletons of shape {list(x.shape[1:])}", expected=f"{self.shape}")
        motion = torch.cat([torch.zeros_like(x[:, :, :1]), x.diff(dim=2)], 2)
        maps = torch.cat([self.positions(x), self.motions(motion)], 2)
        features: Tensor = self.together(maps)
        return features


class _Branch(nn.Module):
    def __init__(self, coordinates: int, joints: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.each_joint = nn.Sequential(
            nn.Conv2d(coordinates, widths[0], 1),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], (3, 1)),
            nn.BatchNorm2d(widths[1]),
        )
        self.all_joints = nn.Sequential(
            nn.Conv2d(joints, widths[2], 3),
            nn.BatchNorm2d(widths[2]),
            nn.MaxPool2d(2),
            nn.Conv2d(widths[2], widths[3], 3),
            nn.BatchNorm2d(widths[3]),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        by_joint: Tensor = self.each_joint(x)  # (B, features, time, joints)
        maps: Tensor = self.all_joints(by_joint.permute(0, 3, 1, 2))
        return maps


def _after_two(size: int) -> int:
    """What two unpadded convolutions of 3, each halved by a pool, leave of an axis."""
    return ((size - 2) // 2 - 2) // 2
