"""The arrays that ssl-wearables (harnet) reads: `X.npy`, `Y.npy`, `pid.npy`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.data.checks import DataError
from core.data.findings import Findings
from har.data.recordings import IMU, SKELETON, Recording, Recordings, Stream
from har.data.splits import in_order

RATE = 30.0
CHANNELS = [f"acc_{axis} [g]" for axis in "xyz"]
_EXPECTED = {
    "X.npy": "numbers (n, 3, time): acceleration in g, gravity in, at 30 Hz",
    "Y.npy": "(n,) names or numbers of the activities",
    "pid.npy": "(n,) whose each is",
}


def read_harnet(
    path: str | Path, modalities: Sequence[str] = (IMU,), findings: Findings | None = None
) -> Recordings:
    """Reads windows of a wrist accelerometer as recordings of their own.

    Args:
        path: a folder with `X.npy`, (n, 3, time) or (n, time, 3), acceleration in g, gravity in, at
            30 Hz; `Y.npy`, activities by name or number, where an empty name, a negative number or
            NaN is unknown; `pid.npy`, the subjects.
        modalities: `("imu",)`; there are no skeletons.
        findings: collects problems where it is not strict.

    Raises:
        DataError: skeletons are asked for, a file is missing, cannot be read or has another shape,
            a window holds NaN, or there is none.
    """
    path, findings = Path(path), findings or Findings()
    if SKELETON in modalities:
        raise DataError("harnet's files hold no skeletons", path=path, fix="data.modalities=[imu]")
    windows, labels, subjects = (_array(path / name) for name in _EXPECTED)
    if windows.ndim == 3 and windows.shape[1] != 3 and windows.shape[2] == 3:
        windows = windows.transpose(0, 2, 1)
    if windows.ndim != 3 or windows.shape[1] != 3 or windows.shape[2] < 2:
        raise _shape(path / "X.npy", windows)
    if windows.dtype.kind not in "fiu":
        raise _shape(path / "X.npy", windows)
    for name, column in (("Y.npy", labels), ("pid.npy", subjects)):
        if column.shape != windows.shape[:1] or column.dtype.kind not in "iufUS":
            raise _shape(path / name, column, f", {len(windows)} of them as in X.npy")
    if subjects.dtype.kind == "f" and not np.isfinite(subjects).all():
        raise DataError("NaN", path=path / "pid.npy", expected=_EXPECTED["pid.npy"])
    names = ["" if _is_unknown(value) else str(_plain(value)) for value in labels.tolist()]
    classes = sorted(set(names) - {""}, key=in_order)
    number = {name: n for n, name in enumerate(classes)} | {"": -1}
    recordings = []
    width = len(str(len(windows) - 1))
    values = np.ascontiguousarray(windows.transpose(0, 2, 1), dtype=np.float32)
    good = np.isfinite(values).all((1, 2))
    for row in np.flatnonzero(~good).tolist():
        findings.problem(DataError(f"NaN or infinity in window {row}", path=path / "X.npy"))
    for row in np.flatnonzero(good).tolist():
        stream = Stream(values[row], RATE)
        subject = str(_plain(subjects[row].item()))
        recordings.append(Recording(f"w{row:0{width}}", subject, number[names[row]], {IMU: stream}))
    if not recordings:
        raise DataError("no window can be read", path=path / "X.npy", expected=_EXPECTED["X.npy"])
    return Recordings(recordings, classes, channels=list(CHANNELS))


def _is_unknown(label: object) -> bool:
    if isinstance(label, str | bytes):
        return label in ("", "-1", b"", b"-1")
    return isinstance(label, int | float) and not label >= 0  # NaN, too


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _array(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, allow_pickle=False)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})", path=file, expected=_EXPECTED[file.name]
        ) from error
    return array


def _shape(file: Path, array: np.ndarray, more: str = "") -> DataError:
    found = f"{array.dtype} of shape {list(array.shape)}"
    return DataError(found, path=file, expected=_EXPECTED[file.name] + more)
