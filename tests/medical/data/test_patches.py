import shutil
from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

from core.data.checks import DataError
from core.data.stored_rows import StoredRows
from medical.data.patches import Patches, check_patches, load_patches
from medical.data.patches_demo import write_patches
from medical.data.patient_splits import split_patients, straddling
from medical.patch_task import PatchProbing


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches") / "demo"
    write_patches(folder, train=6, valid=3, test=4, patients=7, size=32)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def patients_of(data: Patches, split: str) -> set[str]:
    return {data.patients[row] for row in data.splits[split].tolist()}


def test_patches_are_the_pixels_of_the_files_with_their_patients(written: Path) -> None:
    data = load_patches(written)
    assert data.shapes == {"image": [3, 32, 32]}
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 36,
        "valid": 18,
        "test": 24,
    }
    for row in (0, 50):
        image = read_image(str(written / data.ids[row]))
        torch.testing.assert_close(data.inputs["image"][row], image)
        assert data.patients[row] in data.ids[row]
        name = data.classes["label"][data.labels["label"][row]]
        assert Path(data.ids[row]).parent.name == name
    assert straddling(data.patients, data.splits) == {}
    kept = data.without_test()
    assert len(kept.ids) == len(kept.patients) == 54
    assert patients_of(kept, "train") == patients_of(data, "train")
    assert len(kept.splits["test"]) == 0


def test_streamed_patches_are_the_same(written: Path) -> None:
    whole, streamed = load_patches(written), load_patches(written, stream=True)
    column = streamed.inputs["image"]
    assert isinstance(column, StoredRows)
    rows = torch.tensor([3, 40])
    torch.testing.assert_close(column.index_select(0, rows), whole.inputs["image"][rows])
    assert isinstance(streamed.without_test().inputs["image"], StoredRows)


def flatten(folder: Path) -> None:
    """Classes without splits, and a table of the files where they now are."""
    lines = (folder / "patients.csv").read_text().splitlines()
    kept = [lines[0]]
    for line in lines[1:]:
        file, patient = line.split(",")
        target = Path(*Path(file).parts[1:])
        (folder / target).parent.mkdir(exist_ok=True)
        (folder / file).rename(folder / target)
        kept.append(f"{target},{patient}")
    for split in ("train", "valid", "test"):
        shutil.rmtree(folder / split)
    (folder / "patients.csv").write_text("\n".join(kept))


def test_splits_are_drawn_by_patient(folder: Path) -> None:
    flatten(folder)
    data = load_patches(folder, ratios=(0.5, 0.2, 0.3))
    whose = [patients_of(data, split) for split in ("train", "valid", "test")]
    assert [len(of) for of in whose] == [4, 1, 2]
    assert len(set.union(*whose)) == 7
    assert sum(len(rows) for rows in data.splits.values()) == len(data.ids)
    again = load_patches(folder, ratios=(0.5, 0.2, 0.3))
    other = load_patches(folder, ratios=(0.5, 0.2, 0.3), seed=1)
    assert patients_of(again, "train") == whose[0] != patients_of(other, "train")


def test_validation_patients_are_taken_from_training(folder: Path) -> None:
    shutil.rmtree(folder / "valid")
    table = folder / "patients.csv"
    kept = [line for line in table.read_text().splitlines() if not line.startswith("valid/")]
    table.write_text("\n".join(kept))
    data = load_patches(folder, valid_share=0.3)
    assert len(patients_of(data, "valid")) == 1
    assert straddling(data.patients, data.splits) == {}


def test_the_table_stands_above_the_folders(folder: Path) -> None:
    table = folder / "patients.csv"
    lines = table.read_text().splitlines()
    rows = [f"{lines[0]},label,split"]
    rows += [f"{line},{'a' if n % 2 else ''},train" for n, line in enumerate(lines[1:])]
    table.write_text("\n".join(rows))
    data = load_patches(folder, valid_share=0)
    assert data.classes == {"label": ["a"]}
    assert sorted(data.labels["label"].unique().tolist()) == [-1, 0]
    assert len(data.splits["train"]) == len(data.ids)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",p000", ",", "no patient for train/"),
        (",p000\n", ",p000\ntrain/stroma/p000_0000.png,p009\n", "more than one row for train/"),
        ("file,patient_id", "name,who", "columns name, who"),
        ("train/stroma/p000_0000.png,p000\n", "", "no row for train/stroma/p000_0000.png"),
        ("train/stroma/p000_0000.png", "train/stroma/gone.png", "no row for"),
        (
            "test/stroma/p005_0000.png,p005",
            "test/stroma/p005_0000.png,p000",
            "p000 is in train and test",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    folder: Path, old: str, new: str, message: str
) -> None:
    table = folder / "patients.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_patches(folder)


