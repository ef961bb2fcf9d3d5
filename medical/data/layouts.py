"""Which files make a case: folders, tables and the declarations of segmentation data sets."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.data.checks import DataError
from core.data.findings import Findings, few
from medical.data.read_volume import NIFTI

_SPLITS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class CaseFiles:
    """What one case is read from.

    Attributes:
        id: name of the case.
        patient: whose it is; None where the layout does not say, as DICOM files may.
        image: NIfTI file, or folder of a DICOM series.
        report: text file, the text itself, or None.
        label: NIfTI file of the segmentation, or None.
        split: train, valid or test where the layout says so.
        frame: which volume of a 4-D file.
    """

    id: str
    patient: str | None
    image: Path
    report: Path | str | None = None
    label: Path | None = None
    split: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Layout:
    """The cases of a data set.

    Attributes:
        name: of the layout.
        root: the folder that paths are relative to.
        cases: by their names in order.
        classes: of the segmentations by number, the first the background; empty if not said.
    """

    name: str
    root: Path
    cases: list[CaseFiles]
    classes: list[str] = field(default_factory=list)


def find_cases(path: str | Path, findings: Findings | None = None) -> Layout:
    """The cases of a folder or a file, whichever of these layouts it has.

    - A CSV file with columns `image`, `report` and, where known, `id`, `patient_id`, `split`,
      `label`; or a folder with one such file in it. A report is text, or the name of a `.txt` file.
      Paths are relative to the CSV. `labels.json` beside it names classes: `{"1": "liver"}`.
    - `dataset.json` of the Medical Segmentation Decathlon or a datalist of Auto3DSeg: `training`,
      `validation` and `test` lists of `{"image", "label"}`; `fold` 0 validates.
    - nnU-Net: `dataset.json`, `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, and the same of
      `imagesTs`, `labelsTs`, which test.
    - M3D-Cap as VELVET-Med has it: one JSON file with `train` and `val` lists of
      `{"image", "text"}`; the part of a name before the first `-` is the patient.
    - A folder of `X.nii.gz` with `X.txt` beside it, and of folders `X` with a DICOM series.

    Test images of Decathlon and nnU-Net without a segmentation are left out.

    Raises:
        DataError: there is nothing there, or what is there contradicts itself.
    """
    path, findings = Path(path), findings or Findings()
    if not path.exists():
        raise DataError("no such file or folder", path=path)
    layout = _read(path, findings)
    if not layout.cases:
        raise DataError(
            "no volumes",
            path=path,
            expected="X.nii.gz with X.txt, a CSV with image,report, or dataset.json",
            fix="`medical data demo path=DIR` writes an example",
        )
    seen: dict[str, CaseFiles] = {}
    for case in layout.cases:
        if case.id in seen:
            findings.problem(
                DataError(f"two cases are called {case.id}", path=path, fix="rename one")
            )
        seen.setdefault(case.id, case)
    cases = [seen[name] for name in sorted(seen)]
    return Layout(layout.name, layout.root, cases, layout.classes)


def _read(path: Path, findings: Findings) -> Layout:
    if path.is_file():
        readers: dict[str, Callable[[Path, Findings], Layout]] = {".csv": _csv, ".json": _json}
        if path.suffix not in readers:
            raise DataError("not a list of cases", path=path, expected="a folder, .csv or .json")
        return readers[path.suffix](path, findings)
    if (path / "dataset.json").is_file():
        return _json(path / "dataset.json", findings)
    tables = sorted(path.glob("*.csv"))
    if len(tables) > 1:
        raise DataError(
            f"{len(tables)} tables: {few([table.name for table in tables])}",
            path=path,
            expected="one CSV with image,report",
            fix="give the table itself: data.path=FILE.csv",
        )
    if tables:
        return _csv(tables[0], findings)
    lists = [file for file in sorted(path.glob("*.json")) if _lists_cases(file)]
    return _json(lists[0], findings) if len(lists) == 1 else _folder(path)


def _lists_cases(file: Path) -> bool:
    try:
        return "train" in _parsed(file)
    except DataError:
        return False


def _csv(file: Path, findings: Findings) -> Layout:
    import polars as pl

    try:
        table = pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"cannot be read ({reason})", path=file, expected="a CSV in UTF-8"
        ) from None
    if "image" not in table.columns:
        raise DataError(
            f"columns {', '.join(table.columns)}",
            path=file,
            expected="image, report and, where known, id, patient_id, split, label",
        )
    root, cases, nobodys = file.parent, [], []
    for number, row in enumerate(table.iter_rows(named=True), start=2):
        # A patient with a space behind the name is no other patient.
        row = {name: (value or "").strip() for name, value in row.items()}
        with findings.going_on():
            if not row["image"]:
                raise DataError("no image", path=file, line=number)
            image = root / row["image"]
            said = row.get("split", "").lower()
            if said and said not in _SPLITS:
                raise DataError(
                    f"split {said}", path=file, line=number, expected="train, valid or test"
                )
            report = row.get("report") or None
            if report is not None and report.endswith(".txt") and "\n" not in report:
                report = root / report
            cases.append(
                CaseFiles(
                    row.get("id") or stem_of(image),
                    row.get("patient_id") or None,
                    image,
                    report,
                    root / row["label"] if row.get("label") else None,
                    _SPLITS.get(said),
                )
            )
            if row.get("patient_id") == "" and not image.is_dir():
                nobodys.append(cases[-1].id)
    if nobodys:
        findings.warn(f"{file}: no patient_id of {few(nobodys)}: taken as patients of their own")
    names = root / "labels.json"
    classes = _classes(names, _parsed(names)) if names.is_file() else []
    return Layout("csv", root, cases, classes)


def _json(file: Path, findings: Findings) -> Layout:
    content = _parsed(file)
    if "channel_names" in content or ("modality" in content and "training" not in content):
        return _nnunet(file, content, findings)
    if "train" in content:
        return _m3d(file, content)
    if "training" in content:
        return _decathlon(file, content, findings)
    raise DataError(
        f"keys {', '.join(content)}",
        path=file,
        expected="training (Decathlon), channel_names (nnU-Net) or train (M3D-Cap)",
    )


def _decathlon(file: Path, content: dict[str, Any], findings: Findings) -> Layout:
    root, cases, left_out = file.parent, [], 0
    folded = ["fold" in entry for entry in content["training"] if isinstance(entry, dict)]
    if any(folded) and not all(folded):
        raise DataError(
            f'{folded.count(False)} entries of "training" without "fold", others have one',
            path=file,
            expected="a fold for every entry, or for none",
        )
    for name, split in _SPLITS.items():
        for entry in content.get(name, []):
            entry = {"image": entry} if isinstance(entry, str) else entry
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                raise DataError(
                    f'an entry of "{name}" is {json.dumps(entry)[:80]}',
                    path=file,
                    expected='{"image": FILE, "label": FILE}',
                )
            image = root / entry["image"]
            label = root / entry["label"] if entry.get("label") else None
            if split == "test" and label is None:
                left_out += 1
                continue
            said: str | None = split
            if split == "train":
                # Without folds, who validates and tests is drawn from these, unless lists say.
                said = None if "fold" not in entry else "train" if entry["fold"] else "valid"
            cases.append(_with_report(stem_of(image), image, label, said))
    if left_out:
        findings.note(f"{file}: {left_out} test images without segmentation are left out")
    return Layout(
        "decathlon", root, _others_train(cases), _classes(file, content.get("labels", {}))
    )


def _nnunet(file: Path, content: dict[str, Any], findings: Findings) -> Layout:
    root, cases, left_out = file.parent, [], 0
    if len(content.get("channel_names", content.get("modality", {}))) > 1:
        findings.warn(f"{file}: only the first channel (_0000) is read")
    ending = content.get("file_ending", ".nii.gz")
    for images, labels, split in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
        for image in sorted((root / images).glob(f"*_0000{ending}")):
            name = image.name.removesuffix(f"_0000{ending}")
            label = root / labels / f"{name}{ending}"
            if split == "test" and not label.is_file():
                left_out += 1
                continue
            cases.append(_with_report(name, image, label, split))
    if left_out:
        findings.note(f"{file}: {left_out} test images without segmentation are left out")
    return Layout("nnunet", root, _others_train(cases), _classes(file, content.get("labels", {})))


def _others_train(cases: list[CaseFiles]) -> list[CaseFiles]:
    """The cases; where some are said to validate or test, those of which nothing is said train."""
    if not {case.split for case in cases} & {"valid", "test"}:
        return cases
    return [replace(case, split=case.split or "train") for case in cases]


def _m3d(file: Path, content: dict[str, Any]) -> Layout:
    root, cases = file.parent, []
    for name, split in _SPLITS.items():
        for entry in content.get(name, []):
            if not isinstance(entry, dict) or not {"image", "text"} <= entry.keys():
                raise DataError(
                    f'an entry of "{name}" is {json.dumps(entry)[:80]}',
                    path=file,
                    expected='{"image": FILE, "text": FILE}',
                )
            image = root / entry["image"]
            case = stem_of(image)
            patient = case.partition("-")[0]
            cases.append(CaseFiles(case, patient, image, root / entry["text"], None, split))
    return Layout("m3d", root, cases)


def _folder(root: Path) -> Layout:
    from medical.data.read_dicom import is_series

    cases = []
    if is_series(root):
        root = root.resolve()  # `.` has no name
        cases.append(_with_report(root.name, root))
        return Layout("dicom", root, cases)
    for entry in sorted(root.iterdir()):
        if entry.name.endswith(NIFTI) or (entry.is_dir() and is_series(entry)):
            cases.append(_with_report(stem_of(entry), entry))
    return Layout("folder", root, cases)


def _with_report(
    name: str, image: Path, label: Path | None = None, split: str | None = None
) -> CaseFiles:
    """A case whose report, if there is one, is beside the image."""
    report = image.with_name(f"{name}.txt")
    patient = None if image.is_dir() else name
    return CaseFiles(name, patient, image, report if report.is_file() else None, label, split)


def stem_of(image: Path) -> str:
    """Name of a file without `.nii.gz`, or of a folder."""
    for ending in NIFTI:
        if image.name.endswith(ending):
            return image.name.removesuffix(ending)
    return image.name


def _classes(file: Path, labels: dict[str, Any]) -> list[str]:
    """Names by number, from `{"0": "background"}` or `{"background": 0}`."""
    try:
        numbered = {
            int(number): name
            for key, value in labels.items()
            for number, name in [(key, value) if key.isdigit() else (value, key)]
        }
    except (TypeError, ValueError):
        raise DataError(
            f"labels are {json.dumps(labels)[:80]}",
            path=file,
            expected='one number a class: {"background": 0, "liver": 1}',
            fix="give regions of several classes as classes of their own",
        ) from None
    if not numbered:
        return []
    numbered.setdefault(0, "background")
    unnamed = [name for name in numbered.values() if not isinstance(name, str)]
    if unnamed:
        raise DataError(
            f"a class called {json.dumps(unnamed[0])}", path=file, expected="a name for each number"
        )
    if sorted(numbered) != list(range(len(numbered))):
        raise DataError(
            f"classes {sorted(numbered)}", path=file, expected="numbers from 0 without a gap"
        )
    return [numbered[number] for number in range(len(numbered))]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot be read ({error})", path=file, expected="JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise DataError("not an object", path=file, expected='{"training": [...]}')
    return content
