"""Recordings in whichever of the known formats they lie."""

from collections.abc import Callable, Sequence
from pathlib import Path

from core.data.checks import DataError
from core.data.findings import Findings
from har.data.harnet import read_harnet
from har.data.layout import STREAMS, read_layout, read_layout_file
from har.data.recordings import IMU, SKELETON, Recordings
from har.data.skeleton_pickle import read_skeleton_pickle
from har.data.utd_mhad import read_utd_clip, read_utd_mhad

_READERS: dict[str, Callable[..., Recordings]] = {
    "utd_mhad": read_utd_mhad,
    "layout": read_layout,
    "harnet": read_harnet,
    "skeleton_pickle": read_skeleton_pickle,
}
FORMATS = tuple(_READERS)
_EXPECTED = (
    f"a folder with Skeleton/ and Inertial/ (UTD-MHAD), with {STREAMS} (a team's own), with X.npy, "
    "Y.npy and pid.npy (harnet), or a .pkl file (skeletons)"
)


def read_recordings(
    path: str | Path,
    format: str = "auto",
    modalities: Sequence[str] = (SKELETON, IMU),
    findings: Findings | None = None,
) -> Recordings:
    """Reads a data set.

    Args:
        path: its folder or file.
        format: one of `FORMATS`; `auto` finds it from what lies in the folder.
        modalities: `skeleton`, `imu`, or both.
        findings: collects problems where it is not strict.

    Raises:
        DataError: there is nothing in a known format, or its reader refuses it.
    """
    path = Path(path)
    if not modalities or set(modalities) - {SKELETON, IMU}:
        raise DataError(
            f"data.modalities={list(modalities)}", expected=f"{SKELETON}, {IMU}, or both"
        )
    if not path.exists():
        raise DataError("no such folder or file", path=path, expected=_EXPECTED)
    name = _format_of(path) if format == "auto" else format
    if name not in _READERS:
        raise DataError(f"data.format={format}", expected=", ".join(("auto", *FORMATS)))
    return _READERS[name](path, modalities, findings=findings)


def read_recording(file: str | Path, modalities: Sequence[str] = (SKELETON, IMU)) -> Recordings:
    """Reads one recording from its own file, as it would come from a device.

    Args:
        file: a .npz or .parquet file of a team's own layout, or `aA_sS_tT_inertial.mat` or
            `aA_sS_tT_skeleton.mat`, whose partner is looked for.
        modalities: what to read.

    Raises:
        DataError: the file is not there, is in no known format, or its reader refuses it.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError("no such file", path=file)
    if file.suffix == ".mat":
        return read_utd_clip(file, modalities)
    if file.suffix in (".npz", ".parquet"):
        return read_layout_file(file, modalities)
    raise DataError("in no known format", path=file, expected=".npz, .parquet, or .mat of UTD-MHAD")


def _format_of(path: Path) -> str:
    if path.suffix in (".pkl", ".pickle"):
        return "skeleton_pickle"
    if (path / "Skeleton").is_dir() or (path / "Inertial").is_dir():
        return "utd_mhad"
    if (path / STREAMS).is_file():
        return "layout"
    if (path / "X.npy").is_file():
        return "harnet"
    if any(path.glob("*.pkl")) or any(path.glob("*.pickle")):
        return "skeleton_pickle"
    raise DataError("recordings in no known format", path=path, expected=_EXPECTED)
