"""A team's own recordings: declared units, rates and names, in .npz and .parquet."""

import copy
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from core.data.checks import DataError
from har.data.layout import read_layout
from har.data.readers import read_recording, read_recordings
from har.data.windows import load_windows
from tests.har.data.layouts import AXES, DECLARED, JOINTS, moving_imu, team_values, write_team


def declared(**imu: object) -> dict:
    changed = copy.deepcopy(DECLARED)
    changed["imu"] = {k: v for k, v in (changed["imu"] | imu).items() if v is not None}
    return changed


def test_units_are_converted_as_declared(tmp_path):
    data = read_recordings(write_team(tmp_path))
    assert [r.name for r in data.recordings[:2]] == ["sit_ann", "sit_bob"]
    assert data.classes == ["sit", "walk"]
    assert [r.label for r in data.recordings] == [0] * 4 + [1] * 4
    assert (data.root, data.bone, data.edges) == (0, (0, 1), [(0, 1), (1, 2)])
    assert data.channels == [f"{c} [g]" for c in AXES[:3]] + [f"{c} [deg/s]" for c in AXES[3:]]
    first = data.recordings[0]
    np.testing.assert_allclose(
        first.streams["imu"].values, moving_imu(4, 100.0, 0), rtol=1e-5, atol=1e-4
    )
    skeleton, _ = team_values(4, 0)
    np.testing.assert_allclose(first.streams["skeleton"].values, skeleton / 1000, atol=1e-5)
    assert (first.streams["imu"].rate, first.streams["skeleton"].rate) == (100.0, 30.0)


def test_it_becomes_windows(tmp_path):
    data = load_windows(write_team(tmp_path), seconds=1.0, rate=25.0, device="cpu")
    assert data.shapes == {"skeleton": [3, 25, 5], "imu": [6, 25]}
    assert data.classes == {"label": ["sit", "walk"], "subject": ["ann", "bob", "cho", "dee"]}
    assert data.joints == JOINTS


def parquet_of(skeleton: np.ndarray, imu: np.ndarray, name_of_time: str = "t") -> pl.DataFrame:
    """One log of both sensors: a row has the columns of one, and its time."""
    names = [f"{joint}_{axis}" for joint in JOINTS for axis in "xyz"]
    bodies = pl.DataFrame(skeleton.reshape(len(skeleton), -1), schema=names)
    bodies = bodies.with_columns(pl.Series(name_of_time, 7 + np.arange(len(skeleton)) / 30))
    motions = pl.DataFrame(imu, schema=AXES)
    motions = motions.with_columns(pl.Series(name_of_time, 7.02 + np.arange(len(imu)) / 100))
    log = pl.concat([bodies, motions], how="diagonal").sort(name_of_time)
    return log.with_columns(pl.lit("x").alias("remark"))


