"""Pictures of volumes: slices as a radiologist sees them, with segmentations laid over.

Axial and coronal slices have the patient's right on the viewer's left, as is usual in radiology;
distances are in mm, so voxels that are not cubes show true proportions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW = (-175.0, 250.0)
_COLORS = ("#56B4E9", "#E69F00", "#F0E442", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#7A7A7A")
_INK = "#222222"
_PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
_ENDS = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}


@dataclass(frozen=True)
class Overlay:
    """A volume in RAS with what is to be laid over it.

    Attributes:
        title: stands above its slices.
        values: intensities, of any range.
        spacing: of the voxels in mm.
        centre: voxel that the slices go through.
        labels: classes of the voxels, 0 the background.
        truth: the same as the reference says; its outlines are drawn.
        heat: 0 to 1, e.g. the attention of a word.
    """

    title: str
    values: Shaped[np.ndarray, "x y z"]
    spacing: tuple[float, float, float]
    centre: tuple[int, int, int]
    labels: Int[np.ndarray, "x y z"] | None = None
    truth: Int[np.ndarray, "x y z"] | None = None
    heat: Float[np.ndarray, "x y z"] | None = None


def draw_overlays(
    rows: Sequence[Overlay],
    file: str | Path,
    classes: Sequence[str] = (),
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Writes axial, coronal and sagittal slices of each volume, one volume a row.

    Args:
        rows: the volumes.
        file: the PNG to write.
        classes: names of the labels, the first the background.
        limits: intensities of black and white.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9.6, 0.5 + 2.9 * len(rows)), facecolor="white")
    panels = figure.subplots(len(rows), 3, squeeze=False)
    for row, of_row in zip(rows, panels, strict=True):
        for plane, axes in zip(_PLANES, of_row, strict=True):
            _draw_slice(axes, row, plane, limits)
        of_row[0].set_title(fill(row.title, 46), loc="left", fontsize=9, color=_INK)
    if classes:
        handles = [
            Patch(color=_COLORS[number % len(_COLORS)], label=name)
            for number, name in enumerate(classes[1:])
        ]
        figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight() if classes else 0, 1, 1))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def draw_cases(folder: Path, ids: Sequence[str], file: Path) -> None:
    """Slices of generated cases through their first lesion, titled with what is known of them."""
    from medical.data.read_volume import read_volume, to_axes

    known = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    rows = []
    for name in ids:
        volume = to_axes(read_volume(folder / "images" / f"{name}.nii.gz"))
        labels = to_axes(read_volume(folder / "labels" / f"{name}.nii.gz"))
        found = known[name]
        middle = np.array(volume.values.shape) // 2
        if found:
            middle = np.linalg.inv(volume.affine) @ [*found[0]["centre_mm"], 1]
        told = "; ".join(f"{one['kind']}, {one['site']}, {one['size_mm']:.0f} mm" for one in found)
        x, y, z = np.clip(np.rint(middle[:3]), 0, np.array(volume.values.shape) - 1).astype(int)
        title = f"{name}: {told or 'normal'}"
        centre = (int(x), int(y), int(z))
        rows.append(
            Overlay(title, volume.values, volume.spacing, centre, truth=labels.values.astype(int))
        )
    draw_overlays(rows, file, list(names.values()), WINDOW)


def _draw_slice(axes: "Axes", row: Overlay, plane: str, limits: tuple[float, float]) -> None:
    across, up, through = _PLANES[plane]
    at: list[slice | int] = [slice(None)] * 3
    at[through] = row.centre[through]
    wide, high = row.values.shape[across], row.values.shape[up]
    extent = (0, wide * row.spacing[across], 0, high * row.spacing[up])

    def flat(values: np.ndarray) -> np.ndarray:
        # The first axis of what remains goes across, the second up.
        return values[tuple(at)].T

    options = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    axes.imshow(flat(row.values), cmap="gray", vmin=limits[0], vmax=limits[1], **options)
    if row.heat is not None:
        heat = flat(row.heat)
        axes.imshow(
            heat, cmap="inferno", alpha=0.6 * np.clip(heat, 0, 1), vmin=0, vmax=1, **options
        )
    if row.labels is not None:
        axes.imshow(_colored(flat(row.labels), 0.45), **options)
    if row.truth is not None:
        _outlines(axes, flat(row.truth), extent)
    # To the right and to the front are the viewer's left.
    axes.set_xlim(extent[1], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    left, right = _ENDS[plane]
    style = {"transform": axes.transAxes, "color": "white", "fontsize": 8, "va": "center"}
    axes.text(0.02, 0.5, left, **style)
    axes.text(0.98, 0.5, right, ha="right", **style)


def _colored(labels: Int[np.ndarray, "u v"], alpha: float) -> Float[np.ndarray, "u v 4"]:
    from matplotlib.colors import to_rgba

    colors = np.array([to_rgba(color, alpha) for color in _COLORS])
    return np.where(labels[..., None] > 0, colors[(labels - 1) % len(colors)], 0.0)


def _outlines(
    axes: "Axes", labels: Int[np.ndarray, "u v"], extent: tuple[float, float, float, float]
) -> None:
    for number in np.unique(labels[labels > 0]):
        color = _COLORS[(int(number) - 1) % len(_COLORS)]
        axes.contour(labels == number, levels=[0.5], colors=[color], linewidths=1.1, extent=extent)
