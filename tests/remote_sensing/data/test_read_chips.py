"""From GeoTIFFs to chips: values, masks, statistics, alignment, splits, labels."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.warp import Resampling, calculate_default_transform, reproject

from core.data.checks import DataError
from remote_sensing.data.checks import check_chips
from remote_sensing.data.chips import Chips
from remote_sensing.data.read_chips import load_chips
from remote_sensing.data.voronoi_scenes import write_raster

PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)
BANDS = ("B02", "B03", "B04", "B08")


def _load(path: Path, **options: Any) -> Chips:
    return load_chips(path, device="cpu", workers=1, **options)


def _write(path: Path, names: tuple[str, ...] = ("a", "b"), side: int = 40) -> None:
    """Scenes of digital numbers and decibels, with a split for each."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        place = PLACE @ Affine.translation(number * side, 0)
        optical = rng.integers(1500, 4000, (4, side, side)).astype(np.uint16)
        radar = rng.normal(-14, 3, (2, side, side)).astype(np.float32)
        write_raster(path / "optical" / f"{name}.tif", optical, place, BANDS, None)
        write_raster(path / "radar" / f"{name}.tif", radar, place, ("VV", "VH"), np.nan)
    rows = [f"{name},{s}" for name, s in zip(names, ("train", "test", "valid"), strict=False)]
    (path / "splits.csv").write_text("\n".join(["scene,split", *rows]) + "\n")


def test_values_of_a_chip_are_those_of_the_file(tmp_path: Path) -> None:
    _write(tmp_path)
    data = _load(tmp_path, size=20)
    assert data.bands == {"optical": list(BANDS), "radar": ["VV", "VH"]}
    assert data.inputs["optical"].dtype == torch.uint8
    assert data.shapes == {"optical": [4, 20, 20], "radar": [2, 20, 20]}
    row = data.ids.index("b_20_0")
    with rasterio.open(tmp_path / "optical" / "b.tif") as source:
        numbers = source.read()[:, 20:, :20].astype(float)
        place = source.transform
    step = (data.statistics["optical"]["B02"][1] - data.statistics["optical"]["B02"][0]) / 255
    found = data.physical(row)["optical"].numpy()
    np.testing.assert_allclose(found, (numbers - 1000) / 10_000, atol=0.6 * step)
    assert data.places.crs[row] == "EPSG:32633"
    assert data.places.affine[row].tolist() == list(place @ Affine.translation(0, 20))[:6]


def test_statistics_are_of_training_pixels_with_data(tmp_path: Path) -> None:
    _write(tmp_path)
    for sensor, value in (("optical", 0), ("radar", np.nan)):
        with rasterio.open(tmp_path / sensor / "a.tif", "r+") as target:
            values = target.read()
            values[:, :, :3] = value
            target.write(values)
    data = _load(tmp_path, size=20, min_valid=0.8)
    with rasterio.open(tmp_path / "optical" / "a.tif") as source:
        known = (source.read()[:, :, 3:].astype(float) - 1000) / 10_000
    mean, spread = known.mean((1, 2)), known.std((1, 2))
    ends = np.array(list(data.statistics["optical"].values()))
    np.testing.assert_allclose(ends, np.stack([mean - 2 * spread, mean + 2 * spread], 1), rtol=1e-4)
    assert data.valid is not None
    row = data.ids.index("a_0_0")
    assert not data.valid[row, :, :3].any()
    assert data.valid[row, :, 3:].all()
    assert (data.inputs["optical"][row, :, :, :3] == 128).all()
    assert (data.inputs["radar"][row, :, :, :3] == 128).all()
    assert len(_load(tmp_path, size=20, min_valid=0.9).splits["train"]) == 2


def test_statistics_are_kept_beside_the_data_until_something_changes(tmp_path: Path) -> None:
    _write(tmp_path)
    first = _load(tmp_path, size=20)
    file = tmp_path / "statistics.json"
    content = json.loads(file.read_text())
    content["ends"]["radar"]["VV"] = [-30.0, 0.0]
    file.write_text(json.dumps(content))
    assert _load(tmp_path, size=20).statistics["radar"]["VV"] == (-30.0, 0.0)
    with rasterio.open(tmp_path / "radar" / "a.tif", "r+") as target:
        target.write(target.read() + 1)
    again = _load(tmp_path, size=20).statistics["radar"]["VV"]
    expected = np.array(first.statistics["radar"]["VV"]) + 1
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_those_of_a_training_are_used_for_other_files(tmp_path: Path) -> None:
    _write(tmp_path / "one")
    _write(tmp_path / "two", ("c", "d"))
    _load(tmp_path / "one", size=20)
    file = tmp_path / "one" / "statistics.json"
    data = _load(tmp_path / "two", size=20, statistics=file)
    assert data.statistics == _load(tmp_path / "one", size=20).statistics
    assert not (tmp_path / "two" / "statistics.json").exists()
    with pytest.raises(DataError, match=r"optical_bands=\[B02,B03,B04,B08\]"):
        _load(tmp_path / "two", size=20, statistics=file, optical_bands=["B2", "B3"])


