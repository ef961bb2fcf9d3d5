"""Skeleton pickles: what they hold is read, what they would run is not."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.data.checks import DataError
from har.data.readers import read_recordings
from har.data.skeleton_pickle import read_skeleton_pickle
from har.data.windows import load_windows
from tests.har.data.layouts import moving_skeleton


def annotations(n_joints: int = 25, axes: int = 3) -> list[dict]:
    made = []
    for person in (1, 2, 3, 4):
        for action in (1, 2):
            body = moving_skeleton(2, 30.0, 10 * person + action, n_joints)[None, ..., :axes]
            keypoint = np.concatenate([body, np.zeros_like(body)]).astype(np.float16)
            made.append(
                {
                    "frame_dir": f"S001C001P{person:03}R001A{action:03}",
                    "label": action - 1,
                    "keypoint": keypoint,
                    "total_frames": 60,
                    "img_shape": (1080, 1920),
                    "score": np.float32(0.5),
                }
            )
    return made


def write(folder: Path, content: object, protocol: int = 4) -> Path:
    file = folder / "ntu.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_first_person_is_read(tmp_path, protocol):
    own = annotations()
    own[0]["keypoint"][0, :3] = 0  # not tracked at first
    file = write(tmp_path, {"annotations": own}, protocol)
    data = read_recordings(file, modalities=["skeleton"])
    assert len(data.joints) == 25
    assert len(data.edges) == 24
    assert (data.joints[data.root], data.joints[data.bone[0]]) == ("spine_mid", "spine_shoulder")
    first = data.recordings[0]
    assert (first.name, first.subject, first.label) == ("S001C001P001R001A001", "P001", 0)
    assert (first.streams["skeleton"].rate, len(first.streams["skeleton"].values)) == (30.0, 57)
    np.testing.assert_allclose(
        first.streams["skeleton"].values, own[0]["keypoint"][0, 3:].astype(np.float32)
    )


def test_the_plane_has_the_third_coordinate_zero_and_stands_upright(tmp_path):
    own = annotations(17, 2)
    write(tmp_path, {"annotations": own})
    data = read_skeleton_pickle(tmp_path)
    assert (len(data.joints), len(data.edges)) == (17, 18)
    values = data.recordings[0].streams["skeleton"].values
    assert values.shape == (60, 17, 3)
    assert np.abs(values[..., 2]).max() == 0
    # Pixels count to the right and downwards; the person's right is on the left of the image.
    np.testing.assert_allclose(values[..., :2], -own[0]["keypoint"][0].astype(np.float32))
    windows = load_windows(tmp_path, modalities=["skeleton"], device="cpu")
    assert windows.shapes == {"skeleton": [3, 50, 17]}


def test_the_first_of_its_splits_is_taken(tmp_path):
    own = annotations()
    names = [annotation["frame_dir"] for annotation in own]
    split = {
        "xsub_train": names[:6],
        "xsub_val": names[6:],
        "xview_train": names[1:],
        "xview_val": names[:1],
    }
    write(tmp_path, {"split": split, "annotations": own})
    with pytest.warns(UserWarning, match="the split xsub is taken, not xview"):
        data = load_windows(tmp_path, modalities=["skeleton"], split="files", device="cpu")
    who = {
        s: {data.classes["subject"][n] for n in data.labels["subject"][rows].tolist()}
        for s, rows in data.splits.items()
    }
    assert who == {"train": {"P001", "P002"}, "valid": {"P003"}, "test": {"P004"}}


class Runs:
    """Pickles as a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, protocol):
    marks = [tmp_path / name for name in ("a", "b", "c")]
    evil = {
        "posix.mkdir": Runs(os.mkdir, str(marks[0])),
        "exec": Runs(exec, f"open({str(marks[1])!r}, 'w').close()"),
        "numpy.save": Runs(np.save, str(marks[2]), np.zeros(2)),
        "getattr": Runs(getattr, "", "join"),
        "datetime.*": __import__("datetime").timedelta(1),
    }
    for name, content in evil.items():
        for whole in (content, {"annotations": [*annotations()[:1], content]}):
            file = write(tmp_path, whole, protocol)
            with pytest.raises(DataError, match=f"ntu.pkl: cannot be read .it would call .*{name}"):
                read_skeleton_pickle(file)
    assert not any(mark.exists() for mark in marks)
    # The same bytes do run where nobody looks.
    pickle.loads(pickle.dumps(evil["posix.mkdir"], protocol=protocol))
    assert marks[0].is_dir()


