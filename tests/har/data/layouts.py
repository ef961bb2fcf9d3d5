"""Tiny data sets in the layouts that the readers know."""

from pathlib import Path

import numpy as np
import polars as pl
import yaml
from scipy.io import savemat


def moving_skeleton(seconds: float, rate: float, seed: int = 0, n_joints: int = 20) -> np.ndarray:
    """(time, joints, 3) in metres: a body of about 1.8 m whose joints sway at 0.7 Hz."""
    draw = np.random.default_rng(seed)
    place = draw.uniform(-0.9, 0.9, (n_joints, 3)) * (0.3, 1.0, 0.2)
    place[0], place[1], place[2] = (0, 0.8, 0), (0, 0.5, 0), (0, 0.1, 0)
    times = np.arange(round(seconds * rate)) / rate
    phase = draw.uniform(0, 6, (n_joints, 3))
    sway = 0.1 * np.sin(2 * np.pi * 0.7 * times[:, None, None] + phase)
    return place + sway + (0.2, 0, 2.8)


def moving_imu(seconds: float, rate: float, seed: int = 0, n_gyro: int = 3) -> np.ndarray:
    """(time, 3 + n_gyro): acceleration of about 1 g, and some 100 deg/s."""
    draw = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    phase = draw.uniform(0, 6, 3 + n_gyro)
    waves = np.sin(2 * np.pi * 0.7 * times[:, None] + phase)
    return waves * ([0.2] * 3 + [100.0] * n_gyro) + ([0, 1.0, 0] + [0.0] * n_gyro)


def write_utd(
    folder: Path,
    actions: tuple[int, ...] = (1, 2),
    subjects: tuple[int, ...] = (1, 2, 3, 4),
    trials: tuple[int, ...] = (1, 2),
    frame_rate: float = 30.0,
) -> Path:
    """Clips of 2 to 3 s in UTD-MHAD's layout."""
    for kind in ("Skeleton", "Inertial"):
        (folder / kind).mkdir(parents=True)
    for a in actions:
        for s in subjects:
            for t in trials:
                seed = 1000 * a + 10 * s + t
                seconds = 2 + (seed % 11) / 10
                skeleton = moving_skeleton(seconds, frame_rate, seed).transpose(1, 2, 0)
                name = f"a{a}_s{s}_t{t}"
                savemat(folder / "Skeleton" / f"{name}_skeleton.mat", {"d_skel": skeleton})
                imu = moving_imu(seconds, 50.0, seed)
                savemat(folder / "Inertial" / f"{name}_inertial.mat", {"d_iner": imu})
    return folder


JOINTS = ["hip", "spine", "head", "left_hand", "right_hand"]
AXES = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]
DECLARED = {
    "skeleton": {
        "rate": 30,
        "unit": "mm",
        "joints": JOINTS,
        "edges": [["hip", "spine"], ["spine", "head"]],
        "root": "hip",
        "bone": ["hip", "spine"],
    },
    "imu": {
        "rate": 100,
        "channels": dict.fromkeys(AXES[:3], "m/s2") | dict.fromkeys(AXES[3:], "rad/s"),
    },
}


def team_values(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Skeleton in mm at 30 Hz, IMU in m/s2 and rad/s at 100 Hz."""
    imu = moving_imu(seconds, 100.0, seed)
    units = [9.80665] * 3 + [np.pi / 180] * 3
    return 1000 * moving_skeleton(seconds, 30.0, seed, n_joints=5), imu * units


def write_team(folder: Path, seconds: float = 4.0, declared: dict | None = None) -> Path:
    """Two recordings of each of four people, in a team's own layout, as .npz."""
    (folder / "recordings").mkdir(parents=True)
    (folder / "streams.yaml").write_text(yaml.safe_dump(declared or DECLARED))
    rows = []
    for number, (person, label) in enumerate(
        (person, label) for person in ("ann", "bob", "cho", "dee") for label in ("sit", "walk")
    ):
        skeleton, imu = team_values(seconds, number)
        name = f"{label}_{person}"
        np.savez(folder / "recordings" / f"{name}.npz", skeleton=skeleton, imu=imu)
        rows.append({"recording": name, "subject": person, "label": label})
    pl.DataFrame(rows).write_csv(folder / "subjects.csv")
    return folder
