import numpy as np
import polars as pl
import pytest

from core.data.checks import DataError
from recsys.data.demo import write_demo
from recsys.data.ids import save_id_mapping
from recsys.data.readers import load_interactions
from recsys.data.splits import leave_one_out_labels, ratio_labels, split_labels, time_labels
from tests.recsys.data.sample_shop import ROWS, inter_text

EIGHTY = (0.8, 0.1, 0.1)


def splits(data) -> list:
    return [data.positives(name).tolist() for name in ("train", "valid", "test")]


@pytest.mark.parametrize(
    ("n", "ratios", "expected"),
    [
        (1, EIGHTY, (1, 0, 0)),
        (2, EIGHTY, (2, 0, 0)),
        (3, EIGHTY, (1, 1, 1)),
        (9, EIGHTY, (7, 1, 1)),
        (10, EIGHTY, (8, 1, 1)),
        (15, EIGHTY, (12, 1, 2)),
        (24, EIGHTY, (20, 2, 2)),
        (100, EIGHTY, (80, 10, 10)),
        (10, (0.7, 0.2, 0.1), (7, 2, 1)),
        (10, (0.8, 0.0, 0.2), (8, 0, 2)),
        (5, (0.8, 0.0, 0.2), (4, 0, 1)),
        (30, (0.5, 0.5, 0.0), (15, 15, 0)),
        (12, (1.0, 0.0, 0.0), (12, 0, 0)),
    ],
)
def test_ratio_of_one_user(n, ratios, expected):
    labels = ratio_labels(np.zeros(n, int), ratios)
    assert labels.tolist() == [0] * expected[0] + [1] * expected[1] + [2] * expected[2]


def test_rules_treat_each_user_alone():
    users = np.repeat([3, 5, 9], [12, 2, 4])
    assert ratio_labels(users, EIGHTY).tolist() == [0] * 10 + [1, 2] + [0, 0] + [0, 0, 1, 2]
    assert leave_one_out_labels(users).tolist() == [0] * 10 + [1, 2] + [0, 0] + [0, 0, 1, 2]


def test_leave_one_out_follows_time():
    users = np.array([1, 0, 1, 0, 1, 0, 1])
    times = np.array([5.0, 3.0, 1.0, 2.0, 9.0, 7.0, 4.0])
    labels = split_labels("leave_one_out", users, times, 0, EIGHTY)
    assert labels.tolist() == [1, 1, 0, 0, 2, 2, 0]


def test_shuffled_rules_depend_on_the_seed_alone():
    users = np.random.default_rng(0).integers(0, 30, 600)
    for rule in ("ratio", "leave_one_out"):
        first = split_labels(rule, users, None, 1, EIGHTY)
        assert np.array_equal(first, split_labels(rule, users, None, 1, EIGHTY))
        assert not np.array_equal(first, split_labels(rule, users, None, 2, EIGHTY))
        for user in range(30):
            assert set(first[users == user]) == {0, 1, 2}


def test_equal_moments_are_not_torn_apart():
    times = np.repeat(np.arange(10.0), 7)[np.random.default_rng(0).permutation(70)]
    labels = time_labels(times, EIGHTY)
    expected = np.where(times < 8, 0, np.where(times < 9, 1, 2))
    assert labels.tolist() == expected.tolist()


