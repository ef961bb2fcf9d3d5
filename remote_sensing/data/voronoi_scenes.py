"""Small scenes of three land covers each, seen through haze by one sensor, speckled by the other.

What the sensors share is the map; what each sees of it alone is spoilt in its own way. 8 classes
have a random signature of 6 optical and 2 radar bands. Optical reflectance gets a haze of the scene
in every band, a shade that multiplies it, and noise; backscatter a moisture of the scene and
speckle of 4 looks. Scenes are 24 x 24 pixels of 10 m, tiled into one GeoTIFF for each sensor and
part of the data.
"""

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float, Int64

from core.data.demo_folder import demo_folder
from remote_sensing.data.cut import SPLIT_FILE
from remote_sensing.data.read_chips import CLASSES, LARGER

OPTICAL_BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
RADAR_BANDS = ("VV", "VH")
N_CLASSES, _COVERS, _LOOKS = 8, 3, 4
_HAZE, _NOISE, _MOISTURE = 0.6, 0.5, 0.8
# A unit of the signatures is 0.05 of reflectance, and one of the natural logarithm of power.
_REFLECTANCE, _STEP, _OFFSET = 0.25, 0.05, 1000
_MEAN_DB, _DB = (-11.0, -18.0), 10 / np.log(10)
_CRS, _PIXEL, _EAST, _NORTH = "EPSG:32633", 10.0, 400_000.0, 5_800_000.0
_OWN = {"optical", "radar", "land_cover", "larger", CLASSES, SPLIT_FILE, "statistics.json"}


def write_scenes(
    path: str | Path,
    seed: int = 0,
    n_unlabelled: int = 2700,
    n_labelled: int = 300,
    n_valid: int = 300,
    n_test: int = 600,
    n_larger: int = 200,
    size: int = 24,
    larger: int = 72,
) -> None:
    """Writes `optical/`, `radar/`, `land_cover/`, `classes.json`, `splits.csv` and `larger/`.

    uint16 digital numbers with the offset of processing baseline 04.00, and float32 dB, in UTM
    zone 33 north. The folder appears complete or not at all; an earlier demo is replaced. 8,700
    scenes of 24 pixels and 200 of 72 are 60 MB.

    Args:
        path: the folder.
        seed: of everything.
        n_unlabelled: training scenes without a map.
        n_labelled: training scenes with one.
        n_valid: validation scenes.
        n_test: test scenes.
        n_larger: test scenes of `larger` pixels; 0 writes none.
        size: side of a scene in pixels.
        larger: side of those.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable.
    """
    rng = np.random.default_rng(seed)
    optical = rng.standard_normal((N_CLASSES, len(OPTICAL_BANDS)))
    radar = rng.standard_normal((N_CLASSES, len(RADAR_BANDS)))
    parts = {
        "unlabelled": (n_unlabelled, "train"),
        "labelled": (n_labelled, "train"),
        "valid": (n_valid, "valid"),
        "test": (n_test, "test"),
    }
    with demo_folder(Path(path), _OWN, {"generator": "voronoi scenes", "seed": seed}) as folder:
        top = _NORTH
        for name, (count, _) in parts.items():
            top = _write_part(folder, name, count, size, (optical, radar), rng, top)
        if n_larger:
            _write_part(folder / LARGER, "test", n_larger, larger, (optical, radar), rng, top)
        names = {str(code): f"cover {code}" for code in range(1, N_CLASSES + 1)}
        (folder / CLASSES).write_text(json.dumps(names, indent=1) + "\n")
        lines = [f"{name},{split}" for name, (count, split) in parts.items() if count]
        (folder / SPLIT_FILE).write_text("\n".join(["scene,split", *lines]) + "\n")


