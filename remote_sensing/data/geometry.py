"""Outlines of chips in longitude and latitude, and what makes a Parquet file GeoParquet."""

import json
import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from rasterio.warp import transform

from remote_sensing.data.chips import Chips

_LONGITUDE_LATITUDE = "OGC:CRS84"
_POLYGON = 3


def lonlat(data: Chips) -> Float64[np.ndarray, "n 4 2"]:
    """Longitude and latitude of the corners of every chip, clockwise from the upper left one."""
    first = next(iter(data.inputs.values()))
    height, width = first.shape[-2:]
    places = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)])
    affine = data.places.affine.cpu().numpy().reshape(-1, 2, 3)
    corners = np.einsum("nij,kj->nki", affine, places)
    found, names = np.empty_like(corners), np.array(data.places.crs)
    for crs in np.unique(names):
        own = corners[names == crs]
        x, y = transform(crs, _LONGITUDE_LATITUDE, own[..., 0].ravel(), own[..., 1].ravel())
        found[names == crs] = np.stack([x, y], -1).reshape(own.shape)
    return found


def outlines(data: Chips) -> list[bytes]:
    """The polygon of every chip as WKB, counter-clockwise as GeoParquet wants it."""
    return [_polygon([*corners[::-1], corners[-1]]) for corners in lonlat(data).tolist()]


def geoparquet_metadata(bounds: Sequence[float]) -> dict[str, str]:
    """Metadata that a Parquet file with the column `geometry` needs to be GeoParquet 1.1.

    Args:
        bounds: west, south, east, north of all outlines.
    """
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "bbox": list(bounds),
    }
    content = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {"geo": json.dumps(content)}


def bounds_of(geometry: Sequence[bytes]) -> tuple[float, float, float, float]:
    """West, south, east, north of outlines as `outlines` writes them."""
    points = np.stack([np.frombuffer(wkb, "<f8", offset=13).reshape(-1, 2) for wkb in geometry])
    (west, south), (east, north) = points.min((0, 1)).tolist(), points.max((0, 1)).tolist()
    return west, south, east, north


def _polygon(ring: Sequence[Sequence[float]]) -> bytes:
    """One ring, little-endian."""
    flat = [value for point in ring for value in point]
    return struct.pack(f"<BIII{len(flat)}d", 1, _POLYGON, 1, len(ring), *flat)