def test_a_log_with_times_is_the_same_recording(tmp_path):
    skeleton, imu = team_values(4, 0)
    both = declared(time="t", rate=None)
    both["skeleton"]["time"] = "t"
    write_team(tmp_path, declared=both)
    shutil.rmtree(tmp_path / "recordings")
    (tmp_path / "recordings").mkdir()
    parquet_of(skeleton, imu).write_parquet(tmp_path / "recordings" / "sit_ann.parquet")
    (tmp_path / "subjects.csv").write_text("recording,subject,label,split\nsit_ann,ann,,train\n")
    only = read_layout(tmp_path).recordings[0]
    assert (only.label, only.split) == (-1, "train")
    for name, rate, start in (("skeleton", 30, 7), ("imu", 100, 7.02)):
        stream = only.streams[name]
        assert stream.rate == pytest.approx(rate)
        assert stream.start == pytest.approx(start)
    np.testing.assert_allclose(
        only.streams["imu"].values, moving_imu(4, 100.0, 0), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(only.streams["skeleton"].values, skeleton / 1000, atol=1e-5)


def test_the_example_of_the_docstring_reads(tmp_path):
    lines = (read_layout.__doc__ or "").split("g and deg/s::")[1].split("Acceleration includes")[0]
    folder = write_team(tmp_path)
    (folder / "streams.yaml").write_text("\n".join(line[8:] for line in lines.splitlines()))
    for file in (folder / "recordings").glob("*.npz"):
        arrays = dict(np.load(file))
        arrays["skeleton"] /= 1000
        np.savez(file, time=np.arange(len(arrays["imu"])) / 100, **arrays)
    data = read_layout(folder)
    assert data.classes == ["walk", "sit"]
    np.testing.assert_allclose(
        data.recordings[0].streams["imu"].values, moving_imu(4, 100.0, 0), rtol=1e-5, atol=1e-4
    )
    assert data.edges == [(0, 1), (1, 2), (1, 3), (1, 4)]


def one_with_times(folder: Path, times: np.ndarray, values: np.ndarray, **imu: object) -> None:
    write_team(folder, declared=declared(**{"time": "t"} | imu))
    shutil.rmtree(folder / "recordings")
    (folder / "recordings").mkdir()
    np.savez(folder / "recordings" / "r.npz", imu=values, t=times)
    (folder / "subjects.csv").write_text("recording,subject,label\nr,ann,sit\n")


def test_jitter_is_put_right_and_reported(tmp_path):
    draw = np.random.default_rng(0)
    times = np.arange(400) / 100 + draw.uniform(-0.003, 0.003, 400)
    wave = np.sin(2 * np.pi * 1.5 * times)
    values = np.stack([wave] * 6, 1)
    channels = dict.fromkeys(AXES, "g")
    one_with_times(tmp_path, times, values, rate=None, channels=channels)
    with pytest.warns(UserWarning, match="r.npz: imu: 5 % of its samples come .* early or late"):
        stream = read_layout(tmp_path, ["imu"]).recordings[0].streams["imu"]
    clock = stream.start + np.arange(len(stream.values)) / stream.rate
    exact = np.sin(2 * np.pi * 1.5 * clock)
    assert stream.rate == pytest.approx(100, rel=0.03)
    assert np.abs(stream.values[:, 0] - exact).max() < 0.01
    assert np.abs(wave[: len(exact)] - exact[: len(wave)]).max() > 0.02


@pytest.mark.parametrize(
    ("times", "rate", "reason"),
    [
        (
            np.arange(400) / 100 + (np.arange(400) >= 200) * 1.5,
            None,
            "1 gaps, the longest of 1.51 s",
        ),
        (np.arange(400) * 10.0, None, "one sample every 10 s"),
        (np.arange(400) / 100, 50, "100 samples a second by its times, 50 as declared"),
        (
            np.r_[np.arange(200), np.arange(200)] / 100,
            None,
            "the times do not ascend, at sample 200",
        ),
        (np.arange(399) / 100, None, "399 times for 400 samples"),
        (np.arange(400)[:, None] / 100, None, r"the times are float64 of shape \[400, 1\]"),
        (np.array(3.0), None, r"the times are float64 of shape \[\]"),
        (np.arange(400).astype("M8[ms]"), None, r"the times are datetime64\[ms\]"),
    ],
)
def test_times_that_cannot_be_right(tmp_path, times, rate, reason):
    one_with_times(tmp_path, times, moving_imu(4, 100.0), rate=rate)
    with pytest.raises(DataError, match=f"r.npz: imu: {reason}"):
        read_layout(tmp_path, ["imu"])


@pytest.mark.parametrize(
    ("section", "change", "reason"),
    [
        ("imu", {"channels": {"acc_x": "G"}}, "imu.channels.acc_x: unit 'G'"),
        ("imu", {"rate": None}, "imu: no rate"),
        ("imu", {"rate": "fast"}, "imu.rate='fast'"),
        ("imu", {"sampling_rate": 100}, "unknown entry imu.sampling_rate"),
        ("imu", {"channels": None}, "imu.channels: a name and a unit"),
        ("skeleton", {"unit": "inch"}, "skeleton.unit: unit 'inch'"),
        ("skeleton", {"root": "pelvis"}, "skeleton.root names 'pelvis'"),
        ("skeleton", {"bone": ["hip"]}, "skeleton.bone: "),
        ("skeleton", {"edges": [["hip", "tail"]]}, "skeleton.edges names 'tail'"),
        ("skeleton", {"joints": ["hip", "hip"]}, "skeleton.joints: a name twice"),
        ("skeleton", {"joints": None}, "skeleton.joints: at least two"),
        ("skeleton", {"joints": "hip"}, "skeleton.joints: 'hip'"),
        ("skeleton", {"edges": 3}, "skeleton.edges: 3"),
        ("imu", {"rate": True}, "imu.rate=True"),
        ("imu", {"rate": float("inf")}, "imu.rate=inf"),
    ],
)
def test_a_declaration_that_cannot_be_used(tmp_path, section, change, reason):
    said = copy.deepcopy(DECLARED)
    said[section] = {k: v for k, v in (said[section] | change).items() if v is not None}
    write_team(tmp_path, declared=said)
    with pytest.raises(DataError, match=f"streams.yaml: {reason}"):
        read_layout(tmp_path)


@pytest.mark.parametrize("start", [np.zeros(0), np.array("a"), np.array(np.nan)])
def test_a_start_that_is_no_number(tmp_path, start):
    folder = write_team(tmp_path)
    skeleton, imu = team_values(4, 7)
    file = folder / "recordings" / "walk_dee.npz"
    np.savez(file, skeleton=skeleton, imu=imu, imu_start=start)
    with pytest.raises(DataError, match=r"walk_dee.npz: imu_start is .*\n.*seconds"):
        read_layout(folder)
    np.savez(file, skeleton=skeleton, imu=imu, imu_start=np.array([0.25]))
    assert read_layout(folder).recordings[-1].streams["imu"].start == 0.25


def one_table(folder: Path, table: pl.DataFrame) -> Path:
    write_team(folder)
    shutil.rmtree(folder / "recordings")
    (folder / "recordings").mkdir()
    (folder / "subjects.csv").write_text("recording,subject,label\nr,ann,sit\n")
    table.write_parquet(folder / "recordings" / "r.parquet")
    return folder


def test_samples_that_a_table_without_times_lost_are_not_passed_over(tmp_path):
    """What is left would move together, and come too early."""
    table = pl.DataFrame(moving_imu(4, 100.0), schema=AXES)
    number = pl.int_range(pl.len())

    def without(rows: pl.Expr) -> pl.DataFrame:
        return table.with_columns(pl.when(~rows).then(pl.col(AXES)))

    # The skeleton has fewer samples than the table has rows.
    (whole,) = read_layout(one_table(tmp_path / "end", without(number >= 300)), ["imu"]).recordings
    assert len(whole.streams["imu"].values) == 300
    for name, rows, count in (
        ("inside", number.is_between(100, 149), 50),
        ("first", number < 7, 7),
    ):
        folder = one_table(tmp_path / name, without(rows))
        with pytest.raises(DataError, match=rf"(?s)r.parquet: imu is empty in {count} rows.*time"):
            read_layout(folder, ["imu"])


def test_tables_that_cannot_be_used(tmp_path):
    table = pl.DataFrame(moving_imu(4, 100.0), schema=AXES)
    lists = table.with_columns(pl.concat_list("acc_x").alias("acc_x"))
    with pytest.raises(DataError, match=r"r.parquet: acc_x holds lists"):
        read_layout(one_table(tmp_path / "lists", lists), ["imu"])
    names = [f"{joint}_{axis}" for joint in JOINTS for axis in "xyz"]
    nothing = pl.DataFrame({name: [] for name in names}, schema=dict.fromkeys(names, pl.Float64))
    with pytest.raises(DataError, match=r"r.parquet: skeleton is .* of shape \[0, 5, 3\]"):
        read_layout(one_table(tmp_path / "empty", nothing), ["skeleton"])


def test_two_files_of_one_recording_are_a_problem(tmp_path):
    folder = write_team(tmp_path)
    table = pl.DataFrame(moving_imu(4, 100.0), schema=AXES)
    table.write_parquet(folder / "recordings" / "sit_ann.parquet")
    with pytest.raises(DataError, match=r"sit_ann.parquet: sit_ann.npz is there as well"):
        read_layout(folder)


@pytest.mark.parametrize(
    ("said", "reason"),
    [("sit", "activities: 'sit'"), (5, "activities: 5"), (["sit", "walk", "sit"], "a name twice")],
)
def test_activities_that_cannot_be_used(tmp_path, said, reason):
    write_team(tmp_path, declared=DECLARED | {"activities": said})
    with pytest.raises(DataError, match=f"streams.yaml: .*{reason}"):
        read_layout(tmp_path)


def test_joints_may_be_numbers_and_edges_empty(tmp_path):
    said = copy.deepcopy(DECLARED)
    said["skeleton"] |= {"joints": [4, 3, 2, 1, 0], "root": 4, "bone": [4, 3], "edges": None}
    data = read_layout(write_team(tmp_path, declared=said))
    assert data.joints == ["4", "3", "2", "1", "0"]
    assert (data.root, data.bone, data.edges) == (0, (0, 1), [])


def test_recordings_that_cannot_be_used(tmp_path):
    folder = write_team(tmp_path)
    file = folder / "recordings" / "walk_dee.npz"
    skeleton, imu = team_values(4, 7)
    hole = imu.copy()
    hole[17, 4] = np.nan
    for arrays, reason in (
        ({"skeleton": skeleton}, "no imu"),
        ({"skeleton": skeleton, "imu": imu[:, :3]}, r"imu is float64 of shape \[400, 3\]"),
        (
            {"skeleton": skeleton, "imu": hole},
            "imu holds NaN or infinity at 1 places, first in gyro_y at sample 17",
        ),
    ):
        np.savez(file, **arrays)
        with pytest.raises(DataError, match=f"walk_dee.npz: {reason}"):
            read_layout(folder)
    file.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"walk_dee.npz: cannot be read"):
        read_layout(folder)
    file.unlink()
    with pytest.raises(DataError, match=r"subjects.csv: walk_dee has no file"):
        read_layout(folder)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("recording,label\nsit_ann,sit\n", "no column subject"),
        ("recording,subject,label\nsit_ann,ann,sit\nsit_ann,ann,sit\n", "3: sit_ann a second time"),
        ("recording,subject,label\nsit_ann,,sit\n", "2: a row without recording or subject"),
        ("recording,subject,label,split\nsit_ann,ann,sit,dev\n", "2: split 'dev'"),
        ("recording,subject,label\nsit_ann,ann,sitt\n", "sit_ann is labelled 'sitt', no activity"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, table, reason):
    folder = write_team(tmp_path, declared=DECLARED | {"activities": ["sit", "walk"]})
    (folder / "subjects.csv").write_text(table)
    for file in (folder / "recordings").glob("*.npz"):
        if file.stem != "sit_ann":
            file.unlink()
    with pytest.raises(DataError, match=f"subjects.csv:.*{reason}"):
        read_layout(folder)


