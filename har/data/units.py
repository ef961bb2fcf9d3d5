"""Whether values can be of the unit that they are declared in."""

from pathlib import Path

import numpy as np

from core.data.checks import DataError
from core.data.findings import Findings, few
from har.data.recordings import IMU, SKELETON, Recordings

# A body at rest reads 1 g; its parts turn by 50 to 1,500 deg/s in daily life; it is under 3 m high.
_ACCELERATION = (0.3, 4.0)
_TURNING = (15.0, 5000.0)
_HEIGHT = (0.3, 5.0)


def check_units(path: Path, data: Recordings, findings: Findings) -> None:
    """Acceleration against gravity, angular rates and heights against those of a human.

    Args:
        path: the data set, for messages.
        data: the recordings, in g, deg/s and metres.
        findings: collects what is found.
    """
    acceleration = [n for n, name in enumerate(data.channels) if name.endswith("[g]")]
    turning = [n for n, name in enumerate(data.channels) if name.endswith("[deg/s]")]
    rests: dict[str, float] = {}
    fastest: dict[str, float] = {}
    heights: dict[str, float] = {}
    for recording in data.recordings:
        if IMU in recording.streams:
            values = recording.streams[IMU].values
            # Two sensors on one body are six channels.
            if acceleration and len(acceleration) % 3 == 0:
                triples = values[:, acceleration].reshape(len(values), -1, 3)
                rests[recording.name] = float(np.median(np.linalg.norm(triples, axis=2)))
            if turning:
                fastest[recording.name] = float(np.abs(values[:, turning]).max())
        if SKELETON in recording.streams:
            values = recording.streams[SKELETON].values
            extent = float(np.ptp(values[0], axis=0).max())
            # In the plane it is in pixels; in a point it was not tracked.
            if extent > 0 and np.ptp(values[..., 2]) > 0:
                heights[recording.name] = extent
    _compare(
        path,
        "imu: acceleration in g",
        "median",
        rests,
        _ACCELERATION,
        findings,
        (
            "gravity was taken out, or the values are g and declared m/s2",
            "the values are m/s2 and declared g",
        ),
    )
    # One who sits still turns slowly: only the whole data set can be too slow.
    slowest = {"the fastest": max(fastest.values())} if fastest else {}
    _compare(
        path,
        "imu: angular rate in deg/s",
        "largest",
        slowest,
        (_TURNING[0], np.inf),
        findings,
        ("the values are rad/s and declared deg/s", ""),
    )
    _compare(
        path,
        "imu: angular rate in deg/s",
        "largest",
        fastest,
        (0.0, _TURNING[1]),
        findings,
        ("", "the values are deg/s and declared rad/s"),
    )
    _compare(
        path,
        "skeleton: extent in m",
        "largest",
        heights,
        _HEIGHT,
        findings,
        ("the values are m and declared cm or mm", "the values are cm or mm and declared m"),
    )


def _compare(
    path: Path,
    what: str,
    which: str,
    values: dict[str, float],
    limits: tuple[float, float],
    findings: Findings,
    reasons: tuple[str, str],
) -> None:
    for side, reason in enumerate(reasons):
        beyond = [
            name
            for name, value in values.items()
            if (value < limits[0] if side == 0 else value > limits[1])
        ]
        if not beyond:
            continue
        found = float(np.median([values[name] for name in beyond]))
        said = (
            f"{what}: {which} {found:.3g} in {len(beyond)} of {len(values)} recordings "
            f"({few(beyond)})"
        )
        limit = f"{limits[0]:g} to {limits[1]:g}"
        findings.problem(DataError(said, path=path, expected=limit, fix=f"see whether {reason}"))
