"""DICOM series in folders: ordered by GDCM, values in HU, positions from LPS to RAS."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from core.data.checks import DataError
from medical.data.read_volume import Volume, files_of

if TYPE_CHECKING:
    from pydicom import FileDataset

_SAME = 1e-3  # by which spacing and direction may differ between slices
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
    """Whether a folder holds DICOM files."""
    return _first_dicom(folder) is not None


def read_series(folder: Path, series: str | None = None) -> Volume:
    """The one series in a folder, or the named one of several.

    Raises:
        DataError: several series and none named, a slice missing, slices that do not lie behind
            one another or differ in direction or spacing, CT without slope and intercept, or files
            that cannot be read.
    """
    import SimpleITK

    files = _files(folder, series)
    headers = _headers(files)
    affine = _affine(folder, headers)
    _check_rescale(folder, headers)
    reader = SimpleITK.ImageSeriesReader()
    if len({(_text(h, "RescaleSlope"), _text(h, "RescaleIntercept")) for h in headers}) > 1:
        # Otherwise all slices get the type that suits the first one, and lose their fractions.
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
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
    """PatientID of the first DICOM file in a folder."""
    first = _first_dicom(folder)
    return None if first is None else _text(_headers([first])[0], "PatientID") or None


def series_in(folder: Path) -> dict[str, list[Path]]:
    """SeriesInstanceUID -> its files, in the order in which they lie behind one another."""
    import SimpleITK

    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames
    return {name: [Path(file) for file in files(str(folder), name)] for name in names}


def _first_dicom(folder: Path) -> Path | None:
    for path in files_of(folder):
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return path
    return None


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
    wanted = {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}
    spacings, positions, orientations = (
        np.array([_numbers(header, name, n) for header in headers]) for name, n in wanted.items()
    )
    for name, of_slices in (
        ("ImageOrientationPatient", orientations),
        ("PixelSpacing", spacings),
    ):
        apart = np.abs(of_slices - of_slices[0]).max(1)
        if apart.max() > _SAME:
            other = int(apart.argmax())
            raise DataError(
                f"{name} {of_slices[0].tolist()} in slice 1, {of_slices[other].tolist()} in slice "
                f"{other + 1}",
                path=folder,
                expected="slices of one direction and spacing",
                fix="move those that are no part of the volume, such as a localizer, elsewhere",
            )
    first = headers[0]
    along_row, along_column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(along_row, along_column)
    between_rows, between_columns = spacings[0].tolist()
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


def _numbers(header: "FileDataset", name: str, n: int) -> list[float]:
    try:
        found = [float(number) for number in header.get(name) or []]
    except (TypeError, ValueError):
        found = []
    if len(found) != n:
        raise DataError(
            f"no {name}" if not found else f"{name} of {len(found)} numbers",
            path=header.filename,
            expected="tags that say where each slice lies",
        )
    return found


def _text(header: "FileDataset", name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()


def _check_rescale(folder: Path, headers: list["FileDataset"]) -> None:
    if _text(headers[0], "Modality") != "CT":
        return
    wanted = ("RescaleSlope", "RescaleIntercept")
    missing = [name for name in wanted if not all(_text(header, name) for header in headers)]
    if missing:
        raise DataError(
            f"CT without {' and '.join(missing)}",
            path=folder,
            expected="tags that make HU of the stored numbers",
            fix="export the series anew from the archive",
        )
