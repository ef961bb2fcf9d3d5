"""Volumes from NIfTI files and DICOM series: values, and where they are in the patient, in mm."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Shaped

from core.data.checks import DataError

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

NIFTI = (".nii.gz", ".nii")
_RIGHT_ANGLE = 0.01  # cosine between two axes above which they are not taken as orthogonal
_MM = {1: 1000.0, 3: 0.001}  # NIfTI's codes of metres and micrometres; all else is mm


@dataclass(frozen=True)
class Volume:
    """One volume, its axes as in the file.

    Attributes:
        values: HU for CT, after slope and intercept; in the file's own type where these do nothing.
        affine: voxel -> mm in RAS+: x to the patient's right, y to the front, z to the head.
    """

    values: Shaped[np.ndarray, "x y z"]
    affine: Float64[np.ndarray, "4 4"]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def axes(self) -> str:
        """Where each axis points to, e.g. `LPS`."""
        return axes_of(self.affine)


def read_volume(path: Path, frame: int | None = None, series: str | None = None) -> Volume:
    """Reads a NIfTI file or a folder with a DICOM series.

    Args:
        path: the file or the folder.
        frame: which volume of a 4-D file.
        series: SeriesInstanceUID, for a folder with several.

    Raises:
        DataError: it cannot be read, is not one volume, or does not say where its voxels are.
    """
    if path.is_dir():
        from medical.data.read_dicom import read_series

        volume = read_series(path, series)
    else:
        volume = _read_nifti(path, frame)
    check_affine(path, volume.affine)
    if volume.values.dtype.kind == "f" and not np.isfinite(volume.values).all():
        n_bad = int((~np.isfinite(volume.values)).sum())
        raise DataError(
            f"{n_bad} voxels are not numbers (NaN or infinite)",
            path=path,
            expected="a finite value in every voxel",
            fix="fill them, e.g. with -1024 in CT, or leave the case out",
        )
    return volume


def frames_of(path: Path) -> int:
    """How many volumes a file holds; a folder with a DICOM series holds one."""
    if path.is_dir():
        return 1
    shape = _nifti_shape(path, _open_nifti(path).shape)
    return shape[3] if len(shape) == 4 else 1


def geometry_of(
    path: Path, series: str | None = None
) -> tuple[tuple[int, int, int], Float64[np.ndarray, "4 4"]]:
    """Shape and affine from the headers alone, the volumes of a 4-D file each of this shape."""
    if path.is_dir():
        from medical.data.read_dicom import series_geometry

        return series_geometry(path, series)
    image = _open_nifti(path)
    x, y, z = _nifti_shape(path, image.shape)[:3]
    return (x, y, z), _nifti_affine(path, image)


def files_of(path: Path) -> list[Path]:
    """A file itself, or the files in a folder but those of the system, such as `.DS_Store`.

    Raises:
        DataError: there is no such file or folder.
    """
    if not path.exists():
        raise DataError("no such file", path=path)
    if not path.is_dir():
        return [path]
    return sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))


def axes_of(affine: Float64[np.ndarray, "4 4"]) -> str:
    """Where each axis points to, e.g. `LPS`: to the left, to the back, to the head."""
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(affine))


def to_axes(volume: Volume, axes: str = "RAS") -> Volume:
    """The same voxels with axes in another order and direction; the affine follows.

    No value changes: `to_axes(to_axes(volume), volume.axes)` is the volume. An oblique volume stays
    oblique, its axes those nearest to the named ones.
    """
    from nibabel.orientations import (
        apply_orientation,
        axcodes2ornt,
        inv_ornt_aff,
        io_orientation,
        ornt_transform,
    )

    change = ornt_transform(io_orientation(volume.affine), axcodes2ornt(axes))
    values = np.ascontiguousarray(apply_orientation(volume.values, change))
    affine = volume.affine @ inv_ornt_aff(change, volume.values.shape)
    return Volume(values, affine)


def check_affine(path: Path, affine: Float64[np.ndarray, "4 4"]) -> None:
    """Refuses an affine that does not place voxels.

    Raises:
        DataError: it is not finite, an axis has no length, or axes are not at right angles.
    """
    if not np.isfinite(affine).all():
        raise DataError(
            "the affine holds numbers that are not finite",
            path=path,
            expected="voxel to mm, 16 finite numbers",
            fix="write the affine anew from the scanner's files",
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-6:
        raise DataError(
            f"spacing of {' x '.join(f'{length:g}' for length in lengths)} mm",
            path=path,
            expected="a size above 0 along every axis",
            fix="write the spacing anew from the scanner's files",
        )
    unit = affine[:3, :3] / lengths
    cosines = np.abs(unit.T @ unit - np.eye(3)).max()
    if cosines > _RIGHT_ANGLE:
        raise DataError(
            f"two axes meet at {np.degrees(np.arccos(min(cosines, 1))):.1f} degrees (gantry tilt?)",
            path=path,
            expected="axes at right angles",
            fix="resample the volume to right angles first",
        )


def _open_nifti(path: Path) -> "SpatialImage":
    import nibabel

    if not path.exists():
        raise DataError("no such file", path=path)
    try:
        return nibabel.load(path)
    except _errors() as error:
        raise _unreadable(path, error) from None


def _errors() -> tuple[type[Exception], ...]:
    """What nibabel and gzip raise of a file that is damaged."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    return ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error


