"""Skeleton and IMU of one simulated body: the demo's recordings, physically consistent.

A person does an activity: angles over time give the joints that a camera sees at 30 Hz, and the
path of a sensor on the right wrist (activities 1 to 21) or the right thigh, whose acceleration with
gravity and angular rate are measured at 50 Hz. Persons differ in size, tempo, style and how they
wear the sensor; trials of a person differ less.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from har.data.activities import ACTIVITIES, Activity
from har.data.body import DOFS, FOREARM, LEGS, REST, SHANK, THIGH, Pose, pose, rotation

SKELETON_RATE, IMU_RATE = 30, 50
GRAVITY = 9.80665
JOINT_NOISE, ACCELERATION_NOISE, GYRO_NOISE = 0.008, 0.015, 1.5
ACCELERATION_RANGE, GYRO_RANGE = 8.0, 1000.0
_STEP = 1e-3
_ON_THE_WRIST = 21
_LOOSENESS = np.array([0.2 if dof in LEGS else 1.0 for dof in DOFS])

Times = Float64[np.ndarray, " time"]
Skeleton = Float64[np.ndarray, "20 3 frames"]
Inertial = Float64[np.ndarray, "samples 6"]


@dataclass(frozen=True)
class Clip:
    """How somebody does an activity once.

    Attributes:
        activity: its number, 1 to 27.
        scale: size of the body.
        tempo: how many times longer than the table says it takes.
        amplitude: factor of all movements.
        warp: how much the beginning is faster than the end, -1 to 1.
        shift: by which part of the activity it starts late.
        heading: degrees turned away from the camera.
        x: metres to the person's right of the middle.
        z: metres from the camera.
        mount: degrees (about x, y, z) by which the sensor sits turned on the limb.
        posture: degrees by which each degree of freedom is off all the time.
        sway: amplitudes (degrees), frequencies (Hz) and phases (radians) of three sines each.
        bias: of the IMU's channels, g and deg/s.
    """

    activity: int
    scale: float
    tempo: float
    amplitude: float
    warp: float
    shift: float
    heading: float
    x: float
    z: float
    mount: Float64[np.ndarray, "3"]
    posture: Float64[np.ndarray, "21"]
    sway: Float64[np.ndarray, "3 21 3"]
    bias: Float64[np.ndarray, "6"]

    @property
    def table(self) -> Activity:
        """The row of the table."""
        return ACTIVITIES[self.activity - 1]

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.table.seconds * self.tempo

    def times(self, rate: float) -> Times:
        """Those of the samples, in seconds."""
        return np.arange(int(np.floor(self.seconds * rate)) + 1) / rate


def draw_clip(
    seed: int, activity: int, subject: int, trial: int
) -> tuple[Clip, np.random.Generator]:
    """A clip, and the random numbers for its noise; the subject is the same in all clips."""
    person = np.random.default_rng([seed, 1000 + subject])
    scale, tempo, amplitude = (person.uniform(*b) for b in ((0.88, 1.08), (0.85, 1.2), (0.8, 1.2)))
    style, heading = person.normal(0, 7, 21), person.normal(0, 8)
    worn = person.normal(0, 1, 3) * (10, 35, 10)

    rng = np.random.default_rng([seed, activity, subject, trial])
    clip = Clip(
        activity=activity,
        scale=scale,
        tempo=tempo * rng.uniform(0.9, 1.1),
        amplitude=amplitude * rng.uniform(0.92, 1.08),
        warp=float(np.clip(rng.normal(0, 0.25), -0.6, 0.6)),
        shift=rng.uniform(-0.05, 0.05),
        heading=heading,
        posture=style + rng.normal(0, 3.5, 21),
        sway=np.stack(
            [
                np.abs(rng.normal(0, 1.5, (21, 3))),
                rng.uniform(0.2, 1.2, (21, 3)),
                rng.uniform(0, 2 * np.pi, (21, 3)),
            ]
        ),
        x=rng.normal(0, 0.1),
        z=2.6 + rng.normal(0, 0.15),
        mount=worn + rng.normal(0, 3, 3),
        bias=np.concatenate([rng.normal(0, 0.02, 3), rng.normal(0, 1, 3)]),
    )
    return clip, rng


def generate(seed: int, activity: int, subject: int, trial: int) -> tuple[Skeleton, Inertial]:
    """Measured joints (20, 3, frames) in metres and IMU (samples, 6) in g and deg/s."""
    clip, rng = draw_clip(seed, activity, subject, trial)
    joints = clip_pose(clip, clip.times(SKELETON_RATE)).joints
    joints = joints + rng.normal(0, JOINT_NOISE, joints.shape)
    imu = inertial(clip, clip.times(IMU_RATE)) + clip.bias
    sigma = np.repeat([ACCELERATION_NOISE, GYRO_NOISE], 3)
    imu += rng.normal(0, 1, imu.shape) * sigma
    limit = np.repeat([ACCELERATION_RANGE, GYRO_RANGE], 3)
    return joints.transpose(1, 2, 0), np.clip(imu, -limit, limit)


def clip_pose(clip: Clip, times: Times) -> Pose:
    """The body at `times`, in seconds."""
    phase = times / clip.seconds - clip.shift
    phase = phase + clip.warp * np.sin(2 * np.pi * np.clip(phase, 0, 1)) / (2 * np.pi)
    offsets = clip.table.offsets(phase)
    still = np.zeros_like(times)

    amplitudes, frequencies, phases = clip.sway
    waves = np.sin(2 * np.pi * frequencies * times[:, None, None] + phases)
    wandering = clip.posture + (amplitudes * waves).sum(2)
    moving = np.stack([offsets.get(dof, still) for dof in DOFS], axis=1)
    angles = REST + clip.amplitude * moving + _LOOSENESS * wandering

    if clip.table.knees is None:
        up_back = [clip.amplitude * clip.scale * offsets.get(name, still) for name in ("dy", "dz")]
    else:
        up_back = _planted(angles, clip.scale)
    shift = np.stack(up_back, axis=1)
    return pose(angles, shift, clip.scale, clip.heading, (clip.x, clip.z))


def _planted(angles: Float64[np.ndarray, "time 21"], scale: float) -> list[Times]:
    """By how much the pelvis goes down and back when the right foot stays where it is."""
    hip, knee = (np.radians(angles[:, DOFS.index(dof)]) for dof in ("qf", "qk"))
    down = THIGH * (np.cos(hip) - 1) + SHANK * (np.cos(hip - knee) - 1)
    back = THIGH * np.sin(hip) + SHANK * np.sin(hip - knee)
    return [scale * down, scale * back]


def sensor(
    clip: Clip, times: Times
) -> tuple[Float64[np.ndarray, "time 3"], Float64[np.ndarray, "time 3 3"]]:
    """Positions of the sensor in the room, and rotations from its axes to those of the room."""
    body = clip_pose(clip, times)
    if clip.activity <= _ON_THE_WRIST:
        limb, joint = body.right_forearm, body.right_elbow
        offset = np.array([0, -0.92 * FOREARM * clip.scale, 0.02])
    else:
        limb, joint = body.right_thigh, body.right_hip
        offset = np.array([0, -0.5 * THIGH * clip.scale, -0.06])
    about_x, about_y, about_z = clip.mount
    mount = rotation(1, about_y) @ rotation(0, about_x) @ rotation(2, about_z)
    return joint + limb @ offset, limb @ mount


def inertial(clip: Clip, times: Times) -> Float64[np.ndarray, "time 6"]:
    """What a perfect IMU measures: acceleration with gravity in g, angular rate in deg/s.

    Both by central differences over 1 ms, in the axes of the sensor.
    """
    n = len(times)
    place, turned = sensor(clip, np.concatenate([times - _STEP, times, times + _STEP]))
    before, now, after = place[:n], place[n : 2 * n], place[2 * n :]
    force = (after - 2 * now + before) / _STEP**2 + (0, GRAVITY, 0)
    to_sensor = turned[n : 2 * n].transpose(0, 2, 1)
    acceleration = (to_sensor @ force[:, :, None])[:, :, 0] / GRAVITY
    rate = to_sensor @ (turned[2 * n :] - turned[:n]) / (2 * _STEP)
    # A difference of rotations is skew-symmetric but for its error, which the other half removes.
    skew = (rate - rate.transpose(0, 2, 1)) / 2
    turning = np.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], axis=1)
    return np.concatenate([acceleration, np.degrees(turning)], axis=1)
