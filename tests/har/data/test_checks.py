"""`har data check`: every broken file is named, with its reason, in one go."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from har.data.checks import check_windows
from har.data.windows import load_windows
from tests.har.data.layouts import DECLARED, team_values, write_team, write_utd

Break = Callable[[np.ndarray], np.ndarray]
KEYS = {"skeleton": "d_skel", "inertial": "d_iner"}


@pytest.fixture
def folder(tmp_path):
    return write_utd(tmp_path / "utd")


def file_in(folder: Path, name: str) -> Path:
    return folder / ("Skeleton" if "skeleton" in name else "Inertial") / f"{name}.mat"


def change(folder: Path, name: str, by: Break) -> None:
    key = KEYS[name.split("_")[-1]]
    file = file_in(folder, name)
    savemat(file, {key: by(loadmat(file)[key])})


def problems(folder: Path, **arguments: object) -> list[str]:
    report = check_windows(folder, **{"device": "cpu"} | arguments)
    return [str(problem) for problem in report.problems]


def with_value(index: tuple, value: float) -> Break:
    def changed(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[index] = value
        return values

    return changed


def test_a_clean_set_has_no_problem(folder):
    report = check_windows(folder, device="cpu")
    assert report.problems == []
    assert report.facts["recordings"] == 16
    assert report.facts["test windows"] == "8 of subjects 2, 4"
    assert str(report.facts["skeleton"]).startswith("[20, 3] at 30 Hz, 2.0")
    # Only the 25 activities that nobody did here.
    assert [warning for warning in report.warnings if "in the files" not in warning] == []


BROKEN: dict[str, tuple[str, Break, str]] = {
    "shape": (
        "a1_s1_t1_skeleton",
        lambda v: v[:19],
        r"\(19, 3, \d+\)\n  expected: \(20, 3, time\)",
    ),
    "NaN": ("a1_s1_t2_inertial", with_value((4, 2), np.nan), "NaN or infinity at 1 places"),
    "dead channel": (
        "a1_s2_t1_inertial",
        with_value((slice(None), 4), 0.25),
        r"gyro_y \[deg/s\] of imu never changes in \d+ samples",
    ),
    "dead joint": (
        "a2_s2_t1_skeleton",
        with_value((7, slice(None), slice(None)), 1.0),
        "left_hand of skeleton never changes",
    ),
    "no scale": (
        "a2_s3_t2_skeleton",
        lambda v: np.concatenate([v[[0, 2, 2, *range(3, 20)], :, :1], v], 2),
        "shoulder_centre and spine are at one place",
    ),
    "broken off": (
        "a2_s4_t1_skeleton",
        lambda v: v[:, :, : v.shape[2] // 2],
        "skeleton has 15 samples a second, most have 30",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_file_is_named(folder, what):
    name, by, reason = BROKEN[what]
    change(folder, name, by)
    found = problems(folder)
    assert len(found) == 1, found
    where = name.removesuffix("_skeleton") if what == "no scale" else f"{name}.mat"
    pattern = f"{where}: .*{reason}"
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(found[0])


def test_everything_is_listed_at_once(folder):
    for name, by, _ in BROKEN.values():
        change(folder, name, by)
    file_in(folder, "a2_s1_t1_inertial").write_bytes(b"nothing")
    savemat(file_in(folder, "a2_s1_t2_inertial"), {"d_other": np.zeros((99, 6))})
    shutil.copy(file_in(folder, "a1_s4_t1_inertial"), folder / "Inertial" / "walking.mat")
    shutil.copy(file_in(folder, "a1_s3_t1_inertial"), file_in(folder, "a1_s4_t2_inertial"))
    found = problems(folder, test_subjects=[2], train_subjects=[2, 3])
    reasons = [
        *(reason for _, _, reason in BROKEN.values()),
        "a2_s1_t1_inertial.mat: cannot be read",
        "a2_s1_t2_inertial.mat: no 'd_iner'; there is d_other",
        "walking.mat: the name says no action",
        "a1_s4_t2_inertial.mat: the same imu values as a1_s3_t1",
        "test_subjects names 2, who is in train as well",
    ]
    everything = "\n".join(found)
    for reason in reasons:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(everything)
    assert len(found) == len(reasons)


def test_an_activity_that_nobody_trains(folder):
    for kind in ("skeleton", "inertial"):
        for trial in (1, 2):
            file_in(folder, f"a2_s1_t{trial}_{kind}").unlink()
            file_in(folder, f"a1_s4_t{trial}_{kind}").unlink()
            file_in(folder, f"a1_s2_t{trial}_{kind}").unlink()
    report = check_windows(folder, device="cpu")
    assert [problem.found for problem in report.problems] == [
        "swipe_right has no sample in train, 2 in valid"
    ]
    assert any("no sample of swipe_left in test" in warning for warning in report.warnings)


def test_streams_of_different_durations_are_remarked(folder):
    change(folder, "a1_s3_t1_inertial", lambda v: v[: int(len(v) * 0.8)])
    report = check_windows(folder, device="cpu")
    assert report.problems == []
    assert any("more than 10 % off" in w and "a1_s3_t1" in w for w in report.warnings)


def test_another_frame_rate_than_described_is_remarked(tmp_path):
    report = check_windows(write_utd(tmp_path / "slow", frame_rate=19.0), device="cpu")
    assert report.problems == []
    assert any("frames a second by the clock of the IMU, not the 30" in w for w in report.warnings)


UNITS = {
    "inertial": [
        (lambda v: v * ([9.80665] * 3 + [1] * 3), "acceleration in g: median (9|10)"),
        (lambda v: v * ([1 / 9.80665] * 3 + [1] * 3), "acceleration in g: median 0.1"),
        (lambda v: v * ([1] * 3 + [np.pi / 180] * 3), "angular rate in deg/s: largest 1.7"),
        (lambda v: v * ([1] * 3 + [180 / np.pi] * 3), r"angular rate in deg/s: largest 5.7\de\+03"),
    ],
    "skeleton": [
        (lambda v: v * 1000, r"extent in m: largest 1.\d*e\+03 in 16 of 16"),
        (lambda v: v * 100, "extent in m: largest 1"),
        (lambda v: v / 1000, "extent in m: largest 0.00"),
    ],
}


@pytest.mark.parametrize(("kind", "number"), [(k, n) for k in UNITS for n in range(len(UNITS[k]))])
def test_values_that_look_like_another_unit(folder, kind, number):
    by, reason = UNITS[kind][number]
    for file in sorted(folder.rglob(f"*_{kind}.mat")):
        change(folder, file.stem, by)
    found = problems(folder)
    assert len(found) == 1, found
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found[0])
    assert "see whether the values are" in found[0] or "gravity was taken out" in found[0]


def test_one_file_in_another_unit_is_named(folder):
    change(folder, "a2_s3_t2_inertial", lambda v: v * ([9.80665] * 3 + [1] * 3))
    (found,) = problems(folder)
    assert "in 1 of 16 recordings (a2_s3_t2)" in found


def test_a_teams_own_folder_is_checked_alike(tmp_path):
    folder = write_team(tmp_path)
    assert problems(folder) == []
    assert check_windows(folder, device="cpu").facts["activities"] == 2
    said = copy.deepcopy(DECLARED)
    said["imu"]["rate"] = 50
    longer = write_team(tmp_path / "longer", declared=said)
    found = problems(longer)
    assert len(found) == 8
    assert all("skeleton lasts 4.00 s, imu 8.00 s" in problem for problem in found)
    skeleton, imu = team_values(4, 3)
    np.savez(folder / "recordings" / "sit_bob.npz", skeleton=skeleton)
    imu[:, 0] = 0
    np.savez(folder / "recordings" / "sit_cho.npz", skeleton=skeleton, imu=imu)
    (folder / "recordings" / "walk_dee.npz").unlink()
    found = problems(folder)
    for reason in (
        "sit_bob.npz: no imu",
        r"sit_cho.npz: acc_x \[g\] of imu never changes",
        "walk_dee has no file",
    ):
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError("\n".join(found))


def test_skeletons_that_are_centred_already_are_alive(tmp_path):
    folder = write_team(tmp_path)
    for file in (folder / "recordings").glob("*.npz"):
        arrays = dict(np.load(file))
        arrays["skeleton"] -= arrays["skeleton"][:, :1]
        np.savez(file, **arrays)
    assert problems(folder) == []
    arrays["skeleton"][:, 2] = 0
    np.savez(file, **arrays)
    assert [p.split(":")[1] for p in problems(folder)] == [
        " head of skeleton never changes in 120 samples\n  expected"
    ]


def test_a_folder_of_nothing(tmp_path):
    (found,) = problems(tmp_path)
    assert "recordings in no known format" in found
    assert "no such folder" in problems(tmp_path / "none")[0]


def test_a_subject_in_two_splits_of_the_table_is_a_problem(tmp_path):
    folder = write_team(tmp_path)
    lines = (folder / "subjects.csv").read_text().splitlines()
    splits = ["split", "train", "test", "train", "train", "train", "train", "test", "test"]
    table = "\n".join(f"{line},{split}" for line, split in zip(lines, splits, strict=True))
    (folder / "subjects.csv").write_text(table)
    (found,) = problems(folder, split="files")
    assert "subjects.csv: subject ann is in train and test" in found
    assert problems(folder) == []  # by odd_even she is not
    with pytest.warns(UserWarning, match="in several splits: ann in train and test") as told:
        load_windows(folder, split="files", device="cpu")
    assert told[0].filename.endswith("windows.py")  # commands show those of the project alone


@pytest.mark.real
def test_the_real_utd_mhad_has_no_problem(real_data):
    path = real_data / "utd_mhad"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    report = check_windows(path, device="cpu")
    assert [str(problem) for problem in report.problems] == []
    assert (report.facts["recordings"], report.facts["activities"]) == (861, 27)
    assert report.facts["subjects"] == 8
    assert any("19.05 frames a second by the clock of the IMU" in w for w in report.warnings)
