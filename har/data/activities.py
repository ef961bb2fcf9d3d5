"""The 27 activities of UTD-MHAD as joint angles over time.

An activity runs over the phase u, 0 at its start and 1 at its end. Keyframes (u, value) are offsets
from the rest pose, with smooth steps between them. The degrees of freedom are named by two letters:

    side or part   r, l right and left arm; q, j right and left leg
    arms           h horizontal adduction, f flexion, a abduction, r axial rotation,
                   e elbow, p pronation, w wrist
    legs           f hip flexion, k knee
    trunk          tw twist, ro roll, ln lean
    pelvis         dy up, dz back, in metres; all others are degrees
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

Phase = Float64[np.ndarray, " time"]
Offsets = dict[str, Phase]
Keyframes = Sequence[tuple[float, float]]


def smooth_step(x: Phase) -> Phase:
    """0 below 0, 1 above 1, 10 x³ - 15 x⁴ + 6 x⁵ between: no jump in speed or acceleration."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


@dataclass(frozen=True)
class Activity:
    """One row of the table.

    Attributes:
        name: as UTD-MHAD calls it.
        seconds: how long it takes at a tempo of 1.
        keyframes: one or more degrees of freedom, separated by spaces -> their keyframes.
        knees: for feet that stay on the ground, the hips' flexion as a share of the knees', and
            the keyframes of both knees.
        more: offsets that are added to those of the keyframes, as a function of the phase.
    """

    name: str
    seconds: float
    keyframes: Mapping[str, Keyframes] = field(default_factory=dict)
    knees: tuple[float, Keyframes] | None = None
    more: Callable[[Phase], Offsets] | None = None

    def offsets(self, phase: Phase) -> Offsets:
        """Offsets from the rest pose at `phase`, (time,), of the degrees of freedom that move."""
        moves = {
            name: _between(phase, frames)
            for names, frames in self.keyframes.items()
            for name in names.split()
        }
        if self.knees is not None:
            ratio, frames = self.knees
            bend = _between(phase, frames)
            moves |= {"qk": bend, "jk": bend, "qf": ratio * bend, "jf": ratio * bend}
        if self.more is not None:
            for name, offset in self.more(phase).items():
                moves[name] = moves[name] + offset if name in moves else offset
        return moves


def _between(phase: Phase, keyframes: Keyframes) -> Phase:
    value = np.full_like(phase, keyframes[0][1])
    for (u, start), (v, end) in itertools.pairwise(keyframes):
        value += (end - start) * smooth_step((phase - u) / (v - u))
    return value


def _window(phase: Phase, a: float, b: float, c: float, d: float) -> Phase:
    """0 before a, 1 from b to c, 0 after d."""
    return smooth_step((phase - a) / (b - a)) - smooth_step((phase - c) / (d - c))


def _shaking(
    names: str,
    degrees: float,
    window: tuple[float, float, float, float],
    cycles: int,
    span: float,
) -> Callable[[Phase], Offsets]:
    """Sines of `cycles` periods in `span`, from a phase of a quarter on."""

    def offsets(phase: Phase) -> Offsets:
        swing = np.sin(2 * np.pi * cycles * (phase - 0.25) / span)
        return dict.fromkeys(names.split(), degrees * _window(phase, *window) * swing)

    return offsets


def _circling(degrees: float) -> Callable[[Phase], Offsets]:
    """The right arm once around a circle, in the direction of the sign."""

    def offsets(phase: Phase) -> Offsets:
        window = _window(phase, 0.12, 0.2, 0.8, 0.88)
        turn = 2 * np.pi * smooth_step((phase - 0.2) / 0.6)
        return {"rf": 25 * window * np.cos(turn), "rh": degrees * window * np.sin(turn)}

    return offsets


