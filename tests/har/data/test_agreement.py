"""Data that a trained system is used on say the same as those of its training, by name."""

import copy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from core.data.checks import DataError
from core.trainers.system import Batch, System
from har.data.agreement import Agreement
from har.data.checks import check_windows
from har.data.recordings import IMU, SKELETON
from har.data.windows import load_windows
from har.task import ActivityRecognition
from tests.har.data.layouts import AXES, DECLARED, JOINTS, write_team

ARGUMENTS = {"device": "cpu", "standardize": True}
MIXED_JOINTS = ["head", "hip", "right_hand", "left_hand", "spine"]
MIXED_AXES = ["gyro_z", "acc_y", "gyro_x", "acc_x", "acc_z", "gyro_y"]


def mixed(folder: Path, new: Path) -> Path:
    """The same recordings, with joints, channels, root, bone and activities in another order."""
    said = copy.deepcopy(DECLARED)
    said["skeleton"] |= {"joints": MIXED_JOINTS, "root": "head", "bone": ["hip", "head"]}
    units = said["imu"]["channels"]
    said["imu"]["channels"] = {name: units[name] for name in MIXED_AXES}
    said |= {"activities": ["walk", "run", "sit"]}
    (write_team(new) / "streams.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    for file in sorted((folder / "recordings").glob("*.npz")):
        arrays = dict(np.load(file))
        arrays["skeleton"] = arrays["skeleton"][:, [JOINTS.index(name) for name in MIXED_JOINTS]]
        arrays["imu"] = arrays["imu"][:, [AXES.index(name) for name in MIXED_AXES]]
        np.savez(new / "recordings" / file.name, **arrays)
    return new


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The `windows.json` of a run on a team's recordings."""
    data = load_windows(write_team(tmp_path / "own"), **ARGUMENTS)
    (tmp_path / "run").mkdir()
    task = ActivityRecognition()
    assert task.reading(tmp_path / "run") == {}
    task.keep_reading(data, tmp_path / "run")
    (file,) = task.reading(tmp_path / "run").values()
    return Path(file)


def test_what_was_written_is_read_to_the_last_bit(tmp_path: Path, kept: Path) -> None:
    own = load_windows(tmp_path / "own", **ARGUMENTS)
    read = Agreement.read(kept)
    assert (read.joints, read.activities, read.bone) == (JOINTS, ["sit", "walk"], (0, 1))
    for name, parts in own.scaling.items():
        assert all(torch.equal(a, b) for a, b in zip(parts, read.scaling[name], strict=True))
    again = load_windows(tmp_path / "own", **ARGUMENTS, like=kept)
    assert again.digest() == own.digest()


def test_joints_channels_and_activities_are_found_by_name(tmp_path: Path, kept: Path) -> None:
    own = load_windows(tmp_path / "own", **ARGUMENTS)
    folder = mixed(tmp_path / "own", tmp_path / "mixed")
    alone = load_windows(folder, **ARGUMENTS)
    assert alone.classes["label"] == ["walk", "run", "sit"]
    assert not torch.allclose(alone.inputs[SKELETON], own.inputs[SKELETON])
    data = load_windows(folder, **ARGUMENTS, like=kept)
    assert (data.joints, data.channels) == (own.joints, own.channels)
    assert data.classes["label"] == ["sit", "walk"]  # nobody runs
    assert torch.equal(data.labels["label"], own.labels["label"])
    assert sorted(map(sorted, data.edges)) == sorted(map(sorted, own.edges))
    for name, values in own.inputs.items():
        torch.testing.assert_close(data.inputs[name], values)


def test_other_people_are_standardised_as_those_of_the_training(tmp_path: Path, kept: Path) -> None:
    own = load_windows(tmp_path / "own", **ARGUMENTS)
    swapped = {"train_subjects": ["bob", "dee"], "valid_subjects": ["ann", "cho"]}
    others = load_windows(tmp_path / "own", **ARGUMENTS, **swapped)
    assert not torch.allclose(others.inputs[IMU][0], own.inputs[IMU][0])
    others = load_windows(tmp_path / "own", **ARGUMENTS, **swapped, like=kept)
    assert torch.equal(others.inputs[IMU][0], own.inputs[IMU][0])
    plain = load_windows(tmp_path / "own", device="cpu", like=kept)
    assert plain.scaling == {}


def test_new_activities_come_after_those_of_the_training(tmp_path: Path, kept: Path) -> None:
    table = pl.read_csv(tmp_path / "own" / "subjects.csv")
    told = pl.when(pl.col("recording") == "sit_bob").then(pl.lit("lie")).otherwise(pl.col("label"))
    table.with_columns(told.alias("label")).write_csv(tmp_path / "own" / "subjects.csv")
    assert load_windows(tmp_path / "own", **ARGUMENTS).classes["label"] == ["lie", "sit", "walk"]
    data = load_windows(tmp_path / "own", **ARGUMENTS, like=kept)
    assert data.classes["label"] == ["sit", "walk", "lie"]
    assert data.labels["label"].tolist() == [0, 2, 0, 0, 1, 1, 1, 1]


def test_what_is_missing_is_named(tmp_path: Path, kept: Path) -> None:
    said = copy.deepcopy(DECLARED)
    said["skeleton"]["joints"] = [*JOINTS[:4], "right_foot"]
    folder = write_team(tmp_path / "feet", declared=said)
    with pytest.raises(
        DataError, match=r"feet: skeleton without the joints right_hand; it has hip"
    ):
        load_windows(folder, **ARGUMENTS, like=kept)
    said = copy.deepcopy(DECLARED)
    said["imu"]["channels"] |= {"acc_x": "deg/s"}
    folder = write_team(tmp_path / "turned", declared=said)
    with pytest.raises(DataError, match=r"turned: imu without the channels acc_x \[g\]"):
        load_windows(folder, **ARGUMENTS, like=kept)
    (found,) = check_windows(folder, **ARGUMENTS, like=kept).problems
    assert "imu without the channels acc_x [g]" in str(found)
    kept.write_text("[]")
    with pytest.raises(DataError, match=r"windows.json: cannot be read"):
        load_windows(tmp_path / "own", **ARGUMENTS, like=kept)


def test_nobody_is_tested_on_who_was_trained_on(tmp_path: Path, kept: Path) -> None:
    own = tmp_path / "own"
    with pytest.raises(DataError, match=r"own: sit_ann, walk_ann of the test split were trained"):
        load_windows(own, **ARGUMENTS, split="leave_out", like=kept)
    load_windows(own, **ARGUMENTS, split="leave_out", fold=1, like=kept)  # bob, as before
    (found,) = check_windows(own, **ARGUMENTS, split="leave_out", like=kept).problems
    assert "of the test split were trained on" in str(found)
    assert check_windows(own, **ARGUMENTS, like=kept).problems == []
    # Nor under another name, in another order, or with one of the sensors.
    moved = mixed(own, tmp_path / "mixed")
    table = (moved / "subjects.csv").read_text().replace("ann", "eve")
    (moved / "subjects.csv").write_text(table)
    for file in sorted((moved / "recordings").glob("*_ann.npz")):
        file.rename(file.with_name(file.name.replace("ann", "eve")))
    with pytest.raises(DataError, match=r"sit_eve, walk_eve of the test split were trained on"):
        load_windows(moved, **ARGUMENTS, like=kept)


def test_a_sensor_that_the_run_did_not_have_is_left_as_it_is(tmp_path: Path, kept: Path) -> None:
    own = load_windows(tmp_path / "own", device="cpu")
    imu = load_windows(tmp_path / "own", device="cpu", modalities=[IMU])
    ActivityRecognition().keep_reading(imu, kept.parent)
    both = load_windows(tmp_path / "own", device="cpu", like=kept)
    assert both.joints == JOINTS
    for name, values in own.inputs.items():
        assert torch.equal(both.inputs[name], values)


class Looks(System):
    """A classifier that keeps what it was asked."""

    def predict(self, batch: Batch) -> torch.Tensor:
        self.seen = batch
        return batch[IMU][:, :2].mean(2)


def test_a_new_recording_is_arranged_as_the_training_was(tmp_path: Path) -> None:
    folder = write_team(tmp_path / "own")
    data = load_windows(folder, **ARGUMENTS)
    other = mixed(folder, tmp_path / "mixed")
    task, system = ActivityRecognition(), Looks()

    def seen(file: Path) -> Batch:
        assert len(task.predict(system, data, str(file), 2.0, 0.5)) > 3
        return system.seen

    expected = seen(folder / "recordings" / "walk_dee.npz")
    for name, values in seen(other / "recordings" / "walk_dee.npz").items():
        torch.testing.assert_close(values, expected[name])
    no_axis = copy.deepcopy(DECLARED)
    no_axis["imu"]["channels"].pop("acc_y")
    lacking = write_team(tmp_path / "lacking", declared=no_axis)
    file = lacking / "recordings" / "walk_dee.npz"
    arrays = dict(np.load(file))
    np.savez(file, skeleton=arrays["skeleton"], imu=np.delete(arrays["imu"], 1, 1))
    with pytest.raises(DataError, match=r"walk_dee.npz: imu without the channels acc_y \[g\]"):
        task.predict(system, data, str(file), 2.0, 0.5)


def test_unlabelled_recordings_can_be_trained_on_and_not_judged(tmp_path: Path) -> None:
    folder = write_team(tmp_path)
    table = pl.read_csv(folder / "subjects.csv").with_columns(pl.lit("").alias("label"))
    table.write_csv(folder / "subjects.csv")
    data, task = load_windows(folder, device="cpu"), ActivityRecognition()
    assert len(data.splits["valid"]) > 0
    assert not any(task.has_split(data, split) for split in ("train", "valid", "test"))
    with pytest.raises(DataError, match="the valid split has no labelled window"):
        task.evaluate(Looks(), data, "valid")
