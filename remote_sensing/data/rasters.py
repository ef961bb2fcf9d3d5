"""GeoTIFFs of one scene, read by windows of one common grid.

A scene's grid is that of its finest optical band, or of radar where that is all there is. Bands of
coarser pixels over the same area are interpolated bilinearly; sensors on other grids only where
alignment was asked for.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import rasterio
import torch
from affine import Affine
from jaxtyping import Bool, Float, UInt8
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from core.data.checks import DataError
from remote_sensing.data.bands import SENSORS, to_physical

# Two grids are the same where they differ by less than this share of a pixel.
_TOLERANCE = 0.01
# Windows are read one by one where their bounding box is so many times as large as they are.
_SPARSE = 1.5


@dataclass(frozen=True)
class Band:
    """Where one band lies.

    Attributes:
        name: canonical.
        file: the GeoTIFF.
        index: of the band in it, from 1.
    """

    name: str
    file: Path
    index: int = 1


@dataclass(frozen=True)
class Scene:
    """The files of one place at one time.

    Attributes:
        name: unique in the archive.
        bands: sensor -> its bands in the order of the tensor.
        cover: land-cover map: classes of pixels, 0 unknown.
        place: what scenes of the same place share; the name by default.
    """

    name: str
    bands: dict[str, list[Band]]
    cover: Path | None = None
    place: str = ""

    @property
    def files(self) -> list[Path]:
        """All of them, each once."""
        found = [band.file for sensor in self.bands.values() for band in sensor]
        return list(dict.fromkeys([*found, *([self.cover] if self.cover else [])]))


@dataclass(frozen=True)
class Grid:
    """Pixels on the ground.

    Attributes:
        crs: coordinate reference system.
        transform: from (column, row) to coordinates.
        width: in pixels.
        height: in pixels.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int

    @classmethod
    def of(cls, source: DatasetReader) -> Self:
        """The grid of an open file."""
        return cls(source.crs, source.transform, source.width, source.height)

    @property
    def pixel(self) -> float:
        """Width of a pixel in units of the CRS."""
        return float(np.hypot(self.transform.a, self.transform.d))

    def same_place(self, other: "Grid") -> bool:
        """Whether both cover the same area, with pixels of any size."""
        if self.crs != other.crs:
            return False
        allowed = _TOLERANCE * min(self.pixel, other.pixel)
        mine, theirs = np.array(self.corners()), np.array(other.corners())
        return bool(np.abs(mine - theirs).max() <= allowed)

    def equals(self, other: "Grid") -> bool:
        """Whether CRS, transform and shape are equal."""
        shape = (self.width, self.height) == (other.width, other.height)
        return shape and self.same_place(other)

    def corners(self) -> list[tuple[float, float]]:
        """Coordinates of the four corners, clockwise from the upper left one."""
        places = ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))
        return [self.transform @ place for place in places]


@dataclass(frozen=True)
class Reading:
    """How values are read.

    Attributes:
        units: sensor -> unit in the files.
        dn_offset: see `remote_sensing.data.bands.to_physical`.
        align: whether sensors on other grids are brought to the scene's.
    """

    units: dict[str, str] = field(default_factory=lambda: {"optical": "dn", "radar": "db"})
    dn_offset: float = -1000.0
    align: bool = False


@dataclass(frozen=True)
class Pixels:
    """Windows of one scene.

    Attributes:
        values: sensor -> (n, bands, height, width), reflectance or dB, NaN where not valid.
        valid: (n, height, width), where all sensors have data.
        cover: (n, height, width) classes, 0 unknown; None without a map.
    """

    values: dict[str, Float[np.ndarray, "n bands height width"]]
    valid: Bool[np.ndarray, "n height width"]
    cover: UInt8[np.ndarray, "n height width"] | None


def open_raster(file: Path) -> DatasetReader:
    """An open raster, to be closed.

    Raises:
        DataError: it cannot be opened, or has no place on the ground.
    """
    try:
        source = rasterio.open(file)
    except RasterioError as error:
        raise DataError(
            f"cannot be opened as a raster ({_short(error)})",
            path=file,
            expected="a GeoTIFF",
            fix="fetch the file again, or take it out of the folder",
        ) from None
    if source.crs is None:
        source.close()
        raise DataError(
            "has no coordinate reference system",
            path=file,
            expected="a GeoTIFF with CRS and transform",
            fix="write it again with those of its product",
        )
    return source


@contextmanager
def opened(file: Path) -> Iterator[DatasetReader]:
    """An open raster; see `open_raster`."""
    with open_raster(file) as source:
        yield source


