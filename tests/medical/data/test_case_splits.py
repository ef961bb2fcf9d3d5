from pathlib import Path

import pytest

from core.data.checks import DataError
from core.data.findings import Findings
from medical.data.case_splits import split_cases

PATIENTS = [f"p{number // 2:02}" for number in range(40)]
NONE = [None] * 40


def _of_patients(splits: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, split in zip(PATIENTS, splits, strict=True):
        found.setdefault(name, set()).add(split)
    return found


def test_whole_patients_are_drawn_in_proportion_and_by_the_seed() -> None:
    splits = split_cases(PATIENTS, NONE, ratios=(0.5, 0.25, 0.25), seed=3)
    assert all(len(own) == 1 for own in _of_patients(splits).values())
    assert [splits.count(name) for name in ("train", "valid", "test")] == [20, 10, 10]
    assert splits == split_cases(PATIENTS, NONE, ratios=(0.5, 0.25, 0.25), seed=3)
    assert splits != split_cases(PATIENTS, NONE, ratios=(0.5, 0.25, 0.25), seed=4)


def test_what_the_files_say_stays_and_some_who_train_validate() -> None:
    said = ["test" if name < "p05" else "train" for name in PATIENTS]
    splits = split_cases(PATIENTS, said, ratios=(0.8, 0.2, 0))
    assert [s for s, was in zip(splits, said, strict=True) if was == "test"] == ["test"] * 10
    assert splits.count("valid") == 6
    assert all(len(own) == 1 for own in _of_patients(splits).values())
    all_three = ["train", "valid", "test", "train"]
    assert split_cases(["a", "b", "c", "d"], all_three) == all_three


def test_a_patient_in_two_splits_is_refused() -> None:
    said = ["train", "test", "valid"]
    with pytest.raises(DataError, match="patient a is in train and test"):
        split_cases(["a", "a", "b"], said)
    findings = Findings(strict=False)
    assert split_cases(["a", "a", "b"], said, findings=findings) == ["train", "train", "valid"]
    assert "patient a is in train and test" in str(findings.problems[0])
    with pytest.raises(DataError, match="a case of patient b has no split"):
        split_cases(["a", "b"], ["train", None])
    with pytest.raises(DataError, match="none of 2 patients trains"):
        split_cases(["a", "b"], ["valid", "test"])


def test_a_file_decides_in_place_of_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    lines = [f"p{n:02},{'test' if n < 2 else 'train'}\n" for n in range(15)]
    file.write_text("patient_id,split\n" + "".join(lines) + "other,valid\n")
    with pytest.warns(UserWarning, match="does not say the split of p15, p16, p17, p18, p19"):
        splits = split_cases(PATIENTS, NONE, file, ratios=(0.3, 0.3, 0.4))
    assert splits[:30] == ["test"] * 4 + ["train"] * 26
    assert all(len(own) == 1 for own in _of_patients(splits).values())
    assert len(set(splits[30:])) > 1
    # Each is drawn alone: others that come or go change nothing.
    with pytest.warns(UserWarning):
        fewer = split_cases(PATIENTS[:36], NONE[:36], file, ratios=(0.3, 0.3, 0.4))
    assert fewer == splits[:36]
    # Who is not in it is where the files say, as of a data set that brings its own splits.
    said = split_cases(PATIENTS, ["valid"] * 40, file)
    assert said == ["test"] * 4 + ["train"] * 26 + ["valid"] * 10
    other = [f"q{name}" for name in PATIENTS]
    of_other = ["train", "train", "test", "test"] * 10
    assert split_cases(other, of_other, file) == of_other
    file.write_text("patient_id,split\np00,train\np00 ,test\n")
    with pytest.raises(DataError, match=r"splits.csv:3: patient p00 is in train too"):
        split_cases(PATIENTS, NONE, file)
    file.write_text("patient_id,split\np00,dev\n")
    with pytest.raises(DataError, match=r":2: split dev"):
        split_cases(PATIENTS, NONE, file)
    file.write_text("patient,split\n")
    with pytest.raises(DataError, match="columns patient, split"):
        split_cases(PATIENTS, NONE, file)