def _read_nifti(path: Path, frame: int | None) -> Volume:
    import nibabel

    image = _open_nifti(path)
    shape = _nifti_shape(path, image.shape)
    if len(shape) == 4 and frame is None:
        raise DataError(
            f"a 4-D file of {shape[3]} volumes, shape {tuple(image.shape)}",
            path=path,
            expected="one volume a file",
            fix="data.frames=split makes a case of each; or write the wanted one to a file",
        )
    if len(shape) == 4 and not 0 <= frame < shape[3]:
        raise DataError(f"no volume {frame}", path=path, expected=f"0 to {shape[3] - 1}")
    try:
        if path.suffix == ".gz" and isinstance(image, nibabel.Nifti1Image):
            # All of it, because only then gzip compares its checksum.
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        data = np.asanyarray(image.dataobj).reshape(shape)
    except _errors() as error:
        raise _unreadable(path, error) from None
    values = data[..., frame] if len(shape) == 4 else data
    if values.dtype.kind not in "iuf":
        raise DataError(
            f"voxels of type {values.dtype}",
            path=path,
            expected="one number a voxel",
            fix="write one channel, e.g. grey values, to the file",
        )
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    return Volume(values, _nifti_affine(path, image))


def _nifti_affine(path: Path, image: "SpatialImage") -> Float64[np.ndarray, "4 4"]:
    """Voxel -> mm in RAS+, whatever the unit of the file.

    Raises:
        DataError: neither sform nor qform is set, so that left and right would be a guess.
    """
    header = image.header
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise DataError(
            "neither sform nor qform is set: the file does not say which side is which",
            path=path,
            expected="an affine from voxels to the patient",
            fix="convert it anew from the scanner's files, or write its affine if you know it",
        )
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MM.get(int(header["xyzt_units"]) % 8, 1.0)
    return affine


def _nifti_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Three axes, or four with the volumes last; axes of length 1 around them do not count."""
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    # M3D-Cap's files have the channel first.
    if len(kept) == 4 and kept[0] == 1:
        kept = kept[1:]
    if len(kept) not in (3, 4) or min(kept) < 1:
        raise DataError(f"an array of shape {tuple(shape)}", path=path, expected="three axes")
    return kept


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(
        f"cannot be read ({reason.removesuffix('.')})",
        path=path,
        expected="a whole NIfTI file",
        fix="copy the file anew; it may be cut off",
    )
