import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from core.data.checks import DataError
from har.data.demo import write_demo
from har.data.generator import generate
from har.data.recordings import IMU, SKELETON
from har.data.utd_mhad import read_utd_mhad


def _content(folder: Path) -> dict[str, np.ndarray]:
    return {
        file.name: loadmat(file)["d_skel" if "skeleton" in file.name else "d_iner"]
        for file in folder.glob("*/*.mat")
    }


def test_two_runs_write_the_same_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_demo(tmp_path / name, seed=seed, subjects=1, trials=1)
    one, two, other = (_content(tmp_path / name) for name in ("one", "two", "other"))
    assert len(one) == 2 * 27
    assert set(one) == set(two) == set(other)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
        same_shape = values.shape == other[name].shape
        assert not same_shape or np.abs(values - other[name]).max() > 0.01


def test_files_are_those_of_utd_mhad(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", subjects=2, trials=2)
    skeleton, inertial = generate(0, 13, 2, 1)
    content = _content(tmp_path / "demo")
    assert len(content) == 2 * 27 * 2 * 2
    np.testing.assert_array_equal(content["a13_s2_t1_skeleton.mat"], skeleton)
    np.testing.assert_array_equal(content["a13_s2_t1_inertial.mat"], inertial)
    first, second = (content[f"a13_s2_t{trial}_inertial.mat"] for trial in (1, 2))
    n = min(len(first), len(second))
    assert np.abs(first[:n] - second[:n]).max() > 0.1

    read = read_utd_mhad(tmp_path / "demo")
    assert len(read.recordings) == 27 * 2 * 2
    recording = next(r for r in read.recordings if r.name == "a13_s2_t1")
    assert (recording.subject, recording.label) == ("2", 12)
    np.testing.assert_allclose(recording.streams[IMU].values, inertial, rtol=1e-6)
    stored = recording.streams[SKELETON].values
    np.testing.assert_allclose(stored, skeleton.transpose(2, 0, 1), rtol=1e-6)


def test_more_people_come_from_other_seeds(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", 0, 3, 1, extra_seeds=[5, 6], extra_subjects=(1, 3))
    content = _content(tmp_path / "demo")
    subjects = {name.split("_")[1] for name in content}
    assert subjects == {"s1", "s2", "s3", "s11", "s13", "s21", "s23"}
    np.testing.assert_array_equal(content["a9_s3_t1_inertial.mat"], generate(0, 9, 3, 1)[1])
    np.testing.assert_array_equal(content["a9_s13_t1_inertial.mat"], generate(5, 9, 3, 1)[1])
    np.testing.assert_array_equal(content["a9_s21_t1_skeleton.mat"], generate(6, 9, 1, 1)[0])


@pytest.mark.parametrize(
    "people",
    [
        {"subjects": 10, "extra_seeds": (1,)},
        {"extra_seeds": (1,), "extra_subjects": (1, 1)},
        {"extra_seeds": (1, 2), "extra_subjects": (1, 11)},
    ],
)
def test_numbers_of_subjects_must_be_unique(
    people: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="not unique"):
        write_demo(tmp_path / "demo", **people)
    assert not list(tmp_path.iterdir())


def test_an_earlier_demo_is_replaced_whole(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", subjects=2, trials=1)
    write_demo(tmp_path / "demo", subjects=1, trials=1, seed=9)
    assert len(_content(tmp_path / "demo")) == 2 * 27
    assert [file.name for file in tmp_path.iterdir()] == ["demo"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "Skeleton").mkdir()
    (tmp_path / "Skeleton" / "a1_s1_t1_skeleton.mat").write_text("real")
    with pytest.raises(DataError, match=r"already exists and holds other files \(Skeleton\)"):
        write_demo(tmp_path, subjects=1, trials=1)
    assert (tmp_path / "Skeleton" / "a1_s1_t1_skeleton.mat").read_text() == "real"

    write_demo(tmp_path / "demo", subjects=1, trials=1)
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        write_demo(tmp_path / "demo", subjects=1, trials=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written"):
        write_demo(tmp_path / "demo", subjects=1, trials=1)


def test_a_file_in_the_way_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_demo(tmp_path / "file" / "demo", subjects=1, trials=1)


def test_a_preview_is_drawn_when_asked_for(tmp_path: Path) -> None:
    write_demo(tmp_path / "demo", subjects=1, trials=1, preview=True)
    for name, start in (("preview.png", b"\x89PNG"), ("preview.gif", b"GIF89a")):
        assert (tmp_path / "demo" / name).read_bytes().startswith(start)
    assert len(read_utd_mhad(tmp_path / "demo").recordings) == 27
    write_demo(tmp_path / "demo", subjects=1, trials=1)
    assert not (tmp_path / "demo" / "preview.png").exists()


@pytest.mark.parametrize("nobody", [{"subjects": 0}, {"trials": 0}])
def test_nobody_writes_no_demo(tmp_path: Path, nobody: dict) -> None:
    with pytest.raises(DataError, match=r"demo.subjects=.*demo.trials="):
        write_demo(tmp_path / "demo", **{"subjects": 1, "trials": 1} | nobody)
    assert not (tmp_path / "demo").exists()
