"""`streams.yaml`: what a team declares about its own recordings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from core.data.checks import DataError
from har.data.recordings import IMU, SKELETON

STANDARD_GRAVITY = 9.80665
LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
MOTIONS = {
    "g": ("g", 1.0),
    "m/s2": ("g", 1 / STANDARD_GRAVITY),
    "deg/s": ("deg/s", 1.0),
    "rad/s": ("deg/s", float(np.degrees(1.0))),
}

EXAMPLE = """\
skeleton:
  rate: 30                      # frames a second
  unit: m                       # m, cm or mm
  joints: [hip, spine, head, left_hand, right_hand]
  edges: [[hip, spine], [spine, head], [spine, left_hand], [spine, right_hand]]
  root: hip                     # becomes the origin
  bone: [hip, spine]            # becomes the unit of length
imu:
  time: time                    # a column of seconds; or rate: 100
  channels: {acc_x: m/s2, acc_y: m/s2, acc_z: m/s2, gyro_x: rad/s, gyro_y: rad/s, gyro_z: rad/s}
activities: [walk, sit]         # their order; left out: by name
"""


@dataclass(frozen=True)
class Clock:
    """A constant rate, a column of times, or both."""

    rate: float | None
    time: str | None


@dataclass(frozen=True)
class Declaration:
    """What `streams.yaml` says.

    Attributes:
        clocks: modality -> its clock; also says which modalities there are.
        joints: names.
        edges: pairs of numbers of joints.
        root: number of a joint.
        bone: numbers of two joints.
        metres: factor from the skeleton's unit.
        columns: names of the IMU's columns, in their order.
        channels: the same with the units inside, g and deg/s.
        factors: from the columns' units to those.
        activities: names, None where not declared.
    """

    clocks: dict[str, Clock]
    joints: list[str]
    edges: list[tuple[int, int]]
    root: int
    bone: tuple[int, int]
    metres: float
    columns: list[str]
    channels: list[str]
    factors: list[float]
    activities: list[str] | None


def read_declaration(file: Path) -> Declaration:
    """Reads and checks `streams.yaml`.

    Raises:
        DataError: it is no YAML, or a name, a unit, or a clock is missing or unknown.
    """
    try:
        said = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot be read ({reason[:200]})", path=file, expected=EXAMPLE) from error
    if not isinstance(said, dict) or not {SKELETON, IMU} & set(said):
        raise DataError("declares neither skeleton nor imu", path=file, expected=EXAMPLE)
    unknown = sorted(set(said) - {SKELETON, IMU, "activities"}, key=str)
    if unknown:
        raise DataError(f"unknown entry {unknown[0]}", path=file, expected=EXAMPLE)
    skeleton, imu = _section(file, said, SKELETON), _section(file, said, IMU)
    clocks = {
        name: _clock(file, name, section)
        for name, section in ((SKELETON, skeleton), (IMU, imu))
        if section
    }
    joints = _names(file, "skeleton.joints", skeleton.get("joints"))
    if skeleton and len(joints) < 2:
        raise DataError("skeleton.joints: at least two", path=file, expected=EXAMPLE)
    bone = _pair(file, joints, "bone", skeleton.get("bone")) if skeleton else (0, 1)
    channels = imu.get("channels", {})
    if imu and not (isinstance(channels, dict) and channels):
        raise DataError("imu.channels: a name and a unit each", path=file, expected=EXAMPLE)
    units = [_known(file, f"imu.channels.{c}", str(u), MOTIONS) for c, u in channels.items()]
    activities = said.get("activities")
    edges = _list(file, "skeleton.edges", skeleton.get("edges"))
    return Declaration(
        clocks=clocks,
        joints=joints,
        edges=[_pair(file, joints, "edges", edge) for edge in edges],
        root=_joint(file, joints, "root", skeleton.get("root")) if skeleton else 0,
        bone=bone,
        metres=_known(file, "skeleton.unit", str(skeleton.get("unit", "m")), LENGTHS),
        columns=[str(name) for name in channels],
        channels=[f"{name} [{unit}]" for name, (unit, _) in zip(channels, units, strict=True)],
        factors=[factor for _, factor in units],
        activities=None if activities is None else _names(file, "activities", activities),
    )


def _section(file: Path, said: dict[Any, Any], name: str) -> dict[str, Any]:
    section = said.get(name, {})
    if not isinstance(section, dict):
        raise DataError(f"{name} is {section!r}", path=file, expected=EXAMPLE)
    allowed = {SKELETON: {"unit", "joints", "edges", "root", "bone"}, IMU: {"channels"}}[name]
    unknown = sorted(set(section) - allowed - {"rate", "time"}, key=str)
    if unknown:
        raise DataError(f"unknown entry {name}.{unknown[0]}", path=file, expected=EXAMPLE)
    return section


def _clock(file: Path, name: str, section: dict[str, Any]) -> Clock:
    rate, time = section.get("rate"), section.get("time")
    if rate is None and time is None:
        raise DataError(
            f"{name}: no rate", path=file, expected="rate: HZ, or time: COLUMN of seconds"
        )
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (number and 0 < rate < float("inf")):
        raise DataError(f"{name}.rate={rate!r}", path=file, expected="samples a second")
    return Clock(None if rate is None else float(rate), None if time is None else str(time))


def _list(file: Path, where: str, said: object) -> list[Any]:
    if said is not None and not isinstance(said, list):
        raise DataError(f"{where}: {said!r}", path=file, expected="a list")
    return said or []


def _names(file: Path, where: str, said: object) -> list[str]:
    names = [str(name) for name in _list(file, where, said)]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: a name twice", path=file, expected="different names")
    return names


def _known(file: Path, where: str, unit: str, known: dict[str, Any]) -> Any:  # noqa: ANN401
    unit = unit.replace("²", "2").replace("^2", "2").replace("°", "deg")
    if unit not in known:
        raise DataError(f"{where}: unit {unit!r}", path=file, expected=", ".join(known))
    return known[unit]


def _joint(file: Path, joints: list[str], where: str, name: object) -> int:
    if str(name) not in joints:  # YAML takes a joint that is called 0 for a number
        raise DataError(
            f"skeleton.{where} names {name!r}", path=file, expected=", ".join(joints) or "a joint"
        )
    return joints.index(str(name))


def _pair(file: Path, joints: list[str], where: str, pair: object) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise DataError(f"skeleton.{where}: {pair!r}", path=file, expected="pairs of two joints")
    return _joint(file, joints, where, pair[0]), _joint(file, joints, where, pair[1])
