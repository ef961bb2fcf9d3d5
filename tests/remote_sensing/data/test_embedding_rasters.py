"""Embeddings as rasters."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import rasterio

from core.data.checks import DataError
from remote_sensing.data.embedding_rasters import write_embedding_rasters
from remote_sensing.data.read_chips import load_chips


def _table(scenes: Path, **options) -> pl.DataFrame:
    data = load_chips(scenes, size=24, device="cpu", workers=1, **options)
    places = data.places.affine.tolist()
    of = data.inputs["radar"].float().mean((2, 3))
    return pl.DataFrame(
        {
            "kind": ["radar"] * len(data.ids),
            "id": data.ids,
            "embedding": of.tolist(),
            "scene": data.places.scenes,
            "crs": data.places.crs,
            "affine": places,
        }
    )


def test_a_pixel_is_the_chip_that_lies_there(scenes: Path, tmp_path: Path) -> None:
    table = _table(scenes)
    files = write_embedding_rasters(table, tmp_path, 24, 24)
    assert sorted(f.relative_to(tmp_path).as_posix() for f in files) == [
        f"radar/{name}.tif" for name in ("labelled", "test", "unlabelled", "valid")
    ]
    with (
        rasterio.open(tmp_path / "radar" / "labelled.tif") as found,
        rasterio.open(scenes / "radar" / "labelled.tif") as source,
    ):
        assert found.crs == source.crs
        assert found.bounds == source.bounds
        assert (found.width * 24, found.height * 24) == (source.width, source.height)
        image = found.read()
    row = table.filter(id="labelled_24_48").row(0, named=True)
    np.testing.assert_allclose(image[:, 1, 2], row["embedding"], rtol=1e-6)
    assert np.isfinite(image).all()


def test_a_chip_that_is_missing_has_no_data(scenes: Path, tmp_path: Path) -> None:
    table = _table(scenes).filter(pl.col("id") != "test_24_24")
    write_embedding_rasters(table, tmp_path, 24, 24)
    with rasterio.open(tmp_path / "radar" / "test.tif") as found:
        image = found.read()
    assert np.isnan(image[:, 1, 1]).all()
    assert np.isfinite(image).sum() == image.size - 2


def test_overlapping_chips_are_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="overlap"):
        write_embedding_rasters(_table(scenes, stride=12), tmp_path, 24, 24)
