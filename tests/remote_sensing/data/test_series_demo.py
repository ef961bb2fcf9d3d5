from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.checks import DataError
from core.evaluation.linear_probe import LinearProbe
from remote_sensing.data.series import load_series
from remote_sensing.data.series_checks import check_series
from remote_sensing.data.series_demo import write_weak_and_strong
from remote_sensing.data.series_files import read_series


@pytest.mark.parametrize("format", ["nc", "npz"])
def test_the_card_s_sizes_in_either_format(format: str, tmp_path: Path) -> None:
    write_weak_and_strong(tmp_path / "demo", format=format)
    read = read_series(tmp_path / "demo")
    assert read.path.suffix == f".{format}"
    assert {name: of.shape for name, of in read.variables.items()} == {
        "weak": (4600, 6, 8),
        "strong": (4600, 6, 10),
    }
    assert [read.split.count(s) for s in ("train", "valid", "test")] == [400, 200, 4000]
    assert read.statistics.keys() == {"weak", "strong"}
    mean, std = read.statistics["weak"]
    taught = read.variables["weak"][:600].reshape(-1, 8)
    np.testing.assert_allclose(mean, taught.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, taught.std(0), rtol=1e-4)
    report = check_series(tmp_path / "demo")
    assert report.problems == report.warnings == []


def test_a_share_of_the_labels_is_drawn_anew_and_the_test_is_clean(tmp_path: Path) -> None:
    sizes = {"n_train": 3000, "n_valid": 1000, "n_test": 1000}
    for name, noise in (("clean", 0.0), ("noisy", 0.35)):
        write_weak_and_strong(tmp_path / name, label_noise=noise, **sizes)
    clean, noisy = (read_series(tmp_path / name) for name in ("clean", "noisy"))
    np.testing.assert_array_equal(clean.variables["weak"], noisy.variables["weak"])
    changed = clean.target != noisy.target
    assert not changed[4000:].any()
    # A fifth of those drawn anew are what they were.
    assert changed[:4000].mean() == pytest.approx(0.35 * 0.8, abs=0.02)


def test_one_sensor_says_more_than_the_other(tmp_path: Path) -> None:
    write_weak_and_strong(tmp_path / "demo", n_train=1500, label_noise=0.0)
    data = load_series(tmp_path / "demo")
    label = {name: data.labels["label"][rows] for name, rows in data.splits.items()}
    accuracy = {}
    for name, values in data.inputs.items():
        x = {split: values[rows].flatten(1) for split, rows in data.splits.items()}
        probe = LinearProbe.fit(x["train"], label["train"], x["valid"], label["valid"], (1e-3,))
        accuracy[name] = (probe.predict(x["test"]) == label["test"]).float().mean().item()
    most = torch.bincount(label["test"]).max().item() / 4000
    assert most + 0.15 < accuracy["weak"] < accuracy["strong"] - 0.15
    assert accuracy["strong"] > 0.8


def test_refuses_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demo\.format=csv"):
        write_weak_and_strong(tmp_path / "demo", format="csv")
