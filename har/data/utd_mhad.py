"""UTD-MHAD: one .mat file a clip and sensor (Chen, Jafari, Kehtarnavaz, ICIP 2015)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.io import loadmat

from core.data.checks import DataError
from core.data.findings import Findings, few
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream

CLASSES = [
    "swipe_left",
    "swipe_right",
    "wave",
    "clap",
    "throw",
    "arm_cross",
    "basketball_shoot",
    "draw_x",
    "draw_circle_cw",
    "draw_circle_ccw",
    "draw_triangle",
    "bowling",
    "boxing",
    "baseball_swing",
    "tennis_swing",
    "arm_curl",
    "tennis_serve",
    "push",
    "knock",
    "catch",
    "pickup_throw",
    "jog",
    "walk",
    "sit2stand",
    "stand2sit",
    "lunge",
    "squat",
]
JOINTS = [
    "head",
    "shoulder_centre",
    "spine",
    "hip_centre",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "left_hand",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "right_hand",
    "left_hip",
    "left_knee",
    "left_ankle",
    "left_foot",
    "right_hip",
    "right_knee",
    "right_ankle",
    "right_foot",
]
_TRUNK = [(0, 1), (1, 2), (2, 3)]
_ARMS = [(1, 4), (4, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11)]
_LEGS = [(3, 12), (12, 13), (13, 14), (14, 15), (3, 16), (16, 17), (17, 18), (18, 19)]
EDGES = _TRUNK + _ARMS + _LEGS
CHANNELS = [f"acc_{axis} [g]" for axis in "xyz"] + [f"gyro_{axis} [deg/s]" for axis in "xyz"]
ROOT, BONE = 2, (1, 2)
RATES = {SKELETON: 30.0, IMU: 50.0}

_WRONG_RATE = 0.1
_FOLDERS = {SKELETON: "Skeleton", IMU: "Inertial"}
_KEYS = {SKELETON: "d_skel", IMU: "d_iner"}
_SUFFIXES = {SKELETON: "skeleton", IMU: "inertial"}
_SHAPES = {SKELETON: "(20, 3, time)", IMU: "(time, 6)"}
_NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)_(skeleton|inertial)\.mat")

Key = tuple[int, int, int]


def read_utd_mhad(
    path: str | Path,
    modalities: Sequence[str] = (SKELETON, IMU),
    skeleton_rate: float | None = None,
    findings: Findings | None = None,
) -> Recordings:
    """Reads `Skeleton/aA_sS_tT_skeleton.mat` and `Inertial/aA_sS_tT_inertial.mat`.

    The label is A - 1, the subject `S`. Clips that lack one of the modalities are left out.

    Both sensors of a clip were switched on and off together, but the skeletons are no 30 frames a
    second, as the data set's description says: by the clock of the IMU they are 19 (the IMU's own
    50 Hz is right: its angular rate, integrated, is the angle that the forearm turns by). Unless a
    rate is given, the skeleton of each clip is therefore taken to last as long as its IMU, where
    that is there.

    Args:
        path: the folder that holds `Skeleton` and `Inertial`; one of them may be absent where it
            is not asked for.
        modalities: what to read.
        skeleton_rate: frames a second, instead of those that follow from the IMU.
        findings: collects problems where it is not strict.

    Raises:
        DataError: a folder or all clips are missing, a file's name says no action, subject and
            trial, or it cannot be read, lacks its key, has another shape, or holds NaN.
    """
    path, findings = Path(path), findings or Findings()
    read = {name: _read_folder(path, name, findings) for name in modalities}
    common = sorted(set.intersection(*(set(clips) for clips in read.values())))
    for name, clips in read.items():
        alone = [_title(key) for key in sorted(set(clips) - set(common))]
        if alone:
            findings.warn(f"{path}: {few(alone)} left out, with {name} but nothing beside it")
    if not common:
        raise DataError("no clip has " + " and ".join(modalities), path=path)
    samples: dict[Key, int] = {}
    if SKELETON in modalities and skeleton_rate is None:
        samples = _imu_samples(path, common, read.get(IMU))
    recordings = []
    for key in common:
        streams = {}
        for name in modalities:
            values = read[name][key]
            rate = RATES[name]
            if name == SKELETON and skeleton_rate is not None:
                rate = skeleton_rate
            elif name == SKELETON and key in samples:
                rate = len(values) * RATES[IMU] / samples[key]
            streams[name] = Stream(values, rate)
        recordings.append(Recording(_title(key), str(key[1]), key[0] - 1, streams))
    if SKELETON in modalities:
        usual = float(np.median([r.streams[SKELETON].rate for r in recordings]))
        if abs(usual / RATES[SKELETON] - 1) > _WRONG_RATE:
            findings.note(
                f"{path}: skeletons have {usual:.4g} frames a second by the clock of the IMU, not "
                f"the {RATES[SKELETON]:g} of UTD-MHAD's description; each is taken to last as long "
                "as its IMU"
            )
    n_actions = max(action for action, _, _ in common)
    classes = CLASSES + [f"a{number}" for number in range(len(CLASSES) + 1, n_actions + 1)]
    return Recordings(recordings, classes, JOINTS, EDGES, CHANNELS, ROOT, BONE)


def read_utd_clip(file: str | Path, modalities: Sequence[str] = (SKELETON, IMU)) -> Recordings:
    """Reads one clip, given its skeleton or its inertial file; the other is found.

    The skeleton lasts as long as the IMU, as in `read_utd_mhad`, where that is there.

    Raises:
        DataError: as `read_utd_mhad`.
    """
    file = Path(file)
    key = _key(file)
    if key is None:
        raise _misnamed(file)
    files = {name: _beside(file, key, name) for name in (SKELETON, IMU)}
    values = {}
    for name in modalities:
        if (found := files[name]) is None:
            raise DataError(
                f"no {_file_name(key, name)} beside it",
                path=file,
                expected=f"it in the same folder or in {_FOLDERS[name]}/",
                fix=f"leave {name} out of the modalities",
            )
        values[name] = _read(found, name)
    rates = dict(RATES)
    if SKELETON in values and (imu := files[IMU]) is not None:
        samples = values[IMU] if IMU in values else _read(imu, IMU)
        rates[SKELETON] = len(values[SKELETON]) * RATES[IMU] / len(samples)
    streams = {name: Stream(found, rates[name]) for name, found in values.items()}
    clip = Recording(_title(key), str(key[1]), key[0] - 1, streams)
    return Recordings([clip], list(CLASSES), JOINTS, EDGES, CHANNELS, ROOT, BONE)


def _title(key: Key) -> str:
    return "a{}_s{}_t{}".format(*key)


def _key(file: Path) -> Key | None:
    match = _NAME.fullmatch(file.name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _misnamed(file: Path) -> DataError:
    return DataError(
        "the name says no action, subject and trial",
        path=file,
        expected="a name such as a1_s2_t3_inertial.mat, in Inertial/, or a1_s2_t3_skeleton.mat, "
        "in Skeleton/",
        fix="rename it or take it out of the folder",
    )


def _read_folder(path: Path, name: str, findings: Findings) -> dict[Key, np.ndarray]:
    folder = path / _FOLDERS[name]
    if not folder.is_dir():
        raise DataError(
            f"no folder {_FOLDERS[name]}",
            path=path,
            fix=f"leave {name} out of the modalities or put its files there",
        )
    clips: dict[Key, np.ndarray] = {}
    for file in sorted(folder.glob("*.mat")):
        key = _key(file)
        if key is None or min(key) < 1 or not file.stem.endswith(_SUFFIXES[name]):
            findings.problem(_misnamed(file))
        elif key in clips:
            findings.problem(DataError(f"a second file of {_title(key)}", path=file))
        else:
            with findings.going_on():
                clips[key] = _read(file, name)
    return clips


def _read(file: Path, name: str) -> Float[np.ndarray, "time ..."]:
    try:
        content = loadmat(file)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})", path=file, expected="a MATLAB file, version 4 to 7"
        ) from error
    key = _KEYS[name]
    if key not in content:
        found = ", ".join(k for k in content if not k.startswith("__")) or "nothing"
        raise DataError(f"no {key!r}; there is {found}", path=file)
    values = np.asarray(content[key])
    shaped = values.ndim == 3 if name == SKELETON else values.ndim == 2
    own = values.shape[:2] == (20, 3) if name == SKELETON else values.shape[1:] == (6,)
    if not (shaped and own and values.dtype.kind in "fiu" and min(values.shape) > 0):
        raise DataError(
            f"{key} is {values.dtype} of shape {values.shape}", path=file, expected=_SHAPES[name]
        )
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(f"{key} holds NaN or infinity at {bad} places", path=file)
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if name == SKELETON else values


def _imu_samples(path: Path, keys: list[Key], read: dict[Key, np.ndarray] | None) -> dict[Key, int]:
    """How many samples each clip's IMU gave, where it is there."""
    if read is not None:
        return {key: len(read[key]) for key in keys}
    files = {key: path / _FOLDERS[IMU] / _file_name(key, IMU) for key in keys}
    return {key: len(_read(file, IMU)) for key, file in files.items() if file.is_file()}


def _beside(file: Path, key: Key, name: str) -> Path | None:
    places = (file.parent, file.parent.parent / _FOLDERS[name])
    files = (folder / _file_name(key, name) for folder in places)
    return next((each for each in files if each.is_file()), None)


def _file_name(key: Key, name: str) -> str:
    return f"{_title(key)}_{_SUFFIXES[name]}.mat"
