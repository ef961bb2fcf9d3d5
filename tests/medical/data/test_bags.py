from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from core.data.checks import DataError
from medical.data.bags import Bag, read_bag, write_bag


def test_what_is_written_is_read_and_has_the_names_of_the_field(tmp_path: Path) -> None:
    bag = Bag(torch.randn(5, 3), torch.randint(0, 9999, (5, 2)))
    write_bag(tmp_path / "a" / "s.h5", bag, 64, 10, 20)
    found = read_bag(tmp_path / "a" / "s.h5")
    torch.testing.assert_close(found.features, bag.features)
    torch.testing.assert_close(found.corners, bag.corners)
    with h5py.File(tmp_path / "a" / "s.h5") as h5:
        assert h5["features"].shape == (5, 3)
        about = dict(h5["coords"].attrs)
    assert about["patch_size"] == 64
    assert about["patch_size_level0"] == 128
    assert about["target_magnification"] == 10
    write_bag(tmp_path / "s.pt", bag)
    assert torch.load(tmp_path / "s.pt", weights_only=True).shape == (5, 3)
    torch.testing.assert_close(read_bag(tmp_path / "s.pt").features, bag.features)


def test_other_ways_to_store_a_bag_are_read(tmp_path: Path) -> None:
    features = np.ones((1, 4, 3), np.float16)
    with h5py.File(tmp_path / "s.h5", "w") as h5:
        h5["features"], h5["coords"] = features, np.zeros((1, 4, 2), np.int32)
    found = read_bag(tmp_path / "s.h5")
    assert found.features.shape == (4, 3)
    assert found.features.dtype == torch.float32
    assert found.corners.shape == (4, 2)
    torch.save({"features": torch.ones(2, 3), "coords": torch.zeros(2, 2)}, tmp_path / "s.pt")
    assert read_bag(tmp_path / "s.pt").corners.shape == (2, 2)


def test_files_that_are_no_bags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("no")
    (tmp_path / "a.pt").write_text("no")
    torch.save({"features": torch.ones(3)}, tmp_path / "flat.pt")
    torch.save(torch.tensor([[1.0, torch.nan]]), tmp_path / "nan.pt")
    torch.save({"features": torch.ones(3, 2), "coords": torch.ones(2, 2)}, tmp_path / "two.pt")
    torch.save(Path("code"), tmp_path / "code.pt")
    torch.save({"features": [1, 2]}, tmp_path / "list.pt")
    for name, coords in (("words.h5", np.array([["a", "b"]] * 4, "S1")), ("one.h5", 3.0)):
        with h5py.File(tmp_path / name, "w") as h5:
            h5["features"], h5["coords"] = np.ones((4, 3)), coords
    for name, message in (
        ("a.h5", "cannot be read as HDF5"),
        ("a.pt", "cannot be read as tensors"),
        ("flat.pt", r"shape \[3\]"),
        ("nan.pt", "1 patches with NaN"),
        ("two.pt", r"3 features, coords of shape \[2, 2\]"),
        ("code.pt", "tensors alone"),
        ("list.pt", "features of type list"),
        ("words.h5", "cannot be read as HDF5"),
        ("one.h5", r"4 features, coords of shape \[\]"),
    ):
        with pytest.raises(DataError, match=message):
            read_bag(tmp_path / name)
