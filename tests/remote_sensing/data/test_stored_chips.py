"""Chips that stay in their files are those in memory, batch by batch."""

import gc
import shutil
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from core.augment.aligned_images import AlignedViews
from core.data.checks import DataError
from remote_sensing.data import survey as surveys
from remote_sensing.data.chips import Chips
from remote_sensing.data.read_chips import load_chips
from remote_sensing.data.voronoi_scenes import write_raster
from remote_sensing.systems.croma import CROMA
from remote_sensing.task import ChipProbing

PLACE = Affine(10, 0, 500_000, 0, -10, 5_000_000)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


def _load(path: Path, held: float, **options: Any) -> Chips:
    return load_chips(path, device="cpu", workers=2, held=held, **options)


def _assert_same(held: Chips, stored: Chips) -> None:
    assert stored.is_stored
    assert not held.is_stored
    assert held.ids == stored.ids
    assert held.bands == stored.bands
    assert held.statistics == stored.statistics
    for split, rows in held.splits.items():
        assert torch.equal(rows, stored.splits[split])
    rows = torch.arange(len(held.ids))
    ours, theirs = held.batch(rows), stored.batch(rows)
    for sensor in held.inputs:
        assert torch.equal(ours[sensor], theirs[sensor])
    assert torch.equal(ours.get("valid", torch.ones_like(theirs["valid"])), theirs["valid"])
    if held.targets is None:
        assert stored.targets is None
    else:
        assert stored.targets is not None
        torch.testing.assert_close(held.targets, stored.targets, equal_nan=True, rtol=0, atol=0)
        assert torch.equal(held.covers(rows, ours), stored.covers(rows, theirs))


def test_an_archive_with_clouds_and_wedges_without_data(archive: Path) -> None:
    options: dict[str, Any] = {"size": 20, "min_valid": 0.5}
    held, stored = _load(archive, 4.0, **options), _load(archive, 0.0, **options)
    _assert_same(held, stored)
    assert held.valid is not None
    assert stored.inputs["optical"].dtype == torch.uint16
    assert stored.inputs["radar"].dtype == torch.float32
    assert stored.digest() == _load(archive, 0.0, **options).digest()


def test_scenes_with_larger_test_chips(scenes: Path) -> None:
    held = _load(scenes, 4.0, size=24, larger=72)
    stored = _load(scenes, 0.0, size=24, larger=72)
    _assert_same(held, stored)
    assert held.larger is not None
    assert stored.larger is not None
    _assert_same(held.larger, stored.larger)
    _assert_same(held.without_test(), stored.without_test())


@pytest.mark.parametrize("unit", ["power", "amplitude"])
def test_numbers_that_cannot_say_what_is_missing_are_read_as_floats(
    tmp_path: Path, unit: str
) -> None:
    rng = np.random.default_rng(0)
    optical = rng.integers(0, 4000, (2, 40, 40)).astype(np.uint16)
    optical[:, :2] = 65_535
    radar = rng.integers(0, 900, (1, 40, 40)).astype(np.uint16)
    write_raster(tmp_path / "optical" / "a.tif", optical, PLACE, ("B03", "B04"), 65_535)
    write_raster(tmp_path / "radar" / "a.tif", radar, PLACE, ("VV",), None)
    (tmp_path / "splits.csv").write_text("scene,split\na,train\n")
    options: dict[str, Any] = {"size": 20, "min_valid": 0.5, "radar_unit": unit}
    held, stored = _load(tmp_path, 4.0, **options), _load(tmp_path, 0.0, **options)
    _assert_same(held, stored)
    assert stored.inputs["optical"].dtype == torch.float32  # 0 is a value there
    assert stored.inputs["radar"].dtype == torch.uint16
    assert not stored.batch(torch.tensor([0]))["valid"][0, :2].any()