def test_arrays_of_objects_hide_nothing(tmp_path):
    hidden = np.array([Runs(os.mkdir, str(tmp_path / "made"))], dtype=object)
    write(tmp_path, {"annotations": [{"frame_dir": "a", "keypoint": hidden}]})
    with pytest.raises(DataError, match=r"it would call posix.mkdir"):
        read_skeleton_pickle(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoint": np.zeros((1, 60, 18, 3))}, r"keypoint of shape \[1, 60, 18, 3\]"),
        ({"keypoint": np.zeros((60, 25, 3))}, r"keypoint of shape \[60, 25, 3\]"),
        ({"keypoint": np.full((1, 60, 25, 3), np.nan)}, "NaN or infinity"),
        ({"keypoint": np.zeros((1, 60, 25, 3))}, "person 0 is tracked in 0 frames"),
        ({"keypoint": [1, 2]}, "keypoint is no array"),
        ({"label": "walk"}, "label 'walk'"),
        ({"label": float("nan")}, "label nan"),
        ({"frame_dir": "S001C001P001R001A001"}, "a second time"),
    ],
)
def test_annotations_that_cannot_be_used(tmp_path, change, reason):
    own = annotations()
    own[3] |= change
    with pytest.raises(DataError, match=reason):
        read_skeleton_pickle(write(tmp_path, {"annotations": own}))


def test_frames_without_the_person_are_interpolated(tmp_path):
    own = annotations()
    whole = own[0]["keypoint"].astype(np.float32)
    own[0]["keypoint"] = whole.copy()
    own[0]["keypoint"][:, [0, 1, 20, 21, 22, 59]] = 0
    data = read_skeleton_pickle(write(tmp_path, {"annotations": own}))
    (values,) = (
        recording.streams["skeleton"].values
        for recording in data.recordings
        if recording.name == own[0]["frame_dir"]
    )
    assert len(values) == 57
    kept = np.delete(np.arange(57), [18, 19, 20])
    np.testing.assert_array_equal(values[kept], whole[0, 2:59][kept])
    before, after = whole[0, 19], whole[0, 23]
    np.testing.assert_allclose(values[18], before + (after - before) / 4, atol=1e-5)
    np.testing.assert_allclose(values[20], after - (after - before) / 4, atol=1e-5)


def test_an_activity_may_be_unknown(tmp_path):
    own = annotations()
    own[0]["label"], own[1]["label"] = None, np.int64(-5)
    del own[2]["label"]
    data = read_skeleton_pickle(write(tmp_path, {"annotations": own}))
    by_name = {recording.name: recording.label for recording in data.recordings}
    assert [by_name[annotation["frame_dir"]] for annotation in own[:3]] == [-1] * 3
    assert min([by_name[annotation["frame_dir"]] for annotation in own[3:]]) >= 0


def test_files_that_are_something_else(tmp_path):
    for content, reason in (
        ([1, 2], "no dictionary with annotations"),
        ({"annotations": [{}]}, "annotation 0 lacks its entries"),
        ({"annotations": []}, "no skeleton can be read"),
        ({"split": ["a"], "annotations": annotations()}, "split is of list"),
        ({"split": {"train": 5}, "annotations": annotations()}, "split train is 5"),
    ):
        with pytest.raises(DataError, match=f"ntu.pkl: {reason}"):
            read_skeleton_pickle(write(tmp_path, content))
    (tmp_path / "ntu.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"ntu.pkl: cannot be read"):
        read_skeleton_pickle(tmp_path)
    with pytest.raises(DataError, match=r"data.modalities=\[skeleton\]"):
        read_recordings(tmp_path)