def _gait(
    strides: int,
    hip: tuple[float, float],
    knee: tuple[float, float],
    lag: float,
    arm: float,
    bounce: float,
) -> Callable[[Phase], Offsets]:
    """Strides on the spot: mean and swing of hips and knees, the arms against them.

    `lag` is in radians of a stride by which the knees follow the hips; `bounce` is in metres.
    """

    def offsets(phase: Phase) -> Offsets:
        window = _window(phase, 0.02, 0.1, 0.9, 0.98)
        stride = 2 * np.pi * strides * (phase - 0.06) / 0.88
        swing, late = np.sin(stride), np.sin(stride - lag)
        return {
            "qf": window * (hip[0] + hip[1] * swing),
            "jf": window * (hip[0] - hip[1] * swing),
            "qk": window * (knee[0] + knee[1] * late),
            "jk": window * (knee[0] - knee[1] * late),
            "rf": -arm * window * swing,
            "lf": arm * window * swing,
            "dy": bounce * window * np.cos(2 * stride),
        }

    return offsets


ACTIVITIES = (
    Activity(
        "swipe_left",
        2.0,
        {
            "rf": ((0.05, 0), (0.3, 85), (0.7, 85), (0.95, 0)),
            "rh": ((0.05, 0), (0.3, -45), (0.65, 60), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 15), (0.7, 15), (0.95, 0)),
        },
    ),
    Activity(
        "swipe_right",
        2.0,
        {
            "rf": ((0.05, 0), (0.3, 85), (0.7, 85), (0.95, 0)),
            "rh": ((0.05, 0), (0.3, 60), (0.65, -45), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 15), (0.7, 15), (0.95, 0)),
        },
    ),
    Activity(
        "wave",
        2.6,
        {
            "rf": ((0.05, 0), (0.3, 40), (0.7, 40), (0.95, 0)),
            "ra": ((0.05, 0), (0.3, 60), (0.7, 60), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 85), (0.7, 85), (0.95, 0)),
        },
        more=_shaking("rr", 25, (0.2, 0.3, 0.75, 0.85), cycles=4, span=0.55),
    ),
    Activity(
        "clap",
        2.4,
        {
            "rf lf": ((0.05, 0), (0.3, 70), (0.7, 70), (0.95, 0)),
            "re le": ((0.05, 0), (0.3, 30), (0.7, 30), (0.95, 0)),
            "rh lh": ((0.05, 0), (0.3, 12), (0.7, 12), (0.95, 0)),
        },
        more=_shaking("rh lh", 20, (0.2, 0.3, 0.7, 0.8), cycles=3, span=0.5),
    ),
    Activity(
        "throw",
        2.2,
        {
            "rf": ((0.05, 0), (0.35, 110), (0.5, 130), (0.7, 40), (0.95, 0)),
            "ra": ((0.05, 0), (0.35, 50), (0.7, 0)),
            "re": ((0.05, 0), (0.35, 100), (0.5, 110), (0.65, 10), (0.95, 0)),
            "tw": ((0.1, 0), (0.4, -25), (0.65, 25), (0.95, 0)),
        },
    ),
    Activity(
        "arm_cross",
        2.4,
        {
            "rf lf": ((0.05, 0), (0.3, 55), (0.7, 55), (0.95, 0)),
            "rh lh": ((0.05, 0), (0.3, 50), (0.7, 50), (0.95, 0)),
            "re le": ((0.05, 0), (0.3, 80), (0.7, 80), (0.95, 0)),
        },
    ),
    Activity(
        "basketball_shoot",
        2.4,
        {
            "rf": ((0.05, 0), (0.3, 60), (0.45, 60), (0.65, 140), (0.75, 140), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 100), (0.45, 110), (0.65, 10), (0.75, 10), (0.95, 0)),
            "lf": ((0.05, 0), (0.3, 55), (0.45, 55), (0.65, 120), (0.75, 120), (0.95, 0)),
            "le": ((0.05, 0), (0.3, 95), (0.45, 100), (0.65, 20), (0.75, 20), (0.95, 0)),
        },
        knees=(0.5, ((0.05, 0), (0.35, 40), (0.6, 0))),
    ),
    Activity(
        "draw_x",
        2.8,
        {
            "rf": ((0.03, 0), (0.2, 105), (0.42, 60), (0.58, 105), (0.8, 60), (0.97, 0)),
            "rh": ((0.03, 0), (0.2, -25), (0.42, 25), (0.58, 25), (0.8, -25), (0.97, 0)),
            "re": ((0.03, 0), (0.2, 12), (0.8, 12), (0.97, 0)),
        },
    ),
    Activity(
        "draw_circle_cw",
        2.6,
        {
            "rf": ((0.03, 0), (0.2, 80), (0.8, 80), (0.97, 0)),
            "re": ((0.03, 0), (0.2, 12), (0.8, 12), (0.97, 0)),
        },
        more=_circling(-25),
    ),
    Activity(
        "draw_circle_ccw",
        2.6,
        {
            "rf": ((0.03, 0), (0.2, 80), (0.8, 80), (0.97, 0)),
            "re": ((0.03, 0), (0.2, 12), (0.8, 12), (0.97, 0)),
        },
        more=_circling(25),
    ),
    Activity(
        "draw_triangle",
        2.8,
        {
            "rf": ((0.03, 0), (0.2, 105), (0.4, 62), (0.6, 62), (0.8, 105), (0.97, 0)),
            "rh": ((0.2, 0), (0.4, -28), (0.6, 28), (0.8, 0)),
            "re": ((0.03, 0), (0.2, 12), (0.8, 12), (0.97, 0)),
        },
    ),
    Activity(
        "bowling",
        2.4,
        {
            "rf": ((0.05, 0), (0.3, -45), (0.6, 80), (0.75, 70), (0.95, 0)),
            "ln": ((0.05, 0), (0.3, 30), (0.6, 35), (0.95, 0)),
        },
        knees=(0.5, ((0.05, 0), (0.35, 35), (0.6, 40), (0.95, 0))),
    ),
    Activity(
        "boxing",
        2.8,
        {
            "re": (
                (0.03, 0),
                (0.15, 105),
                (0.27, 5),
                (0.39, 105),
                (0.63, 105),
                (0.75, 5),
                (0.87, 105),
                (0.97, 0),
            ),
            "rf": (
                (0.03, 0),
                (0.15, 40),
                (0.27, 85),
                (0.39, 40),
                (0.63, 40),
                (0.75, 85),
                (0.87, 40),
                (0.97, 0),
            ),
            "le": ((0.03, 0), (0.15, 105), (0.39, 105), (0.51, 5), (0.63, 105), (0.97, 0)),
            "lf": ((0.03, 0), (0.15, 40), (0.39, 40), (0.51, 85), (0.63, 40), (0.97, 0)),
            "tw": ((0.15, 0), (0.27, 15), (0.39, 0), (0.51, -15), (0.63, 0), (0.75, 15), (0.87, 0)),
        },
    ),
    Activity(
        "baseball_swing",
        2.0,
        {
            "rf lf": ((0.05, 0), (0.3, 60), (0.7, 60), (0.95, 0)),
            "rh": ((0.05, 0), (0.3, -40), (0.55, 70), (0.95, 0)),
            "lh": ((0.05, 0), (0.3, 70), (0.55, -40), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 50), (0.7, 50), (0.95, 0)),
            "le": ((0.05, 0), (0.3, 25), (0.7, 25), (0.95, 0)),
            "tw": ((0.05, 0), (0.3, -40), (0.55, 45), (0.95, 0)),
        },
    ),
    Activity(
        "tennis_swing",
        2.2,
        {
            "rf": ((0.05, 0), (0.3, 35), (0.55, 75), (0.7, 90), (0.95, 0)),
            "rh": ((0.05, 0), (0.3, -70), (0.55, 30), (0.7, 60), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 20), (0.55, 20), (0.7, 65), (0.95, 0)),
            "tw": ((0.05, 0), (0.3, -30), (0.6, 30), (0.95, 0)),
        },
    ),
    Activity(
        "arm_curl",
        2.8,
        {
            "re le": ((0.05, 0), (0.25, 120), (0.45, 0), (0.55, 0), (0.75, 120), (0.95, 0)),
        },
    ),
    Activity(
        "tennis_serve",
        2.6,
        {
            "lf": ((0.05, 0), (0.3, 150), (0.45, 150), (0.7, 30), (0.95, 0)),
            "rf": ((0.05, 0), (0.35, 100), (0.5, 165), (0.65, 90), (0.8, 20), (0.95, 0)),
            "ra": ((0.05, 0), (0.35, 60), (0.5, 20), (0.65, 0)),
            "re": ((0.05, 0), (0.35, 105), (0.45, 115), (0.58, 0), (0.95, 0)),
            "ln": ((0.2, 0), (0.4, -12), (0.65, 20), (0.95, 0)),
        },
    ),
    Activity(
        "push",
        2.0,
        {
            "rf lf": ((0.05, 0), (0.25, 40), (0.5, 85), (0.65, 85), (0.95, 0)),
            "re le": ((0.05, 0), (0.25, 105), (0.5, 5), (0.65, 5), (0.95, 0)),
        },
    ),
    Activity(
        "knock",
        2.4,
        {
            "rf": ((0.05, 0), (0.3, 65), (0.7, 65), (0.95, 0)),
            "re": ((0.05, 0), (0.3, 80), (0.7, 80), (0.95, 0)),
        },
        more=_shaking("re", 14, (0.2, 0.3, 0.7, 0.8), cycles=4, span=0.5),
    ),
    Activity(
        "catch",
        2.0,
        {
            "rf": ((0.05, 0), (0.35, 85), (0.5, 85), (0.7, 50), (0.95, 0)),
            "re": ((0.05, 0), (0.35, 20), (0.5, 30), (0.7, 90), (0.95, 0)),
            "rh": ((0.05, 0), (0.3, 10), (0.7, 10), (0.95, 0)),
        },
    ),
    Activity(
        "pickup_throw",
        3.0,
        {
            "ln": ((0.03, 0), (0.2, 65), (0.3, 65), (0.45, 0)),
            "rf": ((0.03, 0), (0.2, 75), (0.3, 75), (0.5, 120), (0.6, 130), (0.75, 40), (0.97, 0)),
            "re": ((0.3, 0), (0.5, 95), (0.6, 100), (0.72, 5), (0.97, 0)),
            "ra": ((0.3, 0), (0.5, 45), (0.72, 0)),
        },
        knees=(0.5, ((0.03, 0), (0.2, 45), (0.3, 45), (0.45, 0))),
    ),
    Activity(
        "jog",
        3.2,
        {
            "re le": ((0.02, 0), (0.1, 65), (0.9, 65), (0.98, 0)),
        },
        more=_gait(5, hip=(20, 28), knee=(50, 40), lag=0.9, arm=30, bounce=0.04),
    ),
    Activity(
        "walk",
        3.6,
        {
            "re le": ((0.02, 0), (0.1, 10), (0.9, 10), (0.98, 0)),
        },
        more=_gait(3, hip=(18, 22), knee=(30, 28), lag=0.6, arm=20, bounce=0.015),
    ),
    Activity(
        "sit2stand",
        2.0,
        {
            "ln": ((0.05, 0), (0.3, 30), (0.5, 28), (0.8, 0)),
        },
        knees=(1.0, ((0.25, 90), (0.7, 0))),
    ),
    Activity(
        "stand2sit",
        2.0,
        {
            "ln": ((0.1, 0), (0.45, 28), (0.65, 25), (0.95, 0)),
        },
        knees=(1.0, ((0.25, 0), (0.7, 90))),
    ),
    Activity(
        "lunge",
        2.8,
        {
            "jf": ((0.05, 0), (0.35, 62), (0.6, 62), (0.95, 0)),
            "jk": ((0.05, 0), (0.35, 70), (0.6, 70), (0.95, 0)),
            "qf": ((0.05, 0), (0.35, -10), (0.6, -10), (0.95, 0)),
            "qk": ((0.05, 0), (0.35, 60), (0.6, 60), (0.95, 0)),
            "dy": ((0.05, 0), (0.35, -0.235), (0.6, -0.235), (0.95, 0)),
            "dz": ((0.05, 0), (0.35, -0.25), (0.6, -0.25), (0.95, 0)),
        },
    ),
    Activity(
        "squat",
        2.8,
        {
            "rf lf": ((0.05, 0), (0.4, 85), (0.55, 85), (0.95, 0)),
            "ln": ((0.05, 0), (0.4, 30), (0.55, 30), (0.95, 0)),
        },
        knees=(0.55, ((0.05, 0), (0.4, 100), (0.55, 100), (0.95, 0))),
    ),
)
