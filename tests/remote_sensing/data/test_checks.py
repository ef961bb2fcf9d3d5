"""What `data check` says of a clean archive, and of one in which one file is broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from core.data.checks import CheckReport
from remote_sensing.data import checks
from remote_sensing.data.checks import check_chips

Broken = Callable[[str], Path]
RED, NEAR, VV, VH = (
    *("s2a/0000004/*/B4.tif", "s2a/0000004/*/B8.tif"),
    *("s1/0000004/*/VV.tif", "s1/0000004/*/VH.tif"),
)


def _check(path: Path, **options: Any) -> CheckReport:
    return check_chips(path, size=20, block=5000.0, buffer=0.0, workers=1, **options)


def _root(file: Path) -> Path:
    return next(parent for parent in file.parents if (parent / "classes.json").is_file())


def _rewrite(
    file: Path, change: Callable[[np.ndarray], np.ndarray] = lambda x: x, **profile: Any
) -> None:
    with rasterio.open(file) as source:
        values, old, names = source.read(), dict(source.profile), source.descriptions
    values = change(values)
    old |= {"dtype": values.dtype, "height": values.shape[1], "width": values.shape[2]} | profile
    with rasterio.open(file, "w", **old) as target:
        target.write(values)
        target.descriptions = names


def _only(report: CheckReport, file: Path, *words: str) -> None:
    """One problem, of this file, with all the words."""
    assert report.problems, report.warnings
    said = [str(problem) for problem in report.problems]
    assert {problem.path for problem in report.problems} == {file}, said
    assert any(all(word in text for word in words) for text in said), said
    assert all("to do:" in text or "expected:" in text for text in said)


def test_a_clean_archive_is_usable(archive: Path) -> None:
    report = _check(archive)
    assert report.problems == []
    assert report.facts["scenes"] == "12 usable of 12"
    assert report.facts["optical"].startswith("B01, B02, B03")
    counts = [report.facts[f"{s} chips"] for s in ("train", "valid", "test")]
    dropped = report.facts["chips with too few data, dropped"]
    assert sum(counts) + dropped == 12 * 9
    assert counts[0] > 0
    assert not (archive / "statistics.json").exists()


def test_a_scene_is_read_some_rows_at_a_time(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _check(archive)
    monkeypatch.setattr(checks, "_PIXELS", 14 * 60 * 7)
    parts = _check(archive)
    assert (parts.facts, parts.problems, parts.warnings) == (whole.facts, [], whole.warnings)


def test_codes_of_maps_that_nobody_named(broken: Broken) -> None:
    file = broken("land_cover/0000004.tif")
    _rewrite(file, lambda x: np.where(x == x.max(), 77, x).astype(np.uint8))
    report = _check(_root(file))
    assert report.problems == []
    assert any("does not name 77" in warning for warning in report.warnings)
    names = broken("classes.json")
    names.unlink()
    (problem,) = _check(names.parent).problems
    assert problem.path == names
    assert "no such file" in str(problem)


def test_a_sensor_in_another_reference_system(broken: Broken) -> None:
    file = broken(VV)
    _rewrite(file, crs="EPSG:32632")
    report = _check(_root(file))
    _only(report, file, "no ground in common", "EPSG:32632")


def test_a_sensor_shifted_by_half_its_width(broken: Broken) -> None:
    file = broken(VH)
    with rasterio.open(file) as source:
        place = source.transform
    _rewrite(file, transform=place @ Affine.translation(30, 0))
    _only(_check(_root(file)), file, "another grid", "EPSG:32633, 60 x 60", "data.align=true")
    aligned = _check(_root(file), align=True)
    assert any("brought to the grid" in warning for warning in aligned.warnings)


def test_a_sensor_of_another_shape(broken: Broken) -> None:
    file = broken(VV)
    _rewrite(file, lambda x: x[:, :50])
    _only(_check(_root(file)), file, "another grid", "60 x 50 pixels")


def test_no_ground_in_common(broken: Broken) -> None:
    file = broken(VH)
    with rasterio.open(file) as source:
        place = source.transform
    _rewrite(file, transform=Affine.translation(90_000, 0) @ place)
    _only(_check(_root(file), align=True), file, "no ground in common")


def test_red_and_near_infrared_swapped(broken: Broken) -> None:
    red, near = broken(RED), broken(NEAR)
    name = red.with_name("x")
    red.rename(name)
    near.rename(red)
    name.rename(near)
    report = _check(_root(red))
    assert {problem.path for problem in report.problems} == {red, near}
    assert "calls its band B8" in str(report.problems[0])
    # Without descriptions there are the values.
    for file in (red, near):
        with rasterio.open(file, "r+") as target:
            target.set_band_description(1, "")
    report = _check(_root(red))
    _only(report, red, "B04 and B08 of 0000004 look as if they were swapped")


def test_a_fine_band_in_the_place_of_a_coarse_one(broken: Broken) -> None:
    red, aerosol = broken(RED), broken("s2a/0000004/*/B1.tif")
    name = red.with_name("x")
    red.rename(name)
    aerosol.rename(red)
    name.rename(aerosol)
    said = " ".join(str(problem) for problem in _check(_root(red)).problems)
    assert "B04 has pixels of 60, B01 of 10" in said


def test_polarisations_swapped(broken: Broken) -> None:
    co, cross = broken(VV), broken(VH)
    _rewrite(co, lambda x: x - 12)
    for file in (co, cross):
        with rasterio.open(file, "r+") as target:
            target.set_band_description(1, "")
    _only(_check(_root(co)), co, "VH is", "above VV", "swapped")


def test_linear_power_where_decibels_are_declared(broken: Broken) -> None:
    file = broken(VV)
    _rewrite(file, lambda x: 10 ** (x / 10))
    report = _check(_root(file))
    _only(report, file, "data.radar_unit=power")
    decibels = _check(_root(file), radar_unit="power")
    said = [str(problem) for problem in decibels.problems]
    assert sum("if these are dB, say data.radar_unit=db" in text for text in said) == 23


def test_a_value_for_no_data_that_is_not_declared(broken: Broken) -> None:
    file = broken(VV)

    def spoil(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[:, :, :5] = -9999
        return values

    _rewrite(file, spoil)
    _only(_check(_root(file)), file, "VV is -9999 in 8.3 % of the pixels", "gdal_edit.py")


def test_an_optical_value_for_no_data_that_is_not_declared(broken: Broken) -> None:
    file = broken(RED)

    def spoil(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[:, :, :5] = 65535
        return values

    _rewrite(file, spoil)
    _only(_check(_root(file)), file, "B04 is 65535 in 8.")


@pytest.mark.parametrize("kept", [100, 3000], ids=["header", "pixels"])
def test_a_file_that_broke_off(broken: Broken, kept: int) -> None:
    file = broken(RED)
    file.write_bytes(file.read_bytes()[:kept])
    _only(_check(_root(file)), file, "cannot be")


def test_a_file_that_is_no_raster(broken: Broken) -> None:
    file = broken(RED)
    file.write_text("<html>404</html>")
    _only(_check(_root(file)), file, "cannot be opened as a raster")


def test_a_file_without_a_place(broken: Broken) -> None:
    file = broken(VV)
    _rewrite(file, crs=None)
    _only(_check(_root(file)), file, "no coordinate reference system")


def test_numbers_of_another_type(broken: Broken) -> None:
    file = broken(VV)
    _rewrite(file, lambda x: np.nan_to_num(x, nan=-99).astype(np.int16), nodata=-99)
    report = _check(_root(file))
    assert any("values are int16" in str(p) and p.path == file for p in report.problems)
    file = broken(RED)
    _rewrite(file, lambda x: (x / 65535).astype(np.float32))
    report = _check(_root(file))
    assert any("values are float32" in str(p) and p.path == file for p in report.problems)


def test_digital_numbers_without_the_offset(broken: Broken) -> None:
    file = broken("s2a/0000004/*/B12.tif")
    for own in file.parent.glob("B*.tif"):
        _rewrite(
            own, lambda x: np.where(x > 0, np.maximum(x.astype(int) - 1000, 1), 0).astype("u2")
        )
    report = _check(_root(file))
    assert report.problems
    assert {problem.path.parent for problem in report.problems} == {file.parent}
    assert "data.dn_offset=0" in str(report.problems[0])


def test_a_band_that_is_missing(broken: Broken) -> None:
    file = broken(RED)
    file.unlink()
    (problem,) = _check(_root(file)).problems
    assert problem.path == file.parent
    assert "optical has no band B04" in str(problem)


def test_the_same_scene_twice(broken: Broken) -> None:
    for band in (*("s2a/0000004/*/" + b for b in ("B1.tif", "B2.tif")), VV):
        assert broken(band).is_file()
    root = _root(broken(VV))
    for sensor in ("s1", "s2a"):
        for file in sorted((root / sensor / "0000004").rglob("*.tif")):
            (twin,) = (root / sensor / "0000005").rglob(file.name)
            with rasterio.open(twin) as source:
                place = source.transform
            twin.write_bytes(file.read_bytes())
            with rasterio.open(twin, "r+") as target:
                target.transform = place
    problems = _check(root).problems
    assert ["the same values as" in str(problem) for problem in problems] == [True]


def test_one_broken_scene_does_not_hide_another(broken: Broken) -> None:
    first, second = broken(RED), broken("s1/0000006/*/VV.tif")
    first.write_bytes(first.read_bytes()[:3000])
    _rewrite(second, lambda x: 10 ** (x / 10))
    report = _check(_root(first))
    assert {problem.path for problem in report.problems} == {first, second}
    assert report.facts["scenes"] == "10 usable of 12"