def _write_part(
    folder: Path,
    name: str,
    count: int,
    size: int,
    signatures: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
    top: float,
) -> float:
    """Writes one file a sensor and returns the northing below them."""
    if not count:
        return top
    across = next(n for n in range(int(np.sqrt(count)), 0, -1) if count % n == 0)
    shape = (count // across, across)
    cover = voronoi_maps(count, size, rng)
    optical = _seen_by_light(cover, signatures[0], rng)
    radar = _seen_by_radar(cover, signatures[1], rng)
    place = Affine(_PIXEL, 0, _EAST, 0, -_PIXEL, top)
    write_raster(
        folder / "optical" / f"{name}.tif", _tiled(optical, shape), place, OPTICAL_BANDS, 0
    )
    write_raster(folder / "radar" / f"{name}.tif", _tiled(radar, shape), place, RADAR_BANDS, np.nan)
    if name != "unlabelled":
        map_of = _tiled((cover + 1).astype(np.uint8)[:, None], shape)
        write_raster(folder / "land_cover" / f"{name}.tif", map_of, place, ("land cover",), 0)
    return top - shape[0] * size * _PIXEL


def voronoi_maps(
    count: int, size: int, rng: np.random.Generator
) -> Int64[np.ndarray, "count size size"]:
    """Maps of the nearest of six points, which belong to three of the classes."""
    n_points = 2 * _COVERS
    classes = rng.permuted(np.tile(np.arange(N_CLASSES), (count, 1)), axis=1)[:, :_COVERS]
    points = rng.uniform(0, size, (count, n_points, 2))
    rows, columns = np.mgrid[:size, :size] + 0.5
    nearest = np.empty((count, size, size), np.int64)
    for i in range(count):
        squared = (rows - points[i, :, 0, None, None]) ** 2
        squared += (columns - points[i, :, 1, None, None]) ** 2
        nearest[i] = squared.argmin(0) % _COVERS
    return np.take_along_axis(classes, nearest.reshape(count, -1), 1).reshape(nearest.shape)


def _seen_by_light(
    cover: Int64[np.ndarray, "n size size"],
    signature: Float[np.ndarray, "classes bands"],
    rng: np.random.Generator,
) -> np.ndarray:
    n, n_bands = len(cover), signature.shape[1]
    values = np.moveaxis(signature[cover], -1, 1)
    values *= rng.uniform(0.5, 1.5, (n, 1, 1, 1))
    values += _HAZE * rng.standard_normal((n, n_bands, 1, 1))
    values += _NOISE * rng.standard_normal(values.shape)
    reflectance = _REFLECTANCE + _STEP * values
    return np.clip(np.round(10_000 * reflectance) + _OFFSET, 1, 65_535).astype(np.uint16)


def _seen_by_radar(
    cover: Int64[np.ndarray, "n size size"],
    signature: Float[np.ndarray, "classes bands"],
    rng: np.random.Generator,
) -> np.ndarray:
    n = len(cover)
    values = np.moveaxis(signature[cover], -1, 1)
    values += _MOISTURE * rng.standard_normal((n, 1, 1, 1))
    values += np.log(rng.gamma(_LOOKS, 1 / _LOOKS, values.shape))
    return (np.array(_MEAN_DB)[:, None, None] + _DB * values).astype(np.float32)


def _tiled(scenes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    n_bands, size = scenes.shape[1], scenes.shape[-1]
    tiles = scenes.reshape(rows, columns, n_bands, size, size).transpose(2, 0, 3, 1, 4)
    return np.ascontiguousarray(tiles.reshape(n_bands, rows * size, columns * size))


def write_raster(
    file: Path,
    values: np.ndarray,
    transform: Affine,
    bands: tuple[str, ...],
    nodata: float | None,
    crs: str = _CRS,
) -> None:
    """Writes (bands, rows, columns) as a GeoTIFF whose bands are named."""
    file.parent.mkdir(parents=True, exist_ok=True)
    n_bands, height, width = values.shape
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=n_bands,
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
        **({"tiled": True, "blockxsize": 256, "blockysize": 256} if width > 256 < height else {}),
    ) as target:
        target.write(values)
        for number, name in enumerate(bands, 1):
            target.set_band_description(number, name)