def grid_of(scene: Scene) -> Grid:
    """The common grid of a scene."""
    first = next(sensor for sensor in SENSORS if sensor in scene.bands)
    best: Grid | None = None
    for file in dict.fromkeys(band.file for band in scene.bands[first]):
        with opened(file) as source:
            grid = Grid.of(source)
        if best is None or grid.pixel < (1 - _TOLERANCE) * best.pixel:
            best = grid
    assert best is not None
    return best


class SceneReader:
    """The open files of a scene; a context manager.

    Args:
        scene: what to open.
        reading: units, and whether sensors are aligned.
        grid: the scene's, where it is known.

    Raises:
        DataError: a file cannot be opened, or the sensors lie on different grids and alignment was
            not asked for.
    """

    def __init__(self, scene: Scene, reading: Reading, grid: Grid | None = None) -> None:
        self.scene, self.reading = scene, reading
        self.grid = grid_of(scene) if grid is None else grid
        self._stack = ExitStack()
        self._sources: dict[str, list[_Source]] = {}
        self._cover: _Source | None = None

    def __enter__(self) -> Self:
        """Opens everything."""
        try:
            for sensor, bands in self.scene.bands.items():
                files = dict.fromkeys(band.file for band in bands)
                self._sources[sensor] = [self._opened(sensor, file) for file in files]
            if self.scene.cover is not None:
                self._cover = self._open(self.scene.cover, [1], [0], Resampling.nearest, 0, True)
                if self._cover.source.dtypes[0] != "uint8":
                    raise DataError(
                        f"classes are {self._cover.source.dtypes[0]}",
                        path=self.scene.cover,
                        expected="uint8, 0 where unknown",
                    )
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes everything."""
        self._stack.close()

    def _opened(self, sensor: str, file: Path) -> "_Source":
        places = [i for i, band in enumerate(self.scene.bands[sensor]) if band.file == file]
        indices = [self.scene.bands[sensor][i].index for i in places]
        # Sentinel-2 files often do not say that 0 is no data; zero power has no dB.
        empty = np.nan if self.reading.units[sensor] in ("db", "reflectance") else 0
        return self._open(file, indices, places, Resampling.bilinear, empty, self.reading.align)

    def _open(
        self,
        file: Path,
        indices: list[int],
        places: list[int],
        resampling: Resampling,
        empty: float,
        align: bool,
    ) -> "_Source":
        # Not by `with`: rasterio wants its contexts left in the order in which they were entered.
        source = open_raster(file)
        self._stack.callback(source.close)
        nodata = empty if source.nodata is None else source.nodata
        if np.isnan(nodata) and not np.issubdtype(np.dtype(source.dtypes[0]), np.floating):
            nodata = None
        own = Grid.of(source)
        if own.equals(self.grid):
            return _Source(file, source, indices, places, nodata)
        if not align and not own.same_place(self.grid):
            raise DataError(
                f"another grid than the scene's: {describe(own)}",
                path=file,
                expected=describe(self.grid),
                fix="align the files, or let data.align=true do it while they are read",
            )
        if not overlap(own, self.grid):
            raise DataError(
                f"has no ground in common with the other files of {self.scene.name}: "
                f"{describe(own)}",
                path=file,
                expected=describe(self.grid),
                fix="check which files belong together",
            )
        warped = WarpedVRT(
            source,
            crs=self.grid.crs,
            transform=self.grid.transform,
            width=self.grid.width,
            height=self.grid.height,
            resampling=resampling,
            tolerance=_TOLERANCE,
            src_nodata=nodata,
            nodata=nodata,
            **_scales(own, self.grid),
        )
        self._stack.callback(warped.close)
        return _Source(file, warped, indices, places, nodata)

    def read(self, corners: Sequence[tuple[int, int]], height: int, width: int) -> Pixels:
        """Windows whose upper left pixels are at (row, column) of the grid.

        Raises:
            DataError: a file breaks off.
        """
        values = {}
        shape = (len(corners), height, width)
        valid = np.ones(shape, bool)
        for sensor, sources in self._sources.items():
            n_bands = len(self.scene.bands[sensor])
            of = np.empty((len(corners), n_bands, height, width), np.float32)
            for source in sources:
                for i, raw in enumerate(source.read(corners, height, width)):
                    of[i, source.places] = self._physical(raw, sensor, source.nodata)
            here = np.isfinite(of).all(1)
            valid &= here
            values[sensor] = of
        for of in values.values():
            of[~np.broadcast_to(valid[:, None], of.shape)] = np.nan
        cover = None
        if self._cover is not None:
            cover = np.stack([raw[0] for raw in self._cover.read(corners, height, width)])
        return Pixels(values, valid, cover)

    def native_dtype(self, sensor: str) -> np.dtype:
        """Of all files of a sensor, if it is one of integers of which 0 is no data; else float32.

        A float can say NaN where the files have other numbers for no data.
        """
        sources = self._sources[sensor]
        found = {of.source.dtypes[index - 1] for of in sources for index in of.indices}
        dtype = np.dtype(found.pop())
        plain = not found and dtype.kind in "iu" and dtype.itemsize <= 2
        return dtype if plain and all(of.nodata == 0 for of in sources) else np.dtype(np.float32)

    def read_native(
        self, sensor: str, corner: tuple[int, int], height: int, width: int, dtype: np.dtype
    ) -> np.ndarray:
        """One window of one sensor, (bands, height, width), in the numbers of the files.

        Args:
            sensor: which one.
            corner: row and column of its upper left pixel.
            height: in pixels.
            width: in pixels.
            dtype: `native_dtype`, or float32: then NaN is no data.

        Raises:
            DataError: a file breaks off.
        """
        n_bands = len(self.scene.bands[sensor])
        found = np.empty((n_bands, height, width), dtype)
        for source in self._sources[sensor]:
            (raw,) = source.read([corner], height, width)
            if dtype.kind == "f" and source.nodata is not None:
                raw = np.where(raw == source.nodata, np.float32(np.nan), raw)
            found[source.places] = raw
        return found

    def read_cover(self, corner: tuple[int, int], height: int, width: int) -> np.ndarray | None:
        """(height, width) classes of one window, 0 unknown; None without a map."""
        if self._cover is None:
            return None
        (raw,) = self._cover.read([corner], height, width)
        return raw[0]

    def _physical(
        self, raw: np.ndarray, sensor: str, nodata: float | None
    ) -> Float[np.ndarray, "bands height width"]:
        unit, offset = self.reading.units[sensor], self.reading.dn_offset
        found = to_physical(torch.from_numpy(np.ascontiguousarray(raw)), sensor, unit, offset)
        values: np.ndarray = found.numpy()
        if nodata is not None and not np.isnan(nodata):
            values = np.where(raw == nodata, np.float32(np.nan), values)
        return values


@dataclass(frozen=True)
class _Source:
    file: Path
    source: DatasetReader | WarpedVRT
    indices: list[int]
    places: list[int]
    nodata: float | None

    def read(
        self, corners: Sequence[tuple[int, int]], height: int, width: int
    ) -> Iterator[np.ndarray]:
        """The windows one by one; windows side by side are read in one go."""
        (row, column), (last_row, last_column) = np.min(corners, 0), np.max(corners, 0)
        high, wide = last_row - row + height, last_column - column + width
        if high * wide > _SPARSE * len(corners) * height * width:
            for corner in corners:
                yield self._window(*corner, height, width)
            return
        whole = self._window(row, column, high, wide)
        for top, left in corners:
            top, left = top - row, left - column
            yield whole[:, top : top + height, left : left + width]

    def _window(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        try:
            return self.source.read(self.indices, window=Window(column, row, width, height))
        except (RasterioError, IndexError) as error:
            raise DataError(
                f"cannot be read from row {row}, column {column} on ({_short(error)})",
                path=self.file,
                expected="a whole GeoTIFF",
                fix="the file broke off or is damaged: fetch it again",
            ) from None


def _scales(own: Grid, grid: Grid) -> dict[str, str]:
    """How many pixels of the grid there are to one of a file's own, 1 at most.

    GDAL would go by the numbers of pixels in the two windows: a pixel then depends on the window
    that it is read in.
    """
    from rasterio.warp import calculate_default_transform

    pixel = own.pixel
    if own.crs != grid.crs:
        x, y = zip(*own.corners(), strict=True)
        bounds = (min(x), min(y), max(x), max(y))
        place, *_ = calculate_default_transform(own.crs, grid.crs, own.width, own.height, *bounds)
        pixel = place.a
    ratio = min(1.0, pixel / grid.pixel)
    return {"XSCALE": f"{ratio:.6f}", "YSCALE": f"{ratio:.6f}"}


def overlap(one: Grid, other: Grid) -> bool:
    """Whether two grids have any ground in common, as far as their bounding boxes tell."""
    from rasterio.warp import transform

    x, y = zip(*other.corners(), strict=True)
    if one.crs != other.crs:
        x, y = transform(other.crs, one.crs, list(x), list(y))
    mine = np.array(one.corners())
    low, high = mine.min(0), mine.max(0)
    return bool(max(x) > low[0] and min(x) < high[0] and max(y) > low[1] and min(y) < high[1])


def describe(grid: Grid) -> str:
    """A grid in words."""
    t = grid.transform
    return (
        f"{grid.crs.to_string()}, {grid.width} x {grid.height} pixels of {t.a:g} x {t.e:g} "
        f"from ({t.c:.2f}, {t.f:.2f})"
    )


def _short(error: Exception) -> str:
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return " ".join(text.split())[:160]
