"""Embeddings as GeoTIFFs: a pixel a chip, a band a dimension."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
from affine import Affine
from rasterio.crs import CRS

from core.data.checks import DataError
from remote_sensing.data.voronoi_scenes import write_raster

_TOLERANCE = 1e-3


def write_embedding_rasters(
    table: pl.DataFrame, folder: str | Path, height: int, width: int
) -> list[Path]:
    """Writes `KIND/SCENE.tif`, float32, NaN where there is no chip.

    Args:
        table: of `ChipProbing.embed`, of chips that scenes were cut into side by side.
        folder: where to.
        height: of a chip in pixels.
        width: of a chip in pixels.

    Returns:
        The files.

    Raises:
        DataError: the chips of a scene overlap or do not lie side by side.
    """
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in table.iter_rows(named=True):
        groups[row["kind"], row["scene"]].append(row)
    files = []
    for (kind, scene), rows in groups.items():
        first = Affine(*rows[0]["affine"]) @ Affine.scale(width, height)
        places = np.array([~first @ row["affine"][2::3] for row in rows])
        cells = np.round(places).astype(int)
        if np.abs(places - cells).max() > _TOLERANCE or len(np.unique(cells, axis=0)) < len(rows):
            raise DataError(
                f"the chips of {scene} overlap, or do not lie side by side",
                expected="chips cut with data.stride equal to data.size",
            )
        low, high = cells.min(0), cells.max(0)
        n_columns, n_rows = high - low + 1
        image = np.full((len(rows[0]["embedding"]), n_rows, n_columns), np.nan, np.float32)
        for (column, line), row in zip(cells - low, rows, strict=True):
            image[:, line, column] = row["embedding"]
        file = Path(folder) / kind / f"{scene}.tif"
        names = tuple(f"dimension {number}" for number in range(len(image)))
        crs = CRS.from_user_input(rows[0]["crs"]).to_string()
        write_raster(file, image, first @ Affine.translation(*low), names, np.nan, crs)
        files.append(file)
    return files
