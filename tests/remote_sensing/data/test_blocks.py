"""Splits by blocks of ground."""

from itertools import combinations

import numpy as np
import pytest

from core.data.checks import DataError
from remote_sensing.data.blocks import split_by_blocks

SIDE = 240.0


def _grid(n: int = 60, step: float = SIDE) -> np.ndarray:
    """Corners of n x n chips side by side."""
    x, y = np.meshgrid(500_000 + step * np.arange(n), 5_000_000 + step * np.arange(n))
    corner = np.array([(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)])
    return np.stack([x.ravel(), y.ravel()], 1)[:, None] + corner


def _split(corners: np.ndarray, buffer: float = SIDE, **options) -> list[str]:
    options = {"block": 1920.0, "ratios": (0.6, 0.2, 0.2), "seed": 0} | options
    return split_by_blocks(["EPSG:32633"] * len(corners), corners, buffer=buffer, **options)


def test_no_test_chip_has_a_training_chip_for_a_neighbour() -> None:
    corners = _grid()
    splits = np.array(_split(corners))
    low = corners.min(1)
    near = (np.abs(low[:, None] - low) <= SIDE + 1).all(2)
    for one, other in combinations(("train", "valid", "test"), 2):
        assert not near[np.ix_(splits == one, splits == other)].any()
    shares = [(splits == s).mean() for s in ("train", "valid", "test", "")]
    assert min(shares[:3]) > 0.05
    assert shares[0] > max(shares[1:3])


def test_overlapping_chips_of_two_splits_share_no_pixel_without_any_buffer() -> None:
    corners = _grid(60, step=SIDE / 2)
    splits = np.array(_split(corners, buffer=0.0))
    low = corners.min(1)
    common = (np.abs(low[:, None] - low) < SIDE - 1).all(2)
    assert not common[np.ix_(splits == "train", splits == "test")].any()
    assert (splits == "").any()


def test_nothing_is_lost_where_blocks_are_whole_chips() -> None:
    assert "" not in _split(_grid() - _grid().min((0, 1)), buffer=0.0)


def test_a_split_depends_on_the_place_and_the_seed_alone() -> None:
    corners = _grid(30)
    whole = _split(corners)
    assert _split(corners[::3]) == whole[::3]
    assert _split(corners, seed=1) != whole


def test_zones_are_brought_together() -> None:
    from rasterio.warp import transform

    corners = _grid(8)
    x, y = transform("EPSG:32633", "EPSG:32632", corners[..., 0].ravel(), corners[..., 1].ravel())
    other = np.stack([x, y], -1).reshape(corners.shape)
    crs = ["EPSG:32633"] * 64 + ["EPSG:32632"] * 64
    both = np.concatenate([corners, other])
    options = {"block": 900.0, "buffer": 0.0, "ratios": (0.6, 0.2, 0.2), "seed": 0}
    splits = split_by_blocks(crs, both, **options)
    assert splits[:64] == splits[64:]
    assert len(set(splits)) > 1


def test_degrees_are_measured_in_metres() -> None:
    from rasterio.warp import transform

    corners = _grid(20)
    x, y = transform("EPSG:32633", "EPSG:4326", corners[..., 0].ravel(), corners[..., 1].ravel())
    degrees = np.stack([x, y], -1).reshape(corners.shape)
    splits = split_by_blocks(["EPSG:4326"] * 400, degrees, 1200.0, None, (0.6, 0.2, 0.2), 0)
    assert set(splits) == {"train", "valid", "test", ""}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="three shares"):
        _split(_grid(2), ratios=(0.5, 0.2))
    with pytest.raises(DataError, match=r"data\.block=500 m, but a chip and its margin"):
        _split(_grid(2), block=500.0)
