"""Generated rasters are what they claim to be."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from core.data.checks import DataError
from remote_sensing.data.archive_demo import write_archive
from remote_sensing.data.landscape import (
    CEREAL,
    CONIFER,
    MAIZE,
    OPTICAL_BANDS,
    TOWN,
    WATER,
    Land,
    backscatter,
    make_land,
    reflectance,
)
from remote_sensing.data.voronoi_scenes import voronoi_maps, write_scenes

RED, NEAR, SWIR = (OPTICAL_BANDS.index(band) for band in ("B04", "B08", "B11"))


def _plain(code: int, side: int = 60) -> Land:
    """A place of one class, flat and even."""
    even = np.ones((side, side))
    return Land(np.full((side, side), code, np.uint8), even, 0 * even, even)


def _mean(code: int, season: int, n: int = 12) -> np.ndarray:
    images = [reflectance(_plain(code), season, np.random.default_rng(s)) for s in range(n)]
    return np.median([image.reshape(12, -1).mean(1) for image in images], 0)


def test_plants_are_bright_in_the_near_infrared_when_they_grow() -> None:
    def greenness(code: int, season: int) -> float:
        mean = _mean(code, season)
        return float((mean[NEAR] - mean[RED]) / (mean[NEAR] + mean[RED]))

    assert greenness(MAIZE, 2) > 0.6 > 0.3 > greenness(MAIZE, 1)
    assert greenness(CEREAL, 1) > 0.6 > greenness(CEREAL, 3)
    assert greenness(CONIFER, 0) > 0.5
    assert greenness(WATER, 2) < 0
    assert _mean(WATER, 2)[SWIR] < 0.02


def test_backscatter_of_water_is_faint_and_that_of_towns_loud() -> None:
    def mean(code: int) -> np.ndarray:
        of = [backscatter(_plain(code), 2, np.random.default_rng(s)) for s in range(12)]
        return np.mean(of, (0, 2, 3))

    assert (mean(TOWN) > mean(CONIFER)).all()
    assert (mean(CONIFER) > mean(WATER) + 7).all()
    for code in (WATER, CONIFER, CEREAL, MAIZE, TOWN):
        assert mean(code)[0] > mean(code)[1] + 3
    assert -25 < mean(WATER)[0] < -17


def test_speckle_has_its_number_of_looks() -> None:
    power = 10 ** (backscatter(_plain(CONIFER), 0, np.random.default_rng(0)) / 10)
    looks = power.mean((1, 2)) ** 2 / power.var((1, 2))
    assert looks == pytest.approx([4.4, 4.4], rel=0.1)


def test_places_differ_in_their_mix() -> None:
    shares = np.stack(
        [
            np.bincount(make_land(60, np.random.default_rng(s)).cover.ravel(), minlength=8)
            for s in range(20)
        ]
    )
    assert (shares[:, 1:].sum(0) > 0).all()
    assert shares[:, 0].sum() == 0
    assert (shares > 0).sum(1).min() < 7


def test_maps_have_three_classes_at_most() -> None:
    maps = voronoi_maps(50, 24, np.random.default_rng(0))
    assert max(len(np.unique(one)) for one in maps) == 3
    assert len(np.unique(maps)) == 8


def test_files_of_the_archive_are_those_of_the_products(archive: Path) -> None:
    (place,) = archive.glob("s2a/0000003/*")
    pixels, widths = {}, {}
    for file in place.glob("*.tif"):
        with rasterio.open(file) as source:
            assert source.dtypes == ("uint16",)
            assert source.nodata is None
            assert source.crs.to_epsg() == 32633
            pixels[file.stem], widths[file.stem] = source.transform.a, source.width
            assert source.bounds == rasterio.open(place / "B2.tif").bounds
    assert len(pixels) == 12
    assert [pixels[b] for b in ("B2", "B8A", "B9")] == [10, 20, 60]
    assert [widths[b] for b in ("B2", "B8A", "B9")] == [60, 30, 10]
    (radar,) = archive.glob("s1/0000003/*/VH.tif")
    with rasterio.open(radar) as source:
        assert source.dtypes == ("float32",)
        assert np.isnan(source.nodata)


def test_some_images_have_an_edge_without_data(archive: Path) -> None:
    shares = []
    for file in archive.glob("s2a/*/*/B2.tif"):
        with rasterio.open(file) as source:
            shares.append((source.read(1) == 0).mean())
    assert 0 < sum(share > 0.02 for share in shares) < len(shares) / 2


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_archive(tmp_path / name, seed, n_places=1, side=12, seasons=1)
        write_scenes(tmp_path / f"scenes {name}", seed, 2, 2, 2, 2, 2)
    for one in ("", "scenes "):
        files = list((tmp_path / f"{one}a").rglob("*.tif"))
        assert files
        for file in files:
            place = file.relative_to(tmp_path / f"{one}a")
            assert file.read_bytes() == (tmp_path / f"{one}b" / place).read_bytes()
    (a, c) = (next((tmp_path / name).rglob("VV.tif")).read_bytes() for name in ("a", "c"))
    assert a != c


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demo\.side=50"):
        write_archive(tmp_path / "x", side=50)
    with pytest.raises(DataError, match=r"demo\.seasons=5"):
        write_archive(tmp_path / "x", seasons=5)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="other files"):
        write_scenes(tmp_path / "y")
