"""UTD-MHAD's files: joined by name, in step, and refused with a reason."""

import shutil

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from core.data.checks import DataError
from har.data.readers import read_recording
from har.data.utd_mhad import CLASSES, EDGES, JOINTS, read_utd_mhad
from tests.har.data.layouts import write_utd


def test_the_body_is_one_tree():
    assert (len(CLASSES), len(JOINTS), len(EDGES)) == (27, 20, 19)
    reached = {3}
    for _ in JOINTS:
        reached |= {b for a, b in EDGES if a in reached} | {a for a, b in EDGES if b in reached}
    assert reached == set(range(20))
    sides = [(JOINTS[a].split("_")[0], JOINTS[b].split("_")[0]) for a, b in EDGES]
    assert ("left", "right") not in sides
    assert ("right", "left") not in sides


def test_values_are_those_of_the_files(tmp_path):
    write_utd(tmp_path, actions=(1, 27), trials=(1, 10, 2))
    data = read_utd_mhad(tmp_path)
    assert [r.name for r in data.recordings[:4]] == [
        "a1_s1_t1",
        "a1_s1_t2",
        "a1_s1_t10",
        "a1_s2_t1",
    ]
    assert len(data.recordings) == 24
    last = data.recordings[-1]
    assert (last.name, last.subject, last.label) == ("a27_s4_t10", "4", 26)
    file = tmp_path / "Skeleton" / "a27_s4_t10_skeleton.mat"
    own = loadmat(file)["d_skel"].astype(np.float32)
    np.testing.assert_array_equal(last.streams["skeleton"].values[5, 7], own[7, :, 5])
    assert last.streams["skeleton"].values.shape == (own.shape[2], 20, 3)
    assert last.streams["imu"].values.shape[1] == len(data.channels) == 6


def test_a_clip_with_one_sensor_is_left_out(tmp_path):
    write_utd(tmp_path)
    (tmp_path / "Inertial" / "a1_s2_t1_inertial.mat").unlink()
    with pytest.warns(UserWarning, match="a1_s2_t1 left out, with skeleton"):
        data = read_utd_mhad(tmp_path)
    assert "a1_s2_t1" not in {r.name for r in data.recordings}
    assert len(read_utd_mhad(tmp_path, ["skeleton"]).recordings) == len(data.recordings) + 1


@pytest.mark.parametrize("frames", [30.0, 19.0])
def test_both_sensors_of_a_clip_last_equally_long(tmp_path, frames):
    write_utd(tmp_path, frame_rate=frames)
    for modalities in (["skeleton", "imu"], ["skeleton"]):
        data = read_utd_mhad(tmp_path, modalities)
        rates = [r.streams["skeleton"].rate for r in data.recordings]
        np.testing.assert_allclose(rates, frames, rtol=0.02)
    fixed = read_utd_mhad(tmp_path, skeleton_rate=25.0).recordings[0].streams
    assert (fixed["skeleton"].rate, fixed["imu"].rate) == (25.0, 50.0)
    shutil.rmtree(tmp_path / "Inertial")
    alone = read_utd_mhad(tmp_path, ["skeleton"]).recordings[0]
    assert alone.streams["skeleton"].rate == 30.0


def test_one_clip_by_either_of_its_files(tmp_path):
    write_utd(tmp_path / "set")
    inertial = tmp_path / "set" / "Inertial" / "a2_s3_t1_inertial.mat"
    skeleton = tmp_path / "set" / "Skeleton" / "a2_s3_t1_skeleton.mat"
    whole = {r.name: r for r in read_utd_mhad(tmp_path / "set").recordings}["a2_s3_t1"]
    for file in (inertial, skeleton):
        data = read_recording(file)
        assert data.recordings[0].name == "a2_s3_t1"
        for name, stream in data.recordings[0].streams.items():
            np.testing.assert_array_equal(stream.values, whole.streams[name].values)
            assert stream.rate == whole.streams[name].rate
    lone = shutil.copy(inertial, tmp_path)
    assert list(read_recording(lone, ["imu"]).recordings[0].streams) == ["imu"]
    with pytest.raises(DataError, match=r"no a2_s3_t1_skeleton.mat beside it"):
        read_recording(lone)


def test_a_skeleton_by_itself_has_the_rate_of_the_set(tmp_path):
    write_utd(tmp_path, frame_rate=19.0)
    whole = {r.name: r for r in read_utd_mhad(tmp_path, ["skeleton"]).recordings}["a2_s3_t1"]
    file = tmp_path / "Skeleton" / "a2_s3_t1_skeleton.mat"
    (alone,) = read_recording(file, ["skeleton"]).recordings
    assert list(alone.streams) == ["skeleton"]
    assert alone.streams["skeleton"].rate == whole.streams["skeleton"].rate != 30.0
    shutil.rmtree(tmp_path / "Inertial")
    assert read_recording(file, ["skeleton"]).recordings[0].streams["skeleton"].rate == 30.0


def test_files_that_cannot_be_used_say_why(tmp_path):
    write_utd(tmp_path / "good", actions=(1,), subjects=(1,), trials=(1,))
    place = "Inertial/a1_s1_t1_inertial.mat"
    good = loadmat(tmp_path / "good" / place)["d_iner"]
    hole = good.copy()
    hole[3, 1] = np.nan
    broken = {
        "no 'd_iner'; there is d_other": {"d_other": good},
        r"d_iner is float64 of shape \(6, ": {"d_iner": good.T},
        "holds NaN or infinity at 1 places": {"d_iner": hole},
    }
    for number, (reason, content) in enumerate(broken.items()):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "good", folder)
        savemat(folder / place, content)
        with pytest.raises(DataError, match=f"{place}.*{reason}"):
            read_utd_mhad(folder)
    (tmp_path / "good" / place).write_bytes(b"MATLAB 5.0 MAT-file, but no more")
    with pytest.raises(DataError, match=f"{place}: cannot be read"):
        read_utd_mhad(tmp_path / "good")
    (tmp_path / "good" / place).rename(tmp_path / "good" / "Inertial" / "subject1.mat")
    with pytest.raises(DataError, match=r"subject1.mat: the name says no action"):
        read_utd_mhad(tmp_path / "good")
    with pytest.raises(DataError, match="no folder Skeleton"):
        read_utd_mhad(tmp_path)