def test_without_workers_it_reads_itself(tmp_path: Path) -> None:
    _write(tmp_path)
    data = load_chips(tmp_path, size=20, device="cpu", workers=0)
    assert data.digest() == _load(tmp_path, size=20).digest()
    assert check_chips(tmp_path, size=20, workers=0).problems == []


def test_bands_are_found_by_name(tmp_path: Path) -> None:
    _write(tmp_path)
    whole, some = _load(tmp_path, size=20), _load(tmp_path, size=20, optical_bands=["B8", "B02"])
    assert some.bands["optical"] == ["B08", "B02"]
    assert torch.equal(some.inputs["optical"], whole.inputs["optical"][:, [3, 0]])
    with pytest.raises(DataError, match="no band B11"):
        _load(tmp_path, size=20, optical_bands=["B11"])


def test_one_sensor_alone(tmp_path: Path) -> None:
    _write(tmp_path)
    shutil.rmtree(tmp_path / "optical")
    data = _load(tmp_path, size=20, sensors=["radar"])
    assert list(data.inputs) == ["radar"]
    with pytest.raises(DataError, match="has no partner of optical"):
        _load(tmp_path, size=20)


def test_windows_do_not_hang_over_the_edge(tmp_path: Path) -> None:
    _write(tmp_path, side=50)
    assert len(_load(tmp_path, size=20).ids) == 2 * 4
    assert len(_load(tmp_path, size=20, stride=15).ids) == 2 * 9
    assert len(_load(tmp_path).ids) == 2
    with pytest.raises(DataError, match="no scene has 60 x 60"):
        _load(tmp_path, size=60)


