"""DICOM series in folders: ordered by GDCM, values in HU, positions from LPS to RAS."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from core.data.checks import DataError
from medical.data.read_volume import Volume

if TYPE_CHECKING:
    from pydicom import FileDataset

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TAGS = (
    "Modality",
    "PatientID",
    "SeriesDescription",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "SpacingBetweenSlices",
    "SliceThickness",
)


def is_series(folder: Path) -> bool:
    """Whether a folder holds DICOM files; decided by the first file in it."""
    first = next((file for file in sorted(folder.iterdir()) if file.is_file()), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_series(folder: Path, series: str | None = None) -> Volume:
    """The one series in a folder, or the named one of several.

    Raises:
        DataError: several series and none named, a slice missing, slices that do not lie behind
            one another, CT without slope and intercept, or files that cannot be read.
    """
    import SimpleITK

    files = _files(folder, series)
    headers = _headers(files)
    affine = _affine(folder, headers)
    _check_rescale(folder, headers)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        values = SimpleITK.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"cannot be read ({reason})", path=folder) from None
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    return Volume(values, affine)


def series_geometry(
    folder: Path, series: str | None = None
) -> tuple[tuple[int, int, int], Float64[np.ndarray, "4 4"]]:
    """Shape and affine from the headers alone."""
    headers = _headers(_files(folder, series))
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    return shape, _affine(folder, headers)


def patient_of(folder: Path) -> str | None:
    """PatientID of the first file in a folder."""
    first = next(file for file in sorted(folder.iterdir()) if file.is_file())
    return str(_headers([first])[0].get("PatientID", "")) or None


def series_in(folder: Path) -> dict[str, list[Path]]:
    """SeriesInstanceUID -> its files, in the order in which they lie behind one another."""
    import SimpleITK

    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames
    return {name: [Path(file) for file in files(str(folder), name)] for name in names}


def _files(folder: Path, series: str | None) -> list[Path]:
    found = series_in(folder)
    if not found:
        raise DataError("no DICOM series", path=folder)
    if series is not None and series not in found:
        raise DataError(f"no series {series}", path=folder, expected=" or ".join(found))
    if series is None and len(found) > 1:
        first = {name: _headers(files[:1])[0] for name, files in found.items()}
        told = "; ".join(
            f"{name} ({first[name].get('SeriesDescription', 'no description')}, {len(files)} files)"
            for name, files in found.items()
        )
        raise DataError(
            f"{len(found)} series: {told}",
            path=folder,
            expected="one series a folder",
            fix="move each into a folder of its own, or name one: data.series=UID",
        )
    return found[series or next(iter(found))]


def _headers(files: list[Path]) -> list["FileDataset"]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    headers = []
    for file in files:
        try:
            headers.append(
                pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            )
        except (InvalidDicomError, OSError, ValueError) as error:
            raise DataError(f"cannot be read ({error})", path=file) from None
    return headers


def _affine(folder: Path, headers: list["FileDataset"]) -> Float64[np.ndarray, "4 4"]:
    """Voxel -> mm in RAS+, columns of the images first."""
    wanted = ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    missing = [name for name in wanted if any(name not in header for header in headers)]
    if missing:
        raise DataError(
            f"no {', '.join(missing)}",
            path=folder,
            expected="tags that say where each slice lies",
        )
    first = headers[0]
    orientation = np.array(first.ImageOrientationPatient, dtype=np.float64)
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    between_rows, between_columns = (float(mm) for mm in first.PixelSpacing)
    positions = np.array([h.ImagePositionPatient for h in headers], dtype=np.float64)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * between_columns, along_column * between_rows
    affine[:3, 2] = normal * float(
        first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1
    )
    if len(headers) > 1:
        steps = np.diff(positions, axis=0)
        gaps = np.linalg.norm(steps, axis=1)
        usual = float(np.median(gaps))
        if usual == 0 or np.abs(gaps - usual).max() > 0.05 * usual:
            worst = int(np.abs(gaps - usual).argmax())
            raise DataError(
                f"slices {worst + 1} and {worst + 2} are {gaps[worst]:.3g} mm apart, "
                f"most are {usual:.3g}",
                path=folder,
                expected="slices at even distances",
                fix="look for a slice that is missing or there twice",
            )
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(headers) - 1)
    affine[:3, 3] = positions[0]
    return _TO_RAS @ affine


def _check_rescale(folder: Path, headers: list["FileDataset"]) -> None:
    if str(headers[0].get("Modality", "")) != "CT":
        return
    missing = [name for name in ("RescaleSlope", "RescaleIntercept") if name not in headers[0]]
    if missing:
        raise DataError(
            f"CT without {' and '.join(missing)}",
            path=folder,
            expected="tags that make HU of the stored numbers",
            fix="export the series anew from the archive",
        )