def test_files_without_a_row_are_left_out(tmp_path):
    folder = write_team(tmp_path)
    shutil.copy(folder / "recordings" / "sit_ann.npz", folder / "recordings" / "new.npz")
    with pytest.warns(UserWarning, match="no row for new: left out"):
        assert len(read_layout(folder).recordings) == 8


def test_one_recording_as_it_would_come_from_a_device(tmp_path):
    folder = write_team(tmp_path / "set")
    known = read_recording(folder / "recordings" / "walk_cho.npz")
    assert (known.recordings[0].subject, known.recordings[0].label) == ("cho", 1)
    live = shutil.copy(folder / "recordings" / "walk_cho.npz", tmp_path / "live.npz")
    with pytest.raises(DataError, match=r"live.npz: no streams.yaml says what is in it"):
        read_recording(live)
    shutil.copy(folder / "streams.yaml", tmp_path)
    new = read_recording(live, ["imu"])
    assert (new.recordings[0].label, list(new.recordings[0].streams)) == (-1, ["imu"])
    np.testing.assert_array_equal(
        new.recordings[0].streams["imu"].values, known.recordings[0].streams["imu"].values
    )
    (tmp_path / "live.txt").write_text("")
    with pytest.raises(DataError, match=r"live.txt: in no known format"):
        read_recording(tmp_path / "live.txt")
