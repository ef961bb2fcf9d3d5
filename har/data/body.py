"""A body of 20 joints moved by 21 angles: forward kinematics in a room with a camera.

Right-handed axes, metres: +x is the person's right when facing the camera, +y up, +z away from the
camera, which stands 1 m high at the origin; the person faces -z. Angles are degrees, rotations are
active. Joints are in the order of UTD-MHAD.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

DOFS = (
    *("rh", "rf", "ra", "rr", "re", "rp", "rw"),
    *("lh", "lf", "la", "lr", "le", "lp", "lw"),
    *("tw", "ro", "ln", "qf", "qk", "jf", "jk"),
)
LEGS = ("qf", "qk", "jf", "jk")
REST = np.array([{"ra": 8.0, "la": 8.0, "re": 10.0, "le": 10.0}.get(dof, 0.0) for dof in DOFS])
SPINE, NECK, HEAD = 0.10, 0.35, 0.20
UPPER_ARM, FOREARM, HAND = 0.29, 0.25, 0.09
THIGH, SHANK, ANKLE_HEIGHT = 0.42, 0.41, 0.06
HIP_DROP = 0.05
_CAMERA_HEIGHT = 1.0

Angles = Float64[np.ndarray, " time"]
Points = Float64[np.ndarray, "time 3"]
Rotations = Float64[np.ndarray, "time 3 3"]


@dataclass(frozen=True)
class Pose:
    """Where the joints are, (time, 20, 3), and how the limbs that carry a sensor are turned."""

    joints: Float64[np.ndarray, "time 20 3"]
    right_forearm: Rotations
    right_thigh: Rotations

    @property
    def right_elbow(self) -> Points:
        """Its position, (time, 3)."""
        return self.joints[:, 9]

    @property
    def right_hip(self) -> Points:
        """Its position, (time, 3)."""
        return self.joints[:, 16]


def rotation(axis: int, degrees: Angles | float) -> Float64[np.ndarray, "... 3 3"]:
    """Active right-handed rotations about x (0), y (1) or z (2)."""
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    b, c = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., b, b] = matrix[..., c, c] = cos
    matrix[..., b, c], matrix[..., c, b] = -sin, sin
    return matrix


def pose(
    angles: Float64[np.ndarray, "time 21"],
    shift: Float64[np.ndarray, "time 2"],
    scale: float,
    heading: float,
    place: tuple[float, float],
) -> Pose:
    """Forward kinematics.

    Args:
        angles: degrees of freedom in the order of `DOFS`.
        shift: of the pelvis, up and back, in metres.
        scale: of all lengths; at 1 the head joint of a standing person is 1.59 m above the soles.
        heading: degrees by which the person is turned about the vertical.
        place: x and z of the person.
    """
    of = dict(zip(DOFS, angles.T, strict=True))
    still = np.zeros(len(angles))
    pelvis = np.broadcast_to(rotation(1, heading), (len(angles), 3, 3))
    trunk = pelvis @ rotation(1, of["tw"]) @ rotation(2, of["ro"]) @ rotation(0, -of["ln"])

    def along(turned: Rotations, x: float, y: float, z: float) -> Points:
        return turned @ (scale * np.array([x, y, z]))

    height = scale * (HIP_DROP + THIGH + SHANK + ANKLE_HEIGHT) - _CAMERA_HEIGHT
    standing = np.stack([still + place[0], height + shift[:, 0], still + place[1]], axis=1)
    root = standing + pelvis[:, :, 2] * shift[:, 1:]
    spine = root + along(trunk, 0, SPINE, 0)
    neck = spine + along(trunk, 0, NECK, 0)
    head = neck + along(trunk, 0, HEAD, 0)

    def arm(side: str, sign: int) -> tuple[list[Points], Rotations]:
        h, f, a, r, e, p, w = (of[side + joint] for joint in "hfarepw")
        upper = trunk @ rotation(1, sign * h) @ rotation(2, sign * a) @ rotation(0, f)
        upper = upper @ rotation(1, sign * r)
        fore = upper @ rotation(0, e) @ rotation(1, sign * p)
        shoulder = neck + along(trunk, sign * 0.18, -0.04, 0)
        elbow = shoulder + along(upper, 0, -UPPER_ARM, 0)
        wrist = elbow + along(fore, 0, -FOREARM, 0)
        hand = wrist + along(fore @ rotation(0, w), 0, -HAND, 0)
        return [shoulder, elbow, wrist, hand], fore

    def leg(side: str, sign: int) -> tuple[list[Points], Rotations]:
        thigh = pelvis @ rotation(0, of[side + "f"])
        shank = thigh @ rotation(0, -of[side + "k"])
        hip = root + along(pelvis, sign * 0.09, -HIP_DROP, 0)
        knee = hip + along(thigh, 0, -THIGH, 0)
        ankle = knee + along(shank, 0, -SHANK, 0)
        foot = ankle + along(pelvis, 0, -ANKLE_HEIGHT, -0.13)
        return [hip, knee, ankle, foot], thigh

    (left_arm, _), (right_arm, forearm) = arm("l", -1), arm("r", 1)
    (left_leg, _), (right_leg, thigh) = leg("j", -1), leg("q", 1)
    points = [head, neck, spine, root, *left_arm, *right_arm, *left_leg, *right_leg]
    return Pose(np.stack(points, axis=1), forearm, thigh)
