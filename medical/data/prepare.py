"""From a file to a prepared volume: orientation, intensity, spacing, crop and padding, all fixed.

As in VELVET-Med: RAS, intensities to 0..1, linear resampling, crop to what is above 0, padding to
the cube, whole volume as a cube. The authors give MONAI a minimal spacing of 1 mm too; it lowers
that to the wanted spacing where it is larger, so with theirs it changes nothing, and it is no
argument here.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, pad

from core.data.cache import cached
from core.data.checks import DataError
from medical.data.layouts import CaseFiles
from medical.data.prepared import Prepared
from medical.data.read_volume import (
    Volume,
    check_affine,
    files_of,
    geometry_of,
    read_volume,
    to_axes,
)

# To be raised when the same file would give another result.
_VERSION = 2
_HU = (-4096, 32767)
_PERCENTILES = (0.5, 99.5)
_SHIFTED = 0.1  # mm that a segmentation may lie beside its volume


@dataclass(frozen=True)
class Preparation:
    """How every volume is prepared.

    Args:
        size: side of the cubes in voxels.
        spacing: of the voxels in mm, to the right, the front and the head.
        intensity: what becomes 0 to 1. `window`: HU from one number to another; `bytes`: 0 to 255;
            `percentiles`: from the 0.5th to the 99.5th percentile of the volume's voxels above its
            minimum, for MR, whose numbers have no unit.
        window: HU of 0 and of 1.
        series: SeriesInstanceUID, for a DICOM folder with several.

    Raises:
        DataError: one of them cannot be.
    """

    size: int = 96
    spacing: tuple[float, float, float] = (1.0, 1.0, 0.5)
    intensity: str = "window"
    window: tuple[float, float] = (-175.0, 250.0)
    series: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"data.size={self.size}", expected="at least one voxel")
        if min(self.spacing) <= 0:
            raise DataError(
                f"data.spacing={list(self.spacing)}", expected="three sizes in mm above 0"
            )
        if self.intensity not in ("window", "bytes", "percentiles"):
            raise DataError(
                f"data.intensity={self.intensity}", expected="window, bytes or percentiles"
            )
        if self.window[0] >= self.window[1]:
            raise DataError(
                f"data.window={list(self.window)}", expected="two HU, the lower first: [-175, 250]"
            )


def prepare_case(files: CaseFiles, how: Preparation, classes: Sequence[str] = ()) -> Prepared:
    """Reads a case and applies the deterministic transforms, on the CPU.

    `classes` are those that a segmentation may have; any where there are no names.

    Raises:
        DataError: a file cannot be used, or volume and segmentation do not lie over each other.
    """
    volume = read_volume(files.image, files.frame, how.series)
    check_intensity(files.image, volume.values, how)
    label = None
    if files.label is not None:
        label = read_volume(files.label)
        check_label(files, volume, label, classes)
        # By the same affine: rounding must not decide that they are turned differently.
        label = to_axes(Volume(label.values, volume.affine))
    volume = to_axes(volume)
    scaled = scale(torch.from_numpy(volume.values.astype(np.float32)), how)
    image, affine = resample(scaled, volume, how.spacing)
    above = image > 0
    if not bool(above.any()):
        low = how.window[0] if how.intensity == "window" else float(volume.values.min())
        raise DataError(
            f"no voxel is above {low:g}: the volume is black",
            path=files.image,
            fix="choose data.intensity and data.window for these files",
        )
    labels = None
    if label is not None:
        values = torch.from_numpy(label.values.astype(np.uint8))
        labels = resample(values, volume, how.spacing, nearest=True)[0]
    boxes = [_extent(above.any(2).any(1)), _extent(above.any(2).any(0))]
    boxes.append(_extent(above.any(1).any(0)))
    before = [max(how.size - (stop - start), 0) // 2 for start, stop in boxes]
    first = [start - more for (start, _), more in zip(boxes, before, strict=True)]
    affine[:3, 3] += affine[:3, :3] @ np.array(first, dtype=np.float64)
    image = _cut(image, boxes, before, how.size)
    return Prepared(
        _bytes(image),
        _bytes(whole_cube(image, how.size)),
        torch.from_numpy(affine),
        None if labels is None else _cut(labels, boxes, before, how.size),
    )


def read_prepared(
    files: CaseFiles, how: Preparation, classes: Sequence[str] = (), use_cache: bool = True
) -> Prepared:
    """`prepare_case`, from the cache where the same files were prepared in the same way before."""

    def compute() -> dict[str, Tensor]:
        case = prepare_case(files, how, classes)
        parts = {"voxels": case.voxels, "whole": case.whole, "affine": case.affine}
        return parts if case.labels is None else parts | {"labels": case.labels}

    if not use_cache:
        return prepare_case(files, how, classes)
    key = f"{_VERSION} {astuple(how)} {files.frame} {_stamp(files.image)}"
    key += f" {_stamp(files.label)} {list(classes)}" if files.label is not None else ""
    return Prepared(**cached("volumes", key, compute)[0])


def scale(values: Float[Tensor, "x y z"], how: Preparation) -> Float[Tensor, "x y z"]:
    """Intensities to 0..1, cut off at both ends."""
    low, high = how.window
    if how.intensity == "bytes":
        low, high = 0.0, 255.0
    elif how.intensity == "percentiles":
        seen = values[values > values.min()].numpy()
        low, high = np.percentile(seen, _PERCENTILES).tolist() if seen.size else (0.0, 1.0)
    return ((values - low) / max(high - low, 1e-6)).clamp(0, 1)


def resample(
    values: Shaped[Tensor, "x y z"],
    volume: Volume,
    spacing: tuple[float, float, float],
    nearest: bool = False,
) -> tuple[Shaped[Tensor, "u v w"], Float[np.ndarray, "4 4"]]:
    """Values on a grid of another spacing, whose first voxel lies where that of the volume does.

    The axes keep their directions, so it goes axis by axis: linear between two voxels, or the
    nearest one; beyond the last voxel its value goes on. The same as MONAI's `Spacing`, without its
    dense grid of positions, but for oblique affines, where rounding decides in MONAI whether first
    voxels or centres come to lie over each other.

    Returns:
        The values, and their affine.
    """
    affine = volume.affine.copy()
    for axis, (old, new) in enumerate(zip(volume.spacing, spacing, strict=True)):
        n_old = values.shape[axis]
        n_new = _n_resampled(n_old, old, new)
        affine[:3, axis] *= new / old
        if abs(new / old - 1) < 1e-6:
            continue
        places = (torch.arange(n_new, dtype=torch.float64) * (new / old)).clamp(max=n_old - 1)
        if nearest:
            values = values.index_select(axis, places.round().long())
            continue
        below = places.long()
        weight = (places - below).to(values.dtype)
        weight = weight.view([-1 if i == axis else 1 for i in range(3)])
        low = values.index_select(axis, below)
        high = values.index_select(axis, (below + 1).clamp(max=n_old - 1))
        values = torch.lerp(low, high, weight)
    return values, affine


def _n_resampled(n: int, old: float, new: float) -> int:
    """Voxels along an axis after a change of their size in mm."""
    return round((n - 1) * old / new) + 1


def whole_cube(image: Float[Tensor, "x y z"], size: int) -> Float[Tensor, "size size size"]:
    """Slices at even, rounded places along the last axis, then resized by areas."""
    slices = slice_places(image.shape[2], size)
    return adaptive_avg_pool3d(image[:, :, slices][None], (size, size, size))[0]


def slice_places(n_slices: int, size: int) -> Shaped[Tensor, " size"]:
    """Which slices the whole volume is seen by."""
    return torch.from_numpy(np.linspace(0, n_slices - 1, size).round().astype(np.int64))


def whole_position(
    voxel: Float[np.ndarray, "3"], shape: tuple[int, int, int], size: int
) -> tuple[float, float, float]:
    """Where a voxel of the volume is in its whole cube."""
    across = [(voxel[axis] + 0.5) * size / shape[axis] - 0.5 for axis in (0, 1)]
    up = voxel[2] * (size - 1) / max(shape[2] - 1, 1)
    return float(across[0]), float(across[1]), float(up)


def expected_bytes(files: CaseFiles, how: Preparation) -> int:
    """At most how large a prepared volume will be, from the headers alone.

    Raises:
        DataError: the headers cannot be read, or do not place voxels.
    """
    from nibabel.orientations import io_orientation

    shape, affine = geometry_of(files.image, how.series)
    check_affine(files.image, affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # The axes of the file in the order of those of the spacing.
    axes = io_orientation(affine)[:, 0].astype(int).argsort()
    sides = [
        max(_n_resampled(shape[axis], lengths[axis], new), how.size)
        for axis, new in zip(axes, how.spacing, strict=True)
    ]
    return prod(sides) * (1 if files.label is None else 2)


def check_intensity(path: Path, values: Shaped[np.ndarray, "x y z"], how: Preparation) -> None:
    """Refuses numbers that cannot be what `intensity` says.

    Raises:
        DataError: HU without anything below water, or beyond what scanners give; not 0 to 255.
    """
    low, high = float(values.min()), float(values.max())
    if how.intensity == "window" and low >= 0:
        raise DataError(
            f"values from {low:g} to {high:g}: no voxel below 0 HU",
            path=path,
            expected="HU, in which air is -1000; slope and intercept may not have been applied",
            fix="export it anew, or data.intensity=bytes for 0..255, percentiles for MR",
        )
    if how.intensity == "window" and (low < _HU[0] or high > _HU[1]):
        raise DataError(
            f"values from {low:g} to {high:g}",
            path=path,
            expected=f"HU, {_HU[0]} to {_HU[1]}",
            fix="look at slope and intercept, or data.intensity=percentiles for MR",
        )
    if how.intensity == "bytes" and (low < 0 or high > 255):
        raise DataError(
            f"values from {low:g} to {high:g}",
            path=path,
            expected="0 to 255",
            fix="data.intensity=window for HU, percentiles for MR",
        )


def check_label(
    files: CaseFiles, volume: Volume, label: Volume, classes: Sequence[str] = ()
) -> None:
    """Refuses a segmentation of another shape or place than its volume, or not of classes.

    Raises:
        DataError: as said.
    """
    if label.values.shape != volume.values.shape:
        raise DataError(
            f"a segmentation of shape {label.values.shape}, its volume has {volume.values.shape}",
            path=files.label,
            expected="a class for every voxel",
            fix="resample the segmentation onto the volume's grid",
        )
    ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in volume.values.shape), 1]], dtype=np.float64)
    apart = np.abs(ends @ (label.affine - volume.affine).T).max()
    if apart > _SHIFTED:
        raise DataError(
            f"the segmentation lies {apart:.3g} mm beside its volume",
            path=files.label,
            expected="the affine of the volume",
            fix="resample the segmentation onto the volume's grid",
        )
    low, high = float(label.values.min()), float(label.values.max())
    if low < 0 or high > 255 or not np.equal(np.round(label.values), label.values).all():
        raise DataError(
            f"a segmentation of values from {low:g} to {high:g}",
            path=files.label,
            expected="whole numbers from 0 to 255",
        )
    if classes and high >= len(classes):
        raise DataError(
            f"class {high:.0f} in a segmentation",
            path=files.label,
            expected=f"0 to {len(classes) - 1}: {', '.join(classes)}",
            fix="name it in labels.json or dataset.json",
        )


def _extent(any_above: Shaped[Tensor, " n"]) -> tuple[int, int]:
    found = any_above.nonzero().flatten()
    return int(found[0]), int(found[-1]) + 1


def _cut(
    values: Shaped[Tensor, "x y z"], boxes: list[tuple[int, int]], before: list[int], size: int
) -> Shaped[Tensor, "u v w"]:
    (x, u), (y, v), (z, w) = boxes
    cropped = values[x:u, y:v, z:w]
    after = [max(size - n, 0) - b for n, b in zip(cropped.shape, before, strict=True)]
    widths = [width for axis in (2, 1, 0) for width in (before[axis], after[axis])]
    return pad(cropped, widths).contiguous()


def _bytes(values: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    return (values * 255).round().to(torch.uint8)


def _stamp(path: Path) -> str:
    """What changes when a file, or a file of a series, is written anew."""
    stats = [(file.name, file.stat()) for file in files_of(path)]
    return f"{path.resolve()} {[(name, s.st_size, s.st_mtime_ns) for name, s in stats]}"
