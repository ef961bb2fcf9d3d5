"""Outlines of chips, and the Parquet file that holds them."""

import json
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rasterio.warp import transform_bounds

from remote_sensing.data.geometry import bounds_of, geoparquet_metadata, lonlat, outlines
from remote_sensing.data.read_chips import load_chips


def test_outlines_lie_where_the_scene_lies(scenes: Path) -> None:
    data = load_chips(scenes, size=24, device="cpu", workers=1)
    row = 5
    a, _, x, _, e, y = data.places.affine[row].tolist()
    expected = transform_bounds("EPSG:32633", "EPSG:4326", x, y + 24 * e, x + 24 * a, y)
    corners = lonlat(data)[row]
    found = (*corners.min(0), *corners.max(0))
    assert found == pytest.approx(expected, abs=1e-9)
    wkb = outlines(data)[row]
    assert struct.unpack("<BIII", wkb[:13]) == (1, 3, 1, 5)
    ring = np.frombuffer(wkb, "<f8", offset=13).reshape(5, 2)
    assert (ring[0] == ring[-1]).all()
    area = (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum() / 2
    assert area > 0  # counter-clockwise
    assert bounds_of([wkb]) == pytest.approx(expected, abs=1e-9)


def test_the_metadata_of_a_geoparquet_file(tmp_path: Path) -> None:
    metadata = geoparquet_metadata((10.0, 50.0, 11.0, 51.0))
    table = pl.DataFrame({"geometry": [b"x"]})
    table.write_parquet(tmp_path / "x.parquet", metadata=metadata)
    geo = json.loads(pl.read_parquet_metadata(tmp_path / "x.parquet")["geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["bbox"] == [10.0, 50.0, 11.0, 51.0]