def test_check_names_every_patch_that_cannot_be_decoded(folder: Path) -> None:
    assert check_patches(folder).problems == []
    for name in ("train/glands", "test/solid"):
        file = next((folder / name).iterdir())
        file.write_bytes(file.read_bytes()[:200])
    problems = check_patches(folder).problems
    assert len(problems) == 2
    assert all("cannot be decoded" in str(problem) for problem in problems)


def test_check_finds_copies_across_splits_and_nobody(folder: Path) -> None:
    (folder / "patients.csv").unlink()
    source = next((folder / "train" / "glands").iterdir())
    shutil.copy(source, folder / "test" / "solid" / "copy.png")
    report = check_patches(folder)
    assert "copy.png" in str(report.problems[0])
    assert any("whose the patches are" in warning for warning in report.warnings)


def test_check_finds_copies_also_where_the_table_is_at_fault(folder: Path) -> None:
    first = next((folder / "train" / "glands").iterdir())
    shutil.copy(first, next((folder / "test" / "glands").iterdir()))
    table = folder / "patients.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    problems = [str(problem) for problem in check_patches(folder).problems]
    assert len(problems) == 2
    assert "no row for" in problems[0]
    assert "1 patches of another split have the same pixels" in problems[1]


def test_a_class_of_one_member_cannot_be_divided(folder: Path) -> None:
    flatten(folder)
    (folder / "patients.csv").unlink()
    (folder / "odd").mkdir()
    shutil.copy(next((folder / "glands").iterdir()), folder / "odd" / "a.png")
    with pytest.raises(DataError, match="one member"):
        load_patches(folder)
    assert "one member" in str(check_patches(folder).problems[0])


def test_patients_of_a_class_go_to_all_splits() -> None:
    patients = [f"p{n // 2}" for n in range(40)]
    labels = torch.arange(40) // 20
    parts = split_patients(patients, labels, (0.6, 0.2, 0.2), seed=0)
    for rows, expected in zip(parts.values(), (12, 4, 4), strict=True):
        assert torch.bincount(labels[rows], minlength=2).tolist() == [expected, expected]
    with pytest.raises(DataError, match="2 patients for the splits train, valid, test"):
        split_patients(["a", "b"], None, (0.6, 0.2, 0.2), seed=0)
    few = split_patients(["a", "b", "c"], None, (0.9, 0.05, 0.05), seed=0)
    assert [len(rows) for rows in few.values()] == [1, 1, 1]


def test_whom_a_run_was_trained_on_is_not_tested_on_when_others_come(
    folder: Path, tmp_path: Path
) -> None:
    flatten(folder)
    before, task = load_patches(folder, ratios=(0.5, 0.2, 0.3)), PatchProbing()
    task.keep_reading(before, tmp_path)
    table = folder / "patients.csv"
    lines = table.read_text().splitlines()
    for number in range(12):
        source, _ = lines[1 + number].split(",")
        name = f"stroma/new_{number:02}.png"
        shutil.copy(folder / source, folder / name)
        lines.append(f"{name},a{number:02}")
    table.write_text("\n".join(lines))
    anew = load_patches(folder, ratios=(0.5, 0.2, 0.3))
    assert any(patients_of(anew, s) & patients_of(before, "train") for s in ("valid", "test"))
    with pytest.warns(UserWarning, match="does not say the split of a00"):
        after = load_patches(folder, ratios=(0.5, 0.2, 0.3), **task.reading(tmp_path))
    for split in ("train", "valid", "test"):
        assert patients_of(before, split) <= patients_of(after, split)
    assert straddling(after.patients, after.splits) == {}


def test_data_of_others_keep_their_own_splits(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    file.write_text("patient_id,split\nx1,train\nx2,test\n")
    for _ in range(2):  # as folders say them, then drawn
        own, read = load_patches(folder).splits, load_patches(folder, splits=file).splits
        assert all(torch.equal(rows, read[split]) for split, rows in own.items())
        if (folder / "train").is_dir():
            flatten(folder)