def test_files_on_other_grids_are_aligned_as_they_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    optical = rng.integers(1500, 4000, (1, 40, 40)).astype(np.uint16)
    radar = rng.normal(-14, 3, (1, 50, 50)).astype(np.float32)
    write_raster(tmp_path / "optical" / "a.tif", optical, PLACE, ("B04",), None)
    moved = PLACE @ Affine.translation(-3.4, -2.6)
    write_raster(tmp_path / "radar" / "a.tif", radar, moved, ("VV",), np.nan)
    (tmp_path / "splits.csv").write_text("scene,split\na,train\n")
    options: dict[str, Any] = {"size": 20, "align": True}
    _assert_same(_load(tmp_path, 4.0, **options), _load(tmp_path, 0.0, **options))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_gets_the_same_batches_also_resumed_and_shared(scenes: Path, workers: int) -> None:
    task = ChipProbing(AlignedViews())
    data = {held: _load(scenes, held, size=24).without_test() for held in (4.0, 0.0)}
    for values in data[0.0].inputs.values():
        values.workers = workers
    system = CROMA(data[4.0].shapes, 4, 16, 2, 2, 16, 1, 2)

    def loader(held: float, rank: int = 0, world_size: int = 1) -> Any:
        return task.train_loader(system, data[held], 20, 3, rank, world_size)

    whole, streamed = loader(4.0), loader(0.0)
    first, second = list(whole), list(whole)
    begun = list(islice(streamed, 2))
    resumed = loader(0.0)
    resumed.load_state_dict(streamed.state_dict())
    found = [*begun, *resumed, *resumed]
    halves = [next(iter(loader(0.0, rank, 2))) for rank in range(2)]
    assert len(found) == len(first) + len(second) == 6
    for expected, batch in zip([*first, *second], found, strict=True):
        for name in ("optical", "radar", "noise/optical", "noise/radar", "index", "label"):
            assert torch.equal(batch[name], expected[name]), name
    for name in ("optical", "radar", "noise/radar", "index"):
        joined = torch.cat([half[name] for half in halves])
        assert torch.equal(joined, first[0][name])


def test_probes_of_stored_chips_find_the_same(scenes: Path) -> None:
    torch.manual_seed(0)
    data = {held: _load(scenes, held, size=24, larger=72) for held in (4.0, 0.0)}
    system = CROMA(data[4.0].shapes, 4, 16, 2, 2, 16, 1, 2).eval()
    held, stored = (ChipProbing().evaluate(system, of, "test") for of in data.values())
    assert {"map", "miou", "map/larger", "knn_accuracy"} <= held.metrics.keys()
    assert stored.metrics == pytest.approx(held.metrics, abs=1e-6)


def test_an_archive_is_looked_through_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(scenes, 0.0, size=24)

    def refuse(*of: object) -> None:
        raise AssertionError("the pixels were read again")

    monkeypatch.setattr(surveys.SceneReader, "read", refuse)
    assert _load(scenes, 0.0, size=24).digest() == first.digest()
    with pytest.raises(AssertionError):
        _load(scenes, 0.0, size=24, stride=23)


def test_a_changed_map_is_looked_at_again(scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scenes, copy)
    before = _load(copy, 0.0, size=24)
    with rasterio.open(copy / "land_cover" / "test.tif", "r+") as target:
        target.write(np.full_like(target.read(), 5))
    held, stored = _load(copy, 4.0, size=24), _load(copy, 0.0, size=24)
    _assert_same(held, stored)
    assert (stored.labels["label"][stored.splits["test"]] == 4).all()
    assert stored.digest() != before.digest()