def test_by_time_trains_on_the_past(tmp_path):
    write_demo(tmp_path / "demo", n_users=200, n_items=120)
    raw = pl.read_csv(tmp_path / "demo" / "demo.inter", separator="\t")
    time = {row[:2]: row[3] for row in raw.iter_rows()}
    data = load_interactions(tmp_path / "demo", split="by_time")
    moments = [[time[tuple(pair)] for pair in data.positives(s).T.tolist()] for s in
               ("train", "valid", "test")]  # fmt: skip
    assert max(moments[0]) < min(moments[1])
    assert max(moments[1]) < min(moments[2])
    assert len(moments[0]) == pytest.approx(0.8 * len(raw), abs=2)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("ratio", "shop.split-ratio-0.8-0.1-0.1-seed3.parquet"),
        ("leave_one_out", "shop.split-leave_one_out.parquet"),
        ("by_time", "shop.split-by_time-0.8-0.1-0.1.parquet"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no training interaction")
def test_a_split_is_written_once_and_read_again(folder, monkeypatch, rule, name):
    first = load_interactions(folder, split=rule, seed=3)
    assert sorted(file.name for file in folder.iterdir() if "split-" in file.name) == [name]
    stored = pl.read_parquet(folder / name)
    assert stored.columns == ["user", "item", "x_label", "digest"]
    assert len(stored) == len(ROWS)

    monkeypatch.setattr("recsys.data.splits.split_labels", None)
    assert splits(load_interactions(folder, split=rule, seed=3)) == splits(first)
    changed = stored.with_columns(x_label=pl.lit(0, pl.Int8))
    changed.write_parquet(folder / name)
    assert load_interactions(folder, split=rule, seed=3).n_interactions == len(ROWS)


def test_another_seed_or_ratio_has_a_file_of_its_own(folder):
    for options in ({"seed": 0}, {"seed": 1}, {"ratios": [0.6, 0.2, 0.2]}):
        load_interactions(folder, split="ratio", **options)
    assert len(list(folder.glob("*.split-*"))) == 3


def test_a_stale_split_is_refused(folder):
    load_interactions(folder, split="ratio")
    (folder / "shop.inter").write_text(inter_text([*ROWS, (2, 4, 1.0, 50, 0)]))
    with pytest.raises(DataError, match="the split was made for other interactions") as error:
        load_interactions(folder, split="ratio")
    assert "shop.split-ratio-0.8-0.1-0.1-seed0.parquet" in str(error.value)
    assert "delete the file" in str(error.value)


def test_a_split_survives_a_saved_id_mapping(folder, tmp_path):
    first = load_interactions(folder, split="ratio")
    save_id_mapping(first, tmp_path / "ids.json")
    again = load_interactions(folder, split="ratio", id_mapping=tmp_path / "ids.json")
    assert splits(again) == splits(first)


def test_a_damaged_split_file_is_refused(folder):
    load_interactions(folder, split="ratio")
    (file,) = folder.glob("*.split-*")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match="not a readable split file"):
        load_interactions(folder, split="ratio")


def test_a_folder_that_cannot_be_written_says_what_to_do(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", refuse)
    with pytest.raises(DataError, match=r"cannot be written \(Permission denied\)") as error:
        load_interactions(folder, split="ratio")
    assert "links to the data files" in str(error.value)


def test_rearm_arrays_can_be_split_anew(folder):
    (folder / "shop.inter").unlink()
    for label, name in enumerate(("train", "valid", "test")):
        pairs = np.array([row[:2] for row in ROWS if row[4] == label]).T
        np.save(folder / f"{name}.npy", pairs)
    data = load_interactions(folder, split="ratio")
    assert data.n_interactions + data.valid.shape[1] + data.test.shape[1] == len(ROWS)
    assert (folder / "shop.split-ratio-0.8-0.1-0.1-seed0.parquet").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": "random"}, "unknown split=random"),
        ({"split": "ratio", "ratios": [0.8, 0.1]}, r"ratios=\[0.8, 0.1\]"),
        ({"split": "ratio", "ratios": [0.8, 0.1, 0.2]}, "add up to 1"),
        ({"split": "by_time", "time_column": "when"}, "no time column 'when'"),
    ],
)
def test_impossible_splits_are_refused(folder, options, reason):
    with pytest.raises(DataError, match=reason):
        load_interactions(folder, **options)


def test_by_time_needs_times_and_more_than_one_moment(folder):
    (folder / "shop.inter").write_text(inter_text([row[:2] for row in ROWS], "userID\titemID"))
    with pytest.raises(DataError, match="split=by_time needs times"):
        load_interactions(folder, split="by_time")
    same = [(*row[:2], 5) for row in ROWS]
    (folder / "shop.inter").write_text(inter_text(same, "userID\titemID\ttimestamp"))
    with pytest.raises(DataError, match="split=by_time leaves the validation split empty"):
        load_interactions(folder, split="by_time")
    assert not list(folder.glob("*.split-*"))
