"""harnet's arrays."""

import numpy as np
import pytest

from core.data.checks import DataError
from har.data.checks import check_windows
from har.data.harnet import read_harnet
from har.data.readers import read_recordings
from har.data.windows import load_windows
from tests.har.data.layouts import moving_imu

LABELS = np.array(["walk", "sit", "", "walk", "sit", "walk", "sit", "walk"])
PEOPLE = np.array([3, 3, 1, 1, 2, 2, 4, 4])


def write(folder, windows=None, labels=LABELS, people=PEOPLE):
    made = np.stack([moving_imu(10, 30.0, seed, n_gyro=0).T for seed in range(8)])
    np.save(folder / "X.npy", made if windows is None else windows)
    np.save(folder / "Y.npy", labels)
    np.save(folder / "pid.npy", people)
    return made


def test_each_window_is_a_recording(tmp_path):
    made = write(tmp_path)
    data = read_recordings(tmp_path, modalities=["imu"])
    assert data.classes == ["sit", "walk"]
    assert [r.label for r in data.recordings] == [1, 0, -1, 1, 0, 1, 0, 1]
    assert [r.subject for r in data.recordings] == [str(n) for n in PEOPLE]
    stream = data.recordings[6].streams["imu"]
    assert stream.rate == 30.0
    np.testing.assert_allclose(stream.values, made[6].T, rtol=1e-6)
    windows = load_windows(tmp_path, modalities=["imu"], length=300, device="cpu")
    np.testing.assert_allclose(windows.inputs["imu"], made, rtol=1e-6)
    assert {s: len(rows) for s, rows in windows.splits.items()} == {
        "train": 2,
        "valid": 2,
        "test": 4,
    }


def test_time_may_come_before_the_axes(tmp_path):
    made = write(tmp_path)
    np.save(tmp_path / "X.npy", made.transpose(0, 2, 1))
    np.save(tmp_path / "Y.npy", np.array([0, 1, -1, 0, 1, 0, 1, 10]))
    np.save(tmp_path / "pid.npy", np.array([f"P{n}" for n in range(8)]))
    data = read_harnet(tmp_path)
    assert data.classes == ["0", "1", "10"]
    assert data.recordings[7].label == 2
    np.testing.assert_allclose(data.recordings[0].streams["imu"].values, made[0].T, rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("X.npy", np.zeros((8, 4, 300)), r"float64 of shape \[8, 4, 300\]"),
        ("Y.npy", np.zeros(7, int), r"int64 of shape \[7\]"),
        ("pid.npy", np.array([{}] * 8, object), "cannot be read"),
        ("X.npy", np.full((8, 3, 300), np.nan), "NaN or infinity in window 0"),
        ("X.npy", np.zeros((8, 3, 1)), r"float64 of shape \[8, 3, 1\]"),
        ("pid.npy", np.array([1, np.nan, 1, 1, 2, 2, 4, 4]), "NaN"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, file, content, reason):
    write(tmp_path)
    np.save(tmp_path / file, content, allow_pickle=True)
    with pytest.raises(DataError, match=f"{file}: {reason}"):
        read_harnet(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-2, 0, -1, 1, 0, 1, 0, 1]),
        np.array([np.nan, 0, -1, 1, 0, 1, 0, 1]),
        np.array(["", "0", "-1", "1", "0", "1", "0", "1"]),
    ],
)
def test_unknown_activities_are_no_class(tmp_path, labels):
    write(tmp_path, labels=labels)
    data = read_harnet(tmp_path)
    assert data.classes == ["0", "1"]
    assert [r.label for r in data.recordings] == [-1, 0, -1, 1, 0, 1, 0, 1]


def test_no_window_that_can_be_used_is_a_problem_of_the_check(tmp_path):
    write(tmp_path, windows=np.full((8, 3, 300), np.nan))
    found = [str(p) for p in check_windows(tmp_path, modalities=["imu"], device="cpu").problems]
    assert len(found) == 9
    assert "X.npy: NaN or infinity in window 7" in found[7]
    assert "X.npy: no window can be read" in found[8]


def test_there_are_no_skeletons(tmp_path):
    write(tmp_path)
    with pytest.raises(DataError, match=r"data.modalities=\[imu\]"):
        read_recordings(tmp_path)