def test_an_open_file_is_never_taken_for_that_of_a_later_scene(scenes: Path) -> None:
    data = _load(scenes, 0.0, size=24)
    decode = data.inputs["optical"].decode
    decode(0)
    scene = weakref.ref(decode.chips[0].scene)
    del data, decode
    gc.collect()
    # Else its number may become that of a scene of other data, which would get its pixels.
    assert scene() is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_off_is_named(tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate("abc"):
        place = PLACE @ Affine.translation(200 * number, 0)
        optical = rng.integers(1500, 4000, (1, 200, 200)).astype(np.uint16)
        write_raster(tmp_path / "optical" / f"{name}.tif", optical, place, ("B04",), None)
    (tmp_path / "splits.csv").write_text("scene,split\na,train\nb,train\nc,train\n")
    data = _load(tmp_path, 0.0, size=40, sensors=["optical"])
    data.inputs["optical"].workers = workers
    broken = tmp_path / "optical" / "b.tif"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    system = type("Anything", (), {})()
    with pytest.raises(DataError, match=r"b\.tif") as caught:
        list(ChipProbing().train_loader(system, data, 8, 0))
    assert caught.value.path == broken


def test_windows_lie_at_random_whole_pixels_of_training_ground(tmp_path: Path) -> None:
    ramp = np.arange(120 * 120).reshape(1, 120, 120)
    for number, (name, side) in enumerate([("a", 120), ("b", 60), ("c", 60)]):
        place = PLACE @ Affine.translation(200 * number, 0)
        optical = (ramp[:, :side, :side] + 1).astype(np.uint16)
        write_raster(tmp_path / "optical" / f"{name}.tif", optical, place, ("B04",), None)
    (tmp_path / "splits.csv").write_text("scene,split\na,train\nb,train\nc,test\n")
    options: dict[str, Any] = {"size": 20, "sensors": ["optical"], "dn_offset": 0.0}
    data = _load(tmp_path, 0.0, windows=500, **options)
    train = [data.ids[row].rsplit("_", 2) for row in data.splits["train"].tolist()]
    assert len(train) == len({tuple(place) for place in train}) == 500
    of_a = [(int(row), int(column)) for name, row, column in train if name == "a"]
    # In proportion to the pixels: 4 to 1.
    assert {name for name, *_ in train} == {"a", "b"}
    assert 365 < len(of_a) < 435
    rows = np.array(of_a)
    assert rows.min() == 0
    assert rows.max() == 100
    assert len(np.unique(rows % 20)) == 20
    assert [data.ids[row] for row in data.splits["test"].tolist()] == [
        f"c_{row}_{column}" for row in (0, 20, 40) for column in (0, 20, 40)
    ]
    # Pixels are those of the file, none between two.
    row = int(data.splits["train"][3])
    name, top, left = data.ids[row].rsplit("_", 2)
    with rasterio.open(tmp_path / "optical" / f"{name}.tif") as source:
        whole = source.read(1)
    stored = data.inputs["optical"].index_select(0, torch.tensor([row]))[0, 0].numpy()
    window = whole[int(top) : int(top) + 20, int(left) : int(left) + 20]
    np.testing.assert_array_equal(stored, window)
    again = _load(tmp_path, 4.0, windows=500, **options)
    assert again.ids == data.ids
    assert _load(tmp_path, 4.0, windows=500, seed=1, **options).ids != data.ids
    with pytest.raises(DataError, match=r"data\.windows=50: found 9 places"):
        _load(tmp_path, 4.0, windows=50, **options | {"size": 118})
    with pytest.raises(DataError, match=r"data\.windows=0"):
        _load(tmp_path, 4.0, windows=0, **options)


def test_random_windows_keep_their_distance_from_blocks_of_other_splits(tmp_path: Path) -> None:
    optical = np.random.default_rng(0).integers(1, 4000, (1, 400, 400)).astype(np.uint16)
    write_raster(tmp_path / "optical" / "a.tif", optical, PLACE, ("B04",), None)
    options: dict[str, Any] = {"size": 20, "block": 1000.0, "ratios": (0.5, 0.0, 0.5)}
    data = _load(tmp_path, 4.0, windows=200, sensors=["optical"], **options)
    corner = data.places.affine[:, [2, 5]]
    train, test = (corner[data.splits[split]] for split in ("train", "test"))
    assert len(train) == 200
    assert len(test) > 3
    gap = (train[:, None] - test[None]).abs().amax(-1)
    assert gap.min() >= 200 + 200  # metres: a side of its own, and the buffer
