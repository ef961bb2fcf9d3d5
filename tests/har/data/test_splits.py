"""Splits by subject."""

import numpy as np
import pytest

from core.data.checks import DataError
from har.data.recordings import Recording, Recordings, Stream
from har.data.splits import split_recordings

STREAM = {"imu": Stream(np.zeros((4, 3), np.float32), 50.0)}


def people(subjects: list[str], said: list[str | None] | None = None) -> Recordings:
    said = said or [None] * len(subjects)
    pairs = enumerate(zip(subjects, said, strict=True))
    return Recordings([Recording(f"r{n}", s, 0, STREAM, w) for n, (s, w) in pairs], ["a"])


def by_split(data: Recordings, **rule: object) -> dict[str, list[str]]:
    where = split_recordings(data, **rule)
    names = {"train", "valid", "test", *where}
    return {
        w: [r.subject for r, own in zip(data.recordings, where, strict=True) if own == w]
        for w in names
    }


def test_odd_train_and_even_test():
    parts = by_split(people([str(n) for n in (8, 7, 6, 5, 4, 3, 2, 1)]))
    assert parts == {"train": ["5", "3", "1"], "valid": ["7"], "test": ["8", "6", "4", "2"]}


def test_ten_comes_after_nine():
    parts = by_split(people(["s10", "s9", "s1", "s2"]))
    assert parts == {"train": ["s1"], "valid": ["s9"], "test": ["s10", "s2"]}


@pytest.mark.parametrize("n_test", [1, 2, 3])
def test_every_subject_tests_once(n_test):
    names = [str(n) for n in range(1, 9)]
    tested = []
    for fold in range(-(-8 // n_test)):
        parts = by_split(people(names), split="leave_out", fold=fold, n_test=n_test)
        tested += parts["test"]
        assert sorted(name for part in parts.values() for name in part) == names
        assert parts["valid"]
        assert not {*parts["valid"]} & {*parts["test"]}
    assert tested == names
    with pytest.raises(DataError, match=r"fold=8"):
        split_recordings(people(names), "leave_out", fold=8, n_test=n_test)


def test_the_files_may_say_it():
    said = ["train", "train", "test", None]
    parts = by_split(people(["a", "b", "c", "d"], said), split="files")
    assert parts == {"train": ["a"], "valid": ["b"], "test": ["c"], "": ["d"]}
    said = ["train", "train", "valid", "test"]
    parts = by_split(people(["a", "b", "b", "c"], said), split="files")
    assert parts == {"train": ["a", "b"], "valid": ["b"], "test": ["c"]}
    with pytest.raises(DataError, match="the files put no recording into train"):
        split_recordings(people(["a", "b"]), "files")


def test_lists_take_the_place_of_the_rule():
    data = people(["1", "2", "3", "4"])
    parts = by_split(data, test_subjects=[2], valid_subjects=["4"])
    assert parts == {"train": ["1", "3"], "valid": ["4"], "test": ["2"]}
    parts = by_split(data, train_subjects=[1], test_subjects=[2])
    assert parts == {"train": ["1"], "valid": [], "test": ["2"], "": ["3", "4"]}
    with pytest.raises(DataError, match="test_subjects names 2, who is in train as well"):
        split_recordings(data, train_subjects=[1, 2], test_subjects=[2, 3])
    with pytest.raises(DataError, match="names 9, who is not there"):
        split_recordings(data, test_subjects=[9])
    with pytest.raises(DataError, match="nobody is left to train"):
        split_recordings(data, test_subjects=[1, 2, 3, 4])
    with pytest.raises(DataError, match=r"data.split=random"):
        split_recordings(data, "random")
