import json
from pathlib import Path

import numpy as np
import pytest

from core.data.checks import DataError
from core.data.findings import Findings
from medical.data.layouts import find_cases, stem_of
from medical.data.load import load_cases
from tests.medical.data.files import save


def _text(file: Path, text: str = "Normal.") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_a_folder_of_volumes_with_reports_beside_them(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii"):
        save(tmp_path / name)
        _text(tmp_path / f"{stem_of(Path(name))}.txt")
    save(tmp_path / "c.nii.gz")
    layout = find_cases(tmp_path)
    assert layout.name == "folder"
    assert [(case.id, case.patient) for case in layout.cases] == [
        ("a", "a"),
        ("b", "b"),
        ("c", "c"),
    ]
    assert [case.report for case in layout.cases] == [tmp_path / "a.txt", tmp_path / "b.txt", None]


def test_a_table_says_images_reports_patients_and_splits(tmp_path: Path) -> None:
    lines = [
        "image,report,patient_id,split,label,accession",
        'x/one.nii.gz,"No effusion, no nodule.",p1,train,y/one.nii.gz,17',
        "x/two.nii.gz,reports/two.txt,p2,Val,,18",
        "x/three.nii.gz,,p2,test,,19",
    ]
    table = _text(tmp_path / "cases.csv", "\n".join(lines))
    _text(tmp_path / "labels.json", '{"1": "liver", "0": "background"}')
    for path in (tmp_path, table):
        layout = find_cases(path)
        one, three, two = layout.cases
        assert one.report == "No effusion, no nodule."
        assert two.report == tmp_path / "reports/two.txt"
        assert three.report is None
        assert (one.label, two.label) == (tmp_path / "y/one.nii.gz", None)
        assert [case.split for case in (one, two, three)] == ["train", "valid", "test"]
        assert two.patient == three.patient == "p2"
        assert layout.classes == ["background", "liver"]


def test_decathlon_and_folds_of_auto3dseg(tmp_path: Path) -> None:
    training = [
        {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz", "fold": 0},
        {"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz", "fold": 1},
    ]
    content = {
        "labels": {"0": "background", "1": "liver"},
        "training": training,
        "test": ["imagesTs/c.nii.gz"],
    }
    _text(tmp_path / "dataset.json", json.dumps(content))
    _text(tmp_path / "imagesTr/a.txt")
    findings = Findings(strict=False)
    layout = find_cases(tmp_path, findings)
    assert [(case.id, case.split) for case in layout.cases] == [("a", "valid"), ("b", "train")]
    assert layout.cases[0].report == tmp_path / "imagesTr/a.txt"
    assert layout.cases[1].label == tmp_path / "labelsTr/b.nii.gz"
    assert layout.classes == ["background", "liver"]
    assert "1 test images without segmentation" in findings.warnings[0]
    plain = [{k: v for k, v in entry.items() if k != "fold"} for entry in training]
    _text(tmp_path / "dataset.json", json.dumps(content | {"training": plain}))
    assert {case.split for case in find_cases(tmp_path).cases} == {None}
    misspelt = [{"images": "a.nii.gz"}]
    _text(tmp_path / "dataset.json", json.dumps(content | {"training": misspelt}))
    with pytest.raises(DataError, match=r'entry of "training".*\n.*"image": FILE'):
        find_cases(tmp_path)


def test_nnunet(tmp_path: Path) -> None:
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "spleen": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    _text(tmp_path / "dataset.json", json.dumps(content))
    for name in ("imagesTr/s_01_0000", "imagesTr/s_02_0000", "labelsTr/s_01", "labelsTr/s_02"):
        save(tmp_path / f"{name}.nii.gz")
    for name in ("imagesTs/s_03_0000", "imagesTs/s_04_0000", "labelsTs/s_03"):
        save(tmp_path / f"{name}.nii.gz")
    layout = find_cases(tmp_path)
    assert [(case.id, case.split) for case in layout.cases] == [
        ("s_01", "train"),
        ("s_02", "train"),
        ("s_03", "test"),
    ]
    assert layout.cases[1].label == tmp_path / "labelsTr/s_02.nii.gz"
    assert layout.classes == ["background", "spleen"]


def test_m3d_cap(tmp_path: Path) -> None:
    content = {
        "train": [{"image": "7-1-2.nii.gz", "text": "7-1-2.txt"}],
        "val": [{"image": "8-1-1.nii.gz", "text": "8-1-1.txt"}],
    }
    _text(tmp_path / "split.json", json.dumps(content))
    _text(tmp_path / "notes.json", "[1, 2]")
    layout = find_cases(tmp_path)
    assert [(case.id, case.patient, case.split) for case in layout.cases] == [
        ("7-1-2", "7", "train"),
        ("8-1-1", "8", "valid"),
    ]
    assert layout.cases[0].report == tmp_path / "7-1-2.txt"


def test_lists_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no volumes[\s\S]*data demo path=DIR"):
        find_cases(tmp_path)
    _text(tmp_path / "a.csv", "scan,report\nx.nii.gz,Normal.\n")
    with pytest.raises(DataError, match=r"columns scan, report\n.*image, report"):
        find_cases(tmp_path)
    _text(tmp_path / "a.csv", "image,report,split\nx.nii.gz,Normal.,holdout\n")
    with pytest.raises(DataError, match=r"a.csv:2: split holdout"):
        find_cases(tmp_path)
    _text(tmp_path / "a.csv", "image,report\nx/a.nii.gz,Normal.\ny/a.nii.gz,Normal.\n")
    with pytest.raises(DataError, match="two cases are called a"):
        find_cases(tmp_path)
    _text(tmp_path / "b.csv", "image,report\n")
    with pytest.raises(DataError, match=r"2 tables: a.csv, b.csv"):
        find_cases(tmp_path)
    _text(tmp_path / "dataset.json", "{")
    with pytest.raises(DataError, match=r"dataset.json: cannot be read"):
        find_cases(tmp_path)
    _text(tmp_path / "dataset.json", '{"training": [], "labels": {"0": "a", "2": "b"}}')
    with pytest.raises(DataError, match="numbers from 0 without a gap"):
        find_cases(tmp_path)
    _text(tmp_path / "dataset.json", '{"training": [], "labels": {"whole": [1, 2]}}')
    with pytest.raises(DataError, match="one number a class"):
        find_cases(tmp_path)


def test_those_of_whom_nothing_is_said_train_where_others_test(tmp_path: Path) -> None:
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "imagesTs/c_0000"):
        save(tmp_path / f"{name}.nii.gz")
    for name in ("labelsTr/a", "labelsTr/b", "labelsTs/c"):
        save(tmp_path / f"{name}.nii.gz", np.zeros((20, 18, 16), np.uint8))
    nnunet = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}
    entries = {
        name: [
            {"image": f"images{part}/{n}_0000.nii.gz", "label": f"labels{part}/{n}.nii.gz"}
            for n in of
        ]
        for name, part, of in (("training", "Tr", "ab"), ("validation", "Ts", "c"))
    }
    options = {"reports": False, "ratios": [0.5, 0.5, 0], "size": 8, "spacing": [2, 2, 2]}
    for content, counts in ((nnunet, [1, 1, 1]), (entries, [2, 1, 0])):
        _text(tmp_path / "dataset.json", json.dumps(content))
        splits = load_cases(tmp_path, **options).splits
        assert [len(splits[name]) for name in ("train", "valid", "test")] == counts
    entries["training"][0]["fold"] = 0
    _text(tmp_path / "dataset.json", json.dumps(entries))
    with pytest.raises(DataError, match=r'1 entries of "training" without "fold"'):
        find_cases(tmp_path)


def test_a_table_with_spaces_and_without_some_patients(tmp_path: Path) -> None:
    lines = ["image,report,patient_id", "a.nii.gz,Normal.,p1", "b.nii.gz, ,p1 ", "c.nii.gz,,"]
    _text(tmp_path / "cases.csv", "\n".join(lines))
    findings = Findings(strict=False)
    cases = find_cases(tmp_path, findings).cases
    assert [case.patient for case in cases] == ["p1", "p1", None]
    assert [case.report for case in cases] == ["Normal.", None, None]
    assert "no patient_id of c" in findings.warnings[0]
    _text(tmp_path / "labels.json", '{"0": "background", "1": ["liver"]}')
    with pytest.raises(DataError, match=r"a class called \[.liver.\]"):
        find_cases(tmp_path)
