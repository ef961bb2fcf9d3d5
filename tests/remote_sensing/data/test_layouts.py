"""Which files belong together."""

from pathlib import Path

from remote_sensing.data.bands import SENSORS
from remote_sensing.data.layouts import find_scenes


def _product(root: Path, sensor: str, place: str, name: str, *bands: str) -> None:
    folder = root / sensor / place / name
    folder.mkdir(parents=True)
    for band in bands:
        (folder / f"{band}.tif").touch()


def test_products_of_two_satellites_are_paired_by_their_dates(tmp_path: Path) -> None:
    dates = ("20200310", "20200607", "20200915", "20201224")
    for date, satellite in zip(dates, "BABA", strict=True):
        _product(tmp_path, "s2a", "0000001", f"{date}T101031_{date}T101208_T33UVU", "B4")
        name = f"S1{satellite}_IW_GRDH_1SDV_{date}T165500_{date}T165525_032904_03CFBA_D457"
        _product(tmp_path, "s1", "0000001", name, "VV", "VH")
    (tmp_path / "s1" / ".DS_Store").touch()  # what is no folder is no place
    scenes = find_scenes(tmp_path, "auto", SENSORS, dict.fromkeys(SENSORS))
    assert [scene.name for scene in scenes] == [f"0000001_{number}" for number in range(4)]
    for scene, date in zip(scenes, dates, strict=True):
        assert all(date in file.parent.name for file in scene.files)
