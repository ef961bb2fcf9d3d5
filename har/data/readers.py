"""Recordings in whichever of the known formats they lie."""

from collections.abc import Sequence
from pathlib import Path

from core.data.checks import DataError
from har.data.findings import Findings
from har.data.recordings import IMU, SKELETON, Recordings
from har.data.utd_mhad import read_utd_clip, read_utd_mhad

FORMATS = ("utd_mhad",)
_EXPECTED = "a folder with Skeleton/ and Inertial/ (UTD-MHAD)"


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
    if format == "auto":
        format = _format_of(path)
    if format == "utd_mhad":
        return read_utd_mhad(path, modalities, findings=findings)
    raise DataError(f"data.format={format}", expected=", ".join(("auto", *FORMATS)))


def read_recording(file: str | Path, modalities: Sequence[str] = (SKELETON, IMU)) -> Recordings:
    """Reads one recording from its own file, as it would come from a device.

    Args:
        file: `aA_sS_tT_inertial.mat` or `aA_sS_tT_skeleton.mat`.
        modalities: what to read.

    Raises:
        DataError: the file is not there, is in no known format, or its reader refuses it.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError("no such file", path=file)
    if file.suffix == ".mat":
        return read_utd_clip(file, modalities)
    raise DataError("in no known format", path=file, expected="a .mat file of UTD-MHAD")


def _format_of(path: Path) -> str:
    if (path / "Skeleton").is_dir() or (path / "Inertial").is_dir():
        return "utd_mhad"
    raise DataError("recordings in no known format", path=path, expected=_EXPECTED)
