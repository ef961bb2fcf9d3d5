import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medical.data.checks import check_cases
from tests.medical.data.files import hu, save, save_series


@pytest.fixture
def own(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "own"))


def test_the_demo_has_no_problem_and_its_facts_are_those_of_its_files(demo: Path) -> None:
    before = sorted((file, file.stat().st_mtime_ns) for file in demo.rglob("*"))
    report = check_cases(demo)
    assert [str(problem) for problem in report.problems] == []
    known = json.loads((demo / "findings.json").read_text())
    n_cases = len(known)
    assert report.facts["cases"] == report.facts["usable volumes"] == n_cases
    assert report.facts["patients"] == 12
    assert sum(int(str(report.facts[s]).split()[0]) for s in ("train", "valid", "test")) == n_cases
    with_lesion = sum(bool(findings) for findings in known.values())
    assert f"liver {n_cases}" in str(report.facts["segmentations with"])
    assert f"lesion {with_lesion}" in str(report.facts["segmentations with"])
    assert "RAS" in str(report.facts["axes"])
    assert sorted((file, file.stat().st_mtime_ns) for file in demo.rglob("*")) == before


def _damage(folder: Path) -> dict[str, str]:
    """Damages a case each; name of the file -> what is to be said of it."""
    images, labels, reports = (folder / name for name in ("images", "labels", "reports"))
    files = sorted(images.iterdir())
    content = files[0].read_bytes()
    files[0].write_bytes(content[: len(content) // 2])
    for number, (entry, row) in ((1, (np.nan, 0)), (2, (0.0, 1))):
        image = nibabel.load(files[number])
        values = np.asarray(image.dataobj)
        header = image.header.copy()
        header["sform_code"], header["qform_code"] = 2, 0
        header[("srow_x", "srow_y")[row]] = [entry] * 4
        nibabel.Nifti1Image(values, None, header).to_filename(files[number])
    image = nibabel.load(files[3])
    values = np.asarray(image.dataobj).astype(np.float32)
    save(files[3], np.abs(values) + 1024, image.affine)
    values[0, 0, 0] = np.nan
    save(files[4], values, image.affine)
    label = nibabel.load(labels / files[5].name)
    save(labels / files[5].name, np.asarray(label.dataobj)[:-1], label.affine)
    stem = [file.name.removesuffix(".nii.gz") for file in files]
    (reports / f"{stem[6]}.txt").write_text("\n")
    (reports / f"{stem[7]}.txt").write_bytes(b"\xff\xfe\xe9")
    save(files[8], np.stack([hu(), hu(seed=1)], 3))
    (labels / files[8].name).unlink()
    files[9].unlink()
    save_series(files[9], np.ones((4, 4, 3)), series="1.2")
    save_series(files[9], np.ones((4, 4, 3)), series="1.3")
    image = nibabel.load(files[10])
    save(files[10], np.asarray(image.dataobj).astype(np.int32) * 30, image.affine)
    shutil.copy(files[11], files[12])
    shutil.copy(labels / files[11].name, labels / files[12].name)
    return {
        f"images/{files[0].name}": "cannot be read",
        f"images/{files[1].name}": "affine holds numbers that are not finite",
        f"images/{files[2].name}": "spacing of",
        f"images/{files[3].name}": "no voxel below 0 HU",
        f"images/{files[4].name}": "1 voxels are not numbers",
        f"labels/{files[5].name}": "a segmentation of shape",
        f"reports/{stem[6]}.txt": "an empty report",
        f"reports/{stem[7]}.txt": "not UTF-8",
        f"images/{files[8].name}": "4-D file of 2 volumes",
        f"images/{files[9].name}": "2 series",
        f"images/{files[10].name}": "HU, -4096 to 32767",
        f"images/{files[12].name}": f"the same voxels as {stem[11]}",
    }


def test_every_kind_of_damage_is_told_with_file_and_reason(own: Path) -> None:
    expected = _damage(own)
    n_cases = len(list((own / "reports").iterdir()))
    report = check_cases(own, workers=1)
    told = {str(problem.path.relative_to(own)): str(problem) for problem in report.problems}
    for file, reason in expected.items():
        assert reason in told[file], file
    assert len(report.problems) == len(expected)
    assert report.facts["cases"] == n_cases
    # The usable ones are those whose volume and segmentation can be read.
    assert report.facts["usable volumes"] == n_cases - 9


def test_patients_in_two_splits_and_reports_that_are_the_same(own: Path) -> None:
    lines = (own / "cases.csv").read_text().splitlines()
    splits = ["split", *(["train", "test", "valid"] * 5)[: len(lines) - 1]]
    patients = [line.split(",")[2] for line in lines]
    table = "\n".join(f"{line},{split}" for line, split in zip(lines, splits, strict=True))
    (own / "cases.csv").write_text(table)
    for name in ("ct0003", "ct0004"):
        (own / "reports" / f"{name}.txt").write_text("No acute abnormality.\n")
    report = check_cases(own)
    found = [str(problem) for problem in report.problems]
    straddling = {
        name
        for name in patients[1:]
        if len({s for p, s in zip(patients, splits, strict=True) if p == name}) > 1
    }
    assert straddling
    assert len(found) == len(straddling)
    assert all(any(f"patient {name} is in" in said for said in found) for name in straddling)
    assert any("2 cases share their report" in warning for warning in report.warnings)


def test_arguments_and_folders_that_cannot_be(tmp_path: Path) -> None:
    for arguments, said in (
        ({}, "no volumes"),
        ({"spacing": [1.0, 1.0]}, "three sizes in mm"),
        ({"window": [0.0]}, "two HU"),
    ):
        report = check_cases(tmp_path, **arguments)
        assert len(report.problems) == 1
        assert said in str(report.problems[0])
        assert report.facts == {}


def test_where_nobody_says_whose_the_volumes_are_this_is_told(demo: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.nii.gz", hu(seed=ord(name)))
        (tmp_path / f"{name}.txt").write_text(f"Normal {name}.")
    told = "every case counts as a patient of its own"
    assert any(told in warning for warning in check_cases(tmp_path).warnings)
    assert not any(told in warning for warning in check_cases(demo).warnings)
