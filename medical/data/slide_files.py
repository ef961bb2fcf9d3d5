"""Whole slides of any vendor, by openslide: their magnification, an overview, patches."""

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.checks import DataError

SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".vms",
    ".vmu",
    ".scn",
    ".mrxs",
    ".svslide",
    ".bif",
    ".czi",
    ".dcm",
)
# By convention a pixel of a magnification of 20 is half a micrometre.
MPP_TIMES_MAGNIFICATION = 10.0
_OVERVIEW_MPP = 8.0
_OPEN_SLIDES = 16
_FIX = (
    "say it: column mpp of slides.csv (micrometres a pixel at full resolution), or data.slide_mpp"
)


class Grid(NamedTuple):
    """How patches are cut.

    Attributes:
        size: height and width of a patch in pixels.
        mpp: micrometres a pixel of it.
    """

    size: int
    mpp: float

    def side(self, slide_mpp: float) -> float:
        """Side of a patch in pixels of a slide's level 0."""
        return self.size * self.mpp / slide_mpp


def slide_mpp(path: Path, stated: float | None) -> float:
    """Micrometres a pixel at level 0: what the user states, else what the file says.

    Read are openslide's `mpp-x`, which also comes from the resolution of a TIFF, and else the
    objective's power.

    Raises:
        DataError: the slide cannot be opened, or neither of them is known.
    """
    if stated is not None:
        if not 0.05 < stated < 50:
            raise DataError(f"{stated} micrometres a pixel", path=path, expected="0.1 to 10")
        return stated
    properties = opened(path).properties
    mpp = properties.get("openslide.mpp-x")
    power = properties.get("openslide.objective-power")
    if mpp is not None and float(mpp) > 0:
        found = float(mpp)
        if not 0.05 < found < 50:
            raise DataError(
                f"its file says {found:g} micrometres a pixel",
                path=path,
                expected="0.1 to 10",
                fix=_FIX,
            )
        return found
    if power is not None and float(power) > 0:
        return MPP_TIMES_MAGNIFICATION / float(power)
    raise DataError(
        "its magnification is unknown: the file names neither micrometres a pixel nor an objective",
        path=path,
        fix=_FIX,
    )


def opened(path: Path):  # noqa: ANN201 - openslide is imported when the first slide is opened
    """The slide's handle of this process; a few are kept open.

    Raises:
        DataError: openslide cannot read it.
    """
    try:
        written = os.stat(path).st_mtime_ns
    except OSError:
        written = 0
    return _handle(str(path), written, os.getpid())


@lru_cache(maxsize=_OPEN_SLIDES)
def _handle(path: str, written: int, process: int):  # noqa: ANN202
    # A handle must outlive neither a fork nor another file of the same name.
    import openslide

    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        there = Path(path).exists()
        raise DataError(
            f"cannot be opened as a slide ({str(error)[:120]})" if there else "no such file",
            path=path,
            expected=f"a slide that openslide reads: {', '.join(SUFFIXES)}; TIFF must be tiled",
            fix="copy or write it again",
        ) from None


def overview(path: Path, mpp: float) -> UInt8[np.ndarray, "height width 3"]:
    """The whole slide at about 8 micrometres a pixel."""
    slide = opened(path)
    width, height = slide.dimensions
    shrink = max(1.0, _OVERVIEW_MPP / mpp)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    level = slide.get_best_level_for_downsample(shrink)
    image = _read(path, (0, 0), level, slide.level_dimensions[level])
    return np.asarray(image.resize(size, reducing_gap=2.0))


def read_patch(
    path: Path, corner: tuple[int, int], grid: Grid, mpp: float
) -> UInt8[Tensor, "3 size size"]:
    """A patch at the grid's resolution, from the level nearest above it.

    Args:
        path: the slide.
        corner: upper left, x and y at level 0.
        grid: size and resolution.
        mpp: of the slide's level 0.

    Raises:
        DataError: what is there cannot be read.
    """
    from PIL import Image

    slide = opened(path)
    shrink = grid.mpp / mpp
    level = slide.get_best_level_for_downsample(shrink * 1.01)
    side = max(1, round(grid.size * shrink / slide.level_downsamples[level]))
    image = _read(path, corner, level, (side, side))
    if side != grid.size:
        image = image.resize((grid.size, grid.size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _read(path: Path, corner: tuple[int, int], level: int, size: tuple[int, int]):  # noqa: ANN202
    """An RGB image; what a scanner left out is white, as glass is."""
    import openslide
    from PIL import Image

    try:
        image = opened(path).read_region(corner, level, size)
    except openslide.OpenSlideError as error:
        _handle.cache_clear()  # a handle that failed once fails for ever
        raise DataError(
            f"cannot be read at x {corner[0]}, y {corner[1]}, level {level} ({str(error)[:120]})",
            path=path,
            fix="copy it again: it may be truncated",
        ) from None
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white
