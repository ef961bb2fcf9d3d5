"""Recordings: what the readers of all formats return, in units and clocks of their own kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

SKELETON, IMU = "skeleton", "imu"


@dataclass(frozen=True)
class Stream:
    """One sensor's values at a constant rate.

    Attributes:
        values: float32; a skeleton is (time, joints, 3) in metres, +y up where the format says so;
            an IMU is (time, channels), acceleration in g with gravity, angular rate in deg/s.
        rate: samples a second.
        start: seconds, on the clock of the recording, of the first sample.
    """

    values: Float[np.ndarray, "time ..."]
    rate: float
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first sample to one period after the last."""
        return len(self.values) / self.rate


@dataclass(frozen=True)
class Recording:
    """One clip, or one long recording, of one person.

    Attributes:
        name: unique, as in the files, e.g. `a1_s2_t3`.
        subject: whose it is.
        label: number of the activity, -1 where unknown.
        streams: `skeleton`, `imu`, or both.
        split: train, valid or test where the files say so.
    """

    name: str
    subject: str
    label: int
    streams: dict[str, Stream]
    split: str | None = None


@dataclass(frozen=True)
class Recordings:
    """A data set as it was read.

    Attributes:
        recordings: in the order of their names.
        classes: names of the activities.
        joints: names of the joints, in the order of the skeleton.
        edges: pairs of joints that a bone connects.
        channels: names of the IMU's channels with units, e.g. `acc_x [g]`.
        root: number of the joint that is the origin.
        bone: numbers of the two joints whose distance is the unit of length.
    """

    recordings: list[Recording]
    classes: list[str]
    joints: list[str] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    root: int = 0
    bone: Sequence[int] = (0, 1)
