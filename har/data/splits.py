"""Splits by subject: nobody's recordings are in two of them."""

import re
from collections.abc import Sequence

from core.data.checks import DataError
from core.data.samples import SPLITS
from har.data.recordings import Recordings

RULES = ("odd_even", "leave_out", "files")
Names = Sequence[str | int]


def split_recordings(
    data: Recordings,
    split: str = "odd_even",
    train_subjects: Names | None = None,
    valid_subjects: Names | None = None,
    test_subjects: Names | None = None,
    fold: int = 0,
    n_test: int = 1,
) -> list[str]:
    """Which of train, valid, test each recording is in; `""` where it is in none.

    Args:
        data: the recordings.
        split: `odd_even`: the subjects of odd place, in order of their names, train, the last of
            these validates, and those of even place test. `leave_out`: a group of `n_test` subjects
            tests, the group after it validates, and the rest train. `files`: as the files say;
            where they name no validation, the last of the training subjects validates.
        train_subjects: subjects that train, instead of all that are in no other list. Any list
            given takes the place of `split`.
        valid_subjects: subjects that validate.
        test_subjects: subjects that test.
        fold: which group of `n_test` tests, from 0.
        n_test: subjects in a group.

    Raises:
        DataError: a list names a subject that is not there or that is in another list, the rule or
            the fold does not exist, nobody trains, or the files say no split.
    """
    lists = (train_subjects, valid_subjects, test_subjects)
    subjects = sorted({r.subject for r in data.recordings}, key=in_order)
    if any(given is not None for given in lists):
        of_subject = _listed(subjects, *lists)
    elif split == "odd_even":
        of_subject = _odd_even(subjects)
    elif split == "leave_out":
        of_subject = _leave_out(subjects, fold, n_test)
    elif split == "files":
        return _of_files(data)
    else:
        raise DataError(f"data.split={split}", expected=", ".join(RULES))
    if "train" not in of_subject.values():
        raise DataError(f"nobody is left to train of the subjects {', '.join(subjects)}")
    return [of_subject.get(r.subject, "") for r in data.recordings]


def subjects_in_several(data: Recordings, splits: Sequence[str]) -> dict[str, str]:
    """Subject -> its splits, as in "train and test", of those that are in more than one."""
    of: dict[str, set[str]] = {}
    for recording, split in zip(data.recordings, splits, strict=True):
        of.setdefault(recording.subject, set()).update({split} - {""})
    return {
        subject: " and ".join(split for split in SPLITS if split in own)
        for subject, own in of.items()
        if len(own) > 1
    }


def in_order(name: str) -> list[tuple[int, str]]:
    """A key by which `s2` comes before `s10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _listed(
    subjects: list[str], train: Names | None, valid: Names | None, test: Names | None
) -> dict[str, str]:
    of_subject: dict[str, str] = {}
    for split, names in zip(SPLITS, (train, valid, test), strict=True):
        for name in map(str, names or ()):
            where = f"data.{split}_subjects names {name}"
            if name not in subjects:
                raise DataError(f"{where}, who is not there", expected=", ".join(subjects))
            if of_subject.get(name, split) != split:
                raise DataError(f"{where}, who is in {of_subject[name]} as well")
            of_subject[name] = split
    if train is None:
        of_subject |= {name: "train" for name in subjects if name not in of_subject}
    return of_subject


def _odd_even(subjects: list[str]) -> dict[str, str]:
    odd, even = subjects[::2], subjects[1::2]
    of_subject = dict.fromkeys(odd, "train") | dict.fromkeys(even, "test")
    if len(odd) > 1:
        of_subject[odd[-1]] = "valid"
    return of_subject


def _leave_out(subjects: list[str], fold: int, n_test: int) -> dict[str, str]:
    if n_test < 1:
        raise DataError(f"data.n_test={n_test}", expected="at least 1")
    groups = [subjects[start : start + n_test] for start in range(0, len(subjects), n_test)]
    if not 0 <= fold < len(groups):
        raise DataError(
            f"data.fold={fold}",
            expected=f"0 to {len(groups) - 1}, {len(subjects)} subjects in groups of {n_test}",
        )
    of_subject = dict.fromkeys(subjects, "train")
    of_subject |= dict.fromkeys(groups[(fold + 1) % len(groups)], "valid")
    return of_subject | dict.fromkeys(groups[fold], "test")


def _of_files(data: Recordings) -> list[str]:
    said = [recording.split or "" for recording in data.recordings]
    if "train" not in said:
        raise DataError(
            "the files put no recording into train", expected="split=odd_even or split=leave_out"
        )
    if "valid" in said:
        return said
    train = {r.subject for r, split in zip(data.recordings, said, strict=True) if split == "train"}
    if len(train) < 2:
        return said
    last = max(train, key=in_order)
    return [
        "valid" if split == "train" and r.subject == last else split
        for r, split in zip(data.recordings, said, strict=True)
    ]
