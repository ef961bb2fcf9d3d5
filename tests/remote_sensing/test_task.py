"""Evaluation, augmentation and search of chips, with systems whose features are known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.image import imread
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from core.augment.aligned_images import AlignedViews
from core.data.checks import DataError
from core.trainers.system import Batch, System
from remote_sensing.data.chips import Chips, Places
from remote_sensing.data.gallery import title_of
from remote_sensing.probes import RidgeProbe
from remote_sensing.systems.croma import CROMA
from remote_sensing.task import ChipProbing

SIDE, N_CLASSES = 8, 3


class Means(System):
    """Means of the bands; of both sensors the same space."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        return {name: of.mean((2, 3)) for name, of in batch.items() if of.ndim == 4}

    def project(self, batch: Batch) -> dict[str, Tensor]:
        return {name: of[:, :2] for name, of in self.embed(batch).items()}


class Tokens(Means):
    """Beside them the pixels of patches of 2 x 2."""

    def tokens(self, batch: Batch) -> dict[str, Tensor]:
        cells = {n: nn.functional.avg_pool2d(of, 2) for n, of in batch.items() if of.ndim == 4}
        return {name: of.flatten(2).transpose(1, 2) for name, of in cells.items()}


def _chips(n: int = 90, larger: bool = True, labelled: float = 1.0, side: int = SIDE) -> Chips:
    """Band c of the optical sensor is bright where class c covers; radar sees the first two."""
    g = torch.Generator().manual_seed(side)
    cover = torch.randint(0, N_CLASSES, (n, side // 4, side // 4), generator=g)
    cover = torch.where(torch.rand(cover.shape, generator=g) < 0.6, cover[:, :1, :1], cover)
    cover = cover.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    one_hot = nn.functional.one_hot(cover.long(), N_CLASSES).movedim(-1, 1)
    noise = torch.randint(0, 100, one_hot.shape, generator=g)
    optical = (one_hot * 120 + noise).to(torch.uint8)
    shares = one_hot.float().mean((2, 3))
    known = torch.rand(n, generator=g) < labelled
    shares[~known] = torch.nan
    third = n // 3
    rows = torch.arange(n)
    splits = {"train": rows[:third], "valid": rows[third : 2 * third], "test": rows[2 * third :]}
    if side > SIDE:
        splits = {"train": rows[:0], "valid": rows[:0], "test": rows}
    return Chips(
        inputs={"optical": optical, "radar": optical[:, :2].clone()},
        labels={"label": torch.where(known, shares.nan_to_num().argmax(1), -1)},
        splits=splits,
        ids=[f"chip{i}" for i in range(n)],
        classes={"label": ["a", "b", "c"]},
        bands={"optical": ["B02", "B03", "B04"], "radar": ["VV", "VH"]},
        valid=torch.rand(n, side, side, generator=g) > 0.1,
        statistics={
            "optical": {"B02": (0.0, 1.0), "B03": (0.0, 1.0), "B04": (0.0, 1.0)},
            "radar": {"VV": (-25.0, 0.0), "VH": (-30.0, -5.0)},
        },
        places=Places(
            [f"place_{i // 6}" for i in range(n)],
            ["EPSG:32633"] * n,
            torch.tensor([[10.0, 0, 5e5 + 80 * i, 0, -10, 5e6] for i in range(n)]).double(),
        ),
        targets=shares,
        cover=cover,
        larger=_chips(20, larger=False, side=2 * SIDE) if larger else None,
    )


def test_map_of_each_sensor_of_all_and_of_larger_chips() -> None:
    data, task = _chips(), ChipProbing()
    found = task.evaluate(Means(), data, "test")
    assert {"map", "map/optical", "map/radar", "map/larger", "map/larger/radar"} <= set(
        found.metrics
    )
    assert found.metrics["map/optical"] > 0.95
    assert found.metrics["map/optical"] > found.metrics["map/radar"] > 0.5
    assert found.metrics["map/larger"] > 0.9
    assert {"knn_accuracy", "linear_accuracy/radar", "kmeans_accuracy", "rankme"} <= set(
        found.metrics
    )
    for name, values in found.per_unit.items():
        assert len(values) == len(found.unit_ids) == 30
        assert values.mean() == pytest.approx(found.metrics[name], abs=1e-6)
    assert found.table[-1]["features"] == "joint"


def test_map_is_of_classes_above_the_presence() -> None:
    data = _chips(larger=False)
    rows = data.splits["valid"]
    assert data.targets is not None
    for presence in (0.0, 0.3):
        found = ChipProbing(presence=presence).evaluate(Means(), data, "valid")
        x = {
            s: Means().embed({"o": data.inputs["optical"][data.splits[s]] / 255})["o"]
            for s in ("train", "valid")
        }
        train = data.targets[data.splits["train"]] > presence
        probe = RidgeProbe.fit(x["train"], train, x["train"], train, (0.1,))
        truth = (data.targets[rows] > presence).numpy()
        expected = average_precision_score(truth, probe.scores(x["valid"]).numpy())
        assert found.metrics["map/optical"] == pytest.approx(expected, abs=1e-9)


def test_only_chips_with_a_map_teach_and_judge() -> None:
    data = _chips(labelled=0.5)
    found = ChipProbing().evaluate(Means(), data, "test")
    assert data.targets is not None
    known = ~data.targets[data.splits["test"], 0].isnan()
    assert 5 < known.sum() < 25
    kept = data.splits["test"][known].tolist()
    assert found.unit_ids.tolist() == [data.ids[row] for row in kept]


def test_larger_chips_without_a_map_do_not_judge() -> None:
    data = _chips()
    larger = data.larger
    assert larger is not None
    assert larger.targets is not None
    assert larger.valid is not None
    rows = torch.arange(0, 20, 2)
    unknown = larger.targets.clone()
    unknown[1::2] = torch.nan
    some = replace(
        larger,
        inputs={name: of[rows] for name, of in larger.inputs.items()},
        targets=larger.targets[rows],
        valid=larger.valid[rows],
        splits=larger.splits | {"test": torch.arange(10)},
    )
    found, expected = (
        ChipProbing().evaluate(Means(), replace(data, larger=of), "test").metrics
        for of in (replace(larger, targets=unknown), some)
    )
    assert found["map/larger/radar"] == expected["map/larger/radar"]
    assert found["map/larger"] > 0.9


def test_without_validation_chips_the_penalty_is_fixed() -> None:
    data = _chips(larger=False)
    assert data.targets is not None
    data.targets[data.splits["valid"]] = torch.nan
    found = ChipProbing(nonlinear=False).evaluate(Means(), data, "test").metrics
    train, test = (data.splits[split] for split in ("train", "test"))
    of = data.inputs["radar"].float().mean((2, 3)) / 255
    present = data.targets > 0.1
    probe = RidgeProbe.fit(of[train], present[train], of[train], present[train], (0.1,))
    expected = average_precision_score(present[test].numpy(), probe.scores(of[test]).numpy())
    assert found["map/radar"] == pytest.approx(expected, abs=1e-6)
    assert "linear_accuracy/radar" in found


def test_a_probe_of_tokens_tells_pixels() -> None:
    found = ChipProbing().evaluate(Tokens(), _chips(larger=False), "test")
    # The third class is where radar sees neither of the others.
    assert min(found.metrics[name] for name in ("miou", "miou/optical", "miou/radar")) > 0.9
    shuffled = Tokens()
    shuffled.tokens = lambda batch: {n: of.flip(1) for n, of in Tokens().tokens(batch).items()}
    wrong = ChipProbing().evaluate(shuffled, _chips(larger=False), "test")
    assert wrong.metrics["miou"] < 0.8


def test_without_any_map_only_rankme_is_there() -> None:
    data = _chips(larger=False, labelled=0.0)
    found = ChipProbing(monitor="rankme").evaluate(Means(), data, "valid")
    assert set(found.metrics) == {"rankme"}
    with pytest.raises(DataError, match=r"task\.monitor=map") as refused:
        ChipProbing().evaluate(Means(), data, "valid")
    assert "task.monitor=rankme" in str(refused.value)


@pytest.mark.parametrize("options", [{"monitor": "recall"}, {"presence": 1.0}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="|".join(map(str, options.values()))):
        ChipProbing(**options)


def test_a_batch_is_changed_alike_in_all_its_parts() -> None:
    data = _chips()
    task = ChipProbing(augment=AlignedViews())
    loader = task.train_loader(Means(), data, 30, seed=0)
    (batch,) = list(loader)
    torch.testing.assert_close(batch["radar"], batch["optical"][:, :2])
    assert batch["valid"].dtype == torch.bool
    assert {"index", "label", "targets"} <= set(batch)
    plain = data.inputs["optical"][data.splits["train"]][batch["index"]] / 255
    changed = (plain - batch["optical"]).abs().amax((1, 2, 3)) > 0
    assert 20 < changed.sum() < 30
    torch.testing.assert_close(plain.mean((2, 3)), batch["optical"].mean((2, 3)))
    assert data.valid is not None
    own = data.valid[data.splits["train"]][batch["index"]]
    assert torch.equal(own.sum((1, 2)), batch["valid"].sum((1, 2)))


def test_a_radar_query_is_answered_by_optical_chips(tmp_path: Path) -> None:
    data, task = _chips(), ChipProbing()
    rows = task.search(Means(), data, "radar:chip7", 5)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["optical"] == "chip7"
    assert rows[0]["cosine"] == pytest.approx(1)
    task.draw_search(data, "radar:chip7", rows, tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 5000
    with pytest.raises(DataError, match="optical:ID or radar:ID"):
        task.search(Means(), data, "chip7", 5)
    with pytest.raises(DataError, match="no such id"):
        task.search(Means(), data, "radar:chip", 5)


def test_embeddings_know_where_they_lie() -> None:
    data = _chips(12)
    table = ChipProbing().embed(Means(), data)
    assert table.columns == ["kind", "id", "embedding", "geometry", "scene", "crs", "affine"]
    assert len(table) == 24
    expected = data.inputs["radar"][3].float().mean((1, 2)) / 255
    row = table.filter(kind="radar", id="chip3").row(0, named=True)
    np.testing.assert_allclose(row["embedding"], expected, rtol=1e-5)
    assert row["affine"] == data.places.affine[3].tolist()
    metadata = json.loads(ChipProbing().parquet_metadata(table)["geo"])
    west, south, east, north = metadata["columns"]["geometry"]["bbox"]
    assert 14.9 < west < 15 <= east < 15.1
    assert 45.1 < south < north < 45.2


def test_embeddings_are_written_as_a_raster_a_scene(tmp_path: Path) -> None:
    data, task = _chips(12), ChipProbing()
    lines = task.embed_into(Means(), data, tmp_path)
    files = [f"{sensor}/place_{i}.tif" for sensor in ("optical", "radar") for i in (0, 1)]
    assert [line["file"] for line in lines] == files
    with rasterio.open(tmp_path / "radar" / "place_1.tif") as found:
        assert found.shape == (1, 6)
        assert found.transform[:6] == (80, 0, 5e5 + 6 * 80, 0, -80, 5e6)
        expected = data.inputs["radar"][6:].float().mean((2, 3)).T / 255
        np.testing.assert_allclose(found.read()[:, 0], expected, rtol=1e-5)


def test_a_gallery_says_which_bands_it_shows() -> None:
    assert title_of(["B02", "B03", "B04", "B08"], "optical") == "optical, B04 B03 B02"
    assert title_of(["B08", "B11", "B12"], "optical") == "optical, B12 B11 B08"
    assert title_of(["VH", "VV"], "radar") == "radar, VH VV VH/VV"


def test_statistics_travel_with_the_run(tmp_path: Path) -> None:
    data, task = _chips(), ChipProbing()
    assert task.reading(tmp_path) == {}
    task.keep_reading(data, tmp_path)
    assert task.reading(tmp_path) == {"statistics": str(tmp_path / "statistics.json")}


def test_reconstructions_are_drawn_of_what_reconstructs(tmp_path: Path) -> None:
    data = _chips(12)
    small = {"patch": 4, "dim": 16, "depth": 2, "heads": 2, "decoder_dim": 16, "decoder_heads": 2}
    (file,) = ChipProbing().draw(CROMA(data.shapes, **small), data, "valid", tmp_path)
    picture = imread(file)[..., :3]
    # The chips are among the colours of the picture, as they are.
    seen = data.batch(data.splits["valid"][:4])["optical"][0].permute(1, 2, 0).flip(2)  # B04 first
    colours = {tuple(c) for c in (picture.reshape(-1, 3) * 255).round().astype(int).tolist()}
    assert tuple((seen[2, 2] * 255).round().int().tolist()) in colours
    alone = replace(data, inputs={"optical": data.inputs["optical"]})
    assert ChipProbing().draw(CROMA(data.shapes, **small), alone, "valid", tmp_path) == []
    nothing = CROMA(data.shapes, objectives="contrastive", **small)
    assert ChipProbing().draw(nothing, data, "valid", tmp_path) == []
