"""A generated archive of Sentinel-1 and Sentinel-2 in the folders of SSL4EO-S12."""

import json
from pathlib import Path

import numpy as np
from affine import Affine
from jaxtyping import Float

from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from remote_sensing.data.bands import NATIVE
from remote_sensing.data.landscape import (
    CLASSES,
    OPTICAL_BANDS,
    RADAR_BANDS,
    SEASONS,
    Land,
    backscatter,
    make_land,
    reflectance,
)
from remote_sensing.data.layouts import COVER
from remote_sensing.data.read_chips import CLASSES as CLASS_FILE
from remote_sensing.data.voronoi_scenes import write_raster

_OWN = {"s1", "s2a", COVER, CLASS_FILE, "statistics.json"}
_EAST, _NORTH, _BLOCK = 400_000.0, 5_800_000.0, 5_000.0
_PIXEL, _COARSEST, _OFFSET = 10, 60, 1000
# Share of the images that the edge of an orbit cuts.
_WEDGES = 0.12


def write_archive(
    path: str | Path, seed: int = 0, n_places: int = 48, side: int = 120, seasons: int = 4
) -> None:
    """Writes `s1/PLACE/PRODUCT/VV.tif`, `s2a/PLACE/PRODUCT/B1.tif`, `land_cover/PLACE.tif`.

    Level-2A digital numbers as uint16 with the offset of processing baseline 04.00, each band with
    the pixels it is taken with (10, 20 or 60 m), 0 without data and not declared, as in products;
    backscatter as float32 dB, NaN without data. UTM zone 33 north; every place lies in its own
    block of 5 km. The folder appears complete or not at all; an earlier demo is replaced.

    Args:
        path: the folder.
        seed: of everything.
        n_places: places.
        side: of a place in pixels of 10 m, a multiple of 6.
        seasons: images of a place, 1 to 4.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable; a side
            or a number of seasons that cannot be.
    """
    if side % (_COARSEST // _PIXEL) or not 12 <= side * _PIXEL <= _BLOCK - 2 * 600:
        raise DataError(f"demo.side={side}", expected="a multiple of 6, from 12 to 378")
    if not 1 <= seasons <= len(SEASONS):
        raise DataError(f"demo.seasons={seasons}", expected="1 to 4")
    across = int(np.ceil(np.sqrt(n_places)))
    with demo_folder(Path(path), _OWN, {"generator": "archive", "seed": seed}) as folder:
        for number in range(n_places):
            rng = np.random.default_rng([seed, number])
            slack = int((_BLOCK - side * _PIXEL) / 2 / _COARSEST)
            east, north = rng.integers(-slack // 4, slack // 4 + 1, 2) + slack
            place = Affine(
                *(_PIXEL, 0, _EAST + number % across * _BLOCK + east * _COARSEST),
                *(0, -_PIXEL, _NORTH - number // across * _BLOCK - north * _COARSEST),
            )
            _write_place(folder, f"{number:07d}", place, side, seasons, rng)
        names = {str(code): name for code, name in enumerate(CLASSES, 1)}
        (folder / CLASS_FILE).write_text(json.dumps(names, indent=1) + "\n")


def _write_place(
    folder: Path, name: str, place: Affine, side: int, seasons: int, rng: np.random.Generator
) -> None:
    land = make_land(side, rng)
    cover = land.cover[None]
    write_raster(folder / COVER / f"{name}.tif", cover, place, ("land cover",), 0)
    for season in range(seasons):
        day = f"2023{1 + 3 * season:02d}{rng.integers(1, 27):02d}"
        optical = folder / "s2a" / name / f"{day}T101031_{day}T101208_T33UVU"
        for band, values in zip(OPTICAL_BANDS, _stored(land, season, rng), strict=True):
            own = band.replace("B0", "B")  # as SSL4EO-S12 writes them
            pixel = place @ Affine.scale(NATIVE[band] / _PIXEL)
            write_raster(optical / f"{own}.tif", values[None], pixel, (own,), None)
        radar = folder / "s1" / name / f"S1A_IW_GRDH_1SDV_{day}T165500"
        decibel = backscatter(land, season, rng).astype(np.float32)
        if rng.random() < _WEDGES:
            decibel[:, _wedge(side, rng)] = np.nan
        for band, values in zip(RADAR_BANDS, decibel, strict=True):
            write_raster(radar / f"{band}.tif", values[None], place, (band,), np.nan)


def _stored(land: Land, season: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Digital numbers of each band, in its own pixels."""
    side = len(land.cover)
    empty = np.zeros((side, side), bool)
    if rng.random() < _WEDGES:
        empty = _wedge(side, rng)
    found = []
    for band, values in zip(OPTICAL_BANDS, reflectance(land, season, rng), strict=True):
        step = NATIVE[band] // _PIXEL
        numbers = np.round(10_000 * _averaged(values, step)) + _OFFSET
        numbers = np.clip(numbers, 1, 65_535).astype(np.uint16)
        numbers[_averaged(empty.astype(float), step) > 0] = 0
        found.append(numbers)
    return found


def _averaged(values: Float[np.ndarray, "side side"], step: int) -> Float[np.ndarray, "few few"]:
    """Means over squares of `step` pixels."""
    few = len(values) // step
    return values.reshape(few, step, few, step).mean((1, 3))


def _wedge(side: int, rng: np.random.Generator) -> np.ndarray:
    """The pixels beyond a straight edge."""
    rows, columns = np.mgrid[:side, :side] / side
    slope, start = rng.uniform(-0.3, 0.3), rng.uniform(0.5, 0.95)
    return columns > start + slope * rows