def test_a_sensor_in_another_zone_is_aligned_on_demand(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    field = np.cumsum(np.cumsum(rng.normal(0, 0.02, (1, 100, 100)), 1), 2)
    field = (field - field.mean()) / field.std()
    optical = np.clip(3000 + 600 * field, 1, None).astype(np.uint16)
    radar = (-14 + 3 * field).astype(np.float32)
    write_raster(tmp_path / "optical" / "a.tif", optical, PLACE, ("B04",), None)
    other, width, height = calculate_default_transform(
        "EPSG:32633", "EPSG:32632", 100, 100, 500_000, 4_999_000, 501_000, 5_000_000
    )
    moved = np.full((1, height, width), np.nan, np.float32)
    reproject(
        radar,
        moved,
        src_transform=PLACE,
        src_crs="EPSG:32633",
        dst_transform=other,
        dst_crs="EPSG:32632",
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    file = tmp_path / "radar" / "a.tif"
    write_raster(file, moved, other, ("VV",), np.nan, crs="EPSG:32632")
    (tmp_path / "splits.csv").write_text("scene,split\na,train\n")
    with pytest.raises(DataError, match=r"data\.align=true") as refused:
        _load(tmp_path, size=40, min_valid=0.5)
    assert refused.value.path == file
    data = _load(tmp_path, size=40, align=True, min_valid=0.5)
    found = torch.cat([data.physical(row)["radar"][0] for row in range(len(data.ids))])
    seen = torch.cat([data.physical(row)["optical"][0] for row in range(len(data.ids))])
    both = torch.stack([found.flatten(), seen.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.99
    assert data.places.crs == ["EPSG:32633"] * len(data.ids)


def test_coarser_bands_lie_where_they_belong(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(60) * 50 + 1500, (60, 60))
    for band, step in (("B2", 1), ("B11", 2), ("B1", 6)):
        few = ramp.reshape(60 // step, step, 60 // step, step).mean((1, 3))[None]
        file = tmp_path / "s2a" / "0000001" / "P" / f"{band}.tif"
        write_raster(file, few.astype(np.uint16), PLACE @ Affine.scale(step), (band,), None)
    data = _load(tmp_path, sensors=["optical"], block=1e5, ratios=(1, 0, 0))
    assert data.bands["optical"] == ["B01", "B02", "B11"]
    inner = data.physical(0)["optical"][:, 6:-6, 8:-8]
    assert (inner[0] - inner[1]).abs().max() < 0.004
    assert (inner[2] - inner[1]).abs().max() < 0.004


def test_land_cover_becomes_shares_and_labels(tmp_path: Path) -> None:
    _write(tmp_path)
    cover = np.full((1, 40, 40), 7, np.uint8)
    cover[:, :, :5] = 3
    cover[:, :20, 20:] = 0
    write_raster(tmp_path / "land_cover" / "a.tif", cover, PLACE, ("land cover",), 0)
    with pytest.raises(DataError, match=r"classes\.json: no such file"):
        _load(tmp_path, size=20)
    (tmp_path / "classes.json").write_text('{"7": "forest", "3": "water"}')
    data = _load(tmp_path, size=20)
    assert data.classes["label"] == ["water", "forest"]
    assert data.targets is not None
    of = dict(zip(data.ids, data.targets.tolist(), strict=True))
    assert of["a_0_0"] == [0.25, 0.75]
    assert of["a_20_20"] == [0.0, 1.0]
    assert all(np.isnan(of[name]).all() for name in ("a_0_20", "b_0_0"))
    labels = dict(zip(data.ids, data.labels["label"].tolist(), strict=True))
    assert (labels["a_0_0"], labels["a_20_20"], labels["b_0_0"]) == (1, 1, -1)
    assert data.cover is not None
    assert data.cover[data.ids.index("b_0_0")].unique().tolist() == [255]


def test_the_generated_scenes(scenes: Path) -> None:
    data = _load(scenes, size=24, larger=72)
    assert {s: len(rows) for s, rows in data.splits.items()} == {
        "train": 52,
        "valid": 20,
        "test": 30,
    }
    assert data.targets is not None
    labelled = ~data.targets[:, 0].isnan()
    assert labelled[data.splits["train"]].sum() == 40
    assert (data.targets[labelled] > 0).sum(1).max() <= 3
    assert data.larger is not None
    assert data.larger.shapes["optical"] == [6, 72, 72]
    assert data.larger.statistics == data.statistics
    middle = data.inputs["optical"][data.splits["train"]].float().mean((0, 2, 3))
    assert (middle - 127.5).abs().max() < 3


def test_training_never_gets_test_chips(scenes: Path) -> None:
    data = _load(scenes, size=24, larger=72)
    kept = data.without_test()
    assert kept.larger is None
    assert len(kept.ids) == 72
    assert len(kept.places.crs) == len(kept.places.affine) == 72
    assert kept.targets is not None
    assert data.targets is not None
    row = data.ids.index(kept.ids[60])
    assert torch.equal(kept.targets[60], data.targets[row])
    assert torch.equal(kept.places.affine[60], data.places.affine[row])
    assert kept.digest() != data.digest()
    assert data.digest() == _load(scenes, size=24, larger=72).digest()


def test_the_archive_is_read_as_it_was_written(archive: Path) -> None:
    data = _load(archive, size=20, min_valid=0.5)
    assert data.shapes == {"optical": [12, 20, 20], "radar": [2, 20, 20]}
    assert data.bands["optical"][8] == "B8A"
    assert data.valid is not None
    assert data.valid.float().mean((1, 2)).min() >= 0.5
    labels = data.labels["label"]
    forest = (labels == data.classes["label"].index("conifer forest")).nonzero().flatten()
    water = (data.targets[:, 0] > 0.6).nonzero().flatten()
    for row in water.tolist():
        assert data.physical(row)["radar"][0].mean() < -14
    assert len(forest) > 5
    mean = torch.stack([data.physical(row)["radar"] for row in forest.tolist()]).mean((0, 2, 3))
    assert -12 < mean[0] < -7
    assert mean[1] < mean[0] - 3


def test_whole_scenes_must_be_of_one_size(tmp_path: Path) -> None:
    _write(tmp_path / "x", ("a",), 40)
    _write(tmp_path / "y", ("b",), 30)
    for sensor in ("optical", "radar"):
        shutil.copy(tmp_path / "y" / sensor / "b.tif", tmp_path / "x" / sensor)
    with pytest.raises(DataError, match=r"data\.size=PIXELS"):
        _load(tmp_path / "x", split="blocks")


def test_a_band_of_one_value_is_refused_in_words(tmp_path: Path) -> None:
    _write(tmp_path)
    with rasterio.open(tmp_path / "optical" / "a.tif", "r+") as target:
        values = target.read()
        values[1] = 2000
        target.write(values)
    said = r"optical, B02.*: band 2 is 0\.1 everywhere\n(.*\n)*.*data\.optical_bands"
    with pytest.raises(DataError, match=said):
        _load(tmp_path, size=20)
    (problem,) = check_chips(tmp_path, size=20, workers=1).problems
    assert "band 2 is 0.1 everywhere" in str(problem)


def test_files_of_splits_as_spreadsheets_write_them(tmp_path: Path) -> None:
    _write(tmp_path)
    file = tmp_path / "splits.csv"
    file.write_text("scene,split\na,train\nb,test\n", encoding="utf-8-sig")
    assert [len(_load(tmp_path, size=20).splits[s]) for s in ("train", "test")] == [4, 4]
    file.write_bytes("scene,split\na,train\nb,test\nâ,test\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"splits\.csv: cannot be read.*\n.*UTF-8"):
        _load(tmp_path, size=20)
    file.write_text("scene,split\na,train\nb,test\na,test\n")
    with pytest.raises(DataError, match=r"splits\.csv:4: scene a is in train and in test"):
        _load(tmp_path, size=20)


def test_options_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    _write(tmp_path)
    wrong: list[dict[str, Any]] = [
        {"sensors": ["thermal"]},
        {"optical_unit": "db"},
        {"radar_unit": "dn"},
        {"stride": 5},
        {"min_valid": 0.0},
        {"format": "zarr"},
        {"split": "random"},
    ]
    for options in wrong:
        with pytest.raises(DataError, match=next(iter(options))):
            _load(tmp_path, **options)
    with pytest.raises(DataError, match="no such folder"):
        _load(tmp_path / "nothing")
    (tmp_path / "splits.csv").write_text("scene,split\na,train\n")
    with pytest.raises(DataError, match="does not say the split of b"):
        _load(tmp_path)
