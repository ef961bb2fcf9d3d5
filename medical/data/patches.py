"""Patches of tissue: folders of classes, the patients they are of, and splits by patient."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch

from core.data.checks import CheckReport, DataError
from core.data.encoded_images import is_split
from core.data.findings import few
from core.data.images import load_images
from core.data.samples import SPLITS, Samples
from core.data.stored_rows import StoredRows
from core.data.table import samples_report
from medical.data.case_splits import as_in_file, read_splits, rows_of_splits
from medical.data.patient_splits import refuse_straddling, split_patients
from medical.data.patient_table import Splits, read_rows, stated_splits, with_validation

TABLE = "patients.csv"
_COLUMNS = "file, patient_id and, where wanted, label, split"


@dataclass(frozen=True)
class Patches(Samples):
    """Samples with one modality, `image`: uint8 (n, 3, height, width), red, green, blue.

    Attributes:
        patients: (n) whose each patch is; empty where nobody says.
    """

    patients: list[str] = field(default_factory=list)

    def without_test(self) -> Self:
        """The same data without the rows of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        patients = [self.patients[row] for row in kept.tolist()] if self.patients else []
        return replace(super().without_test(), patients=patients)


def load_patches(
    path: str | Path,
    size: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    stream: bool | None = None,
    workers: int = 2,
    splits: str | Path | None = None,
) -> Patches:
    """Reads patches from `CLASS/*.png`, or `train/CLASS/*.png` with `valid/` and `test/`.

    `patients.csv` beside them says whose each patch is, in columns `file` (relative to the folder)
    and `patient_id`, and may give `label` and `split`, which then stand above the folders' names.
    Where patients are known, no patient is in two splits: what files say is checked, what is drawn
    is drawn by patient. Without it every patch counts as a patient of its own.

    Args:
        path: the folder; images of any format that torchvision decodes.
        size: height and width: the shorter side is brought to it, the middle is kept. None takes
            the images as they are, which must then be of one size.
        ratios: train, valid and test, where the files say no split.
        valid_share: of the training patients, where there are splits and no valid.
        seed: of these choices.
        stream: decode in training rather than beforehand; None: where they do not fit into half of
            the free memory.
        workers: processes that decode in training, where patches are streamed.
        splits: CSV of `patient_id,split`, which stands above what the files say; where nobody is
            known, of the files.

    Raises:
        DataError: nothing is found, an image cannot be decoded or has another size, a class has a
            single member to be divided, a patient is in two splits, or the table lacks a patch or
            names one that is not there.
    """
    root = Path(path)
    if size is not None and size < 1:
        raise DataError(f"data.size={size}", expected="one pixel or more")
    table = root / TABLE
    if not table.is_file():
        samples = load_images(root, size, ratios, valid_share, seed, stream, workers)
        parts, said = samples.splits, any(is_split(folder) for folder in root.iterdir())
        if splits is not None:
            parts = divided(splits, samples.ids, parts, said, ratios, seed)
        return Patches(samples.inputs, samples.labels, parts, samples.ids, samples.classes)
    # Drawn shares are replaced below; what folders say is kept.
    samples = load_images(root, size, (1.0, 0.0, 0.0), 0.0, seed, stream, workers)
    rows = _rows(table, samples.ids)
    patients = [row["patient_id"] for row in rows]
    labels, classes = samples.labels, samples.classes
    if "label" in rows[0]:
        names = sorted({row["label"] for row in rows if row["label"]})
        place = {name: number for number, name in enumerate(names)}
        labels = {"label": torch.tensor([place.get(row["label"], -1) for row in rows])}
        classes = {"label": names}
    parts = samples.splits
    said = any(is_split(folder) for folder in root.iterdir())
    if "split" in rows[0]:
        parts, said = stated_splits(table, rows, "file"), True
    label = labels.get("label")
    if not said:
        parts = split_patients(patients, label, ratios, seed)
    else:
        refuse_straddling(patients, parts, str(table))
        parts = with_validation(parts, patients, label, valid_share, seed)
    if splits is not None:
        parts = divided(splits, patients, parts, said, ratios, seed)
    return Patches(samples.inputs, labels, parts, samples.ids, classes, patients)


def divided(
    file: str | Path,
    whose: Sequence[str],
    parts: Splits,
    said: bool,
    ratios: Sequence[float],
    seed: int,
) -> Splits:
    """Rows of each split as a file of `patient_id,split` says; see `as_in_file`.

    Args:
        file: the CSV.
        whose: (n) the patient of each row.
        parts: the splits without it.
        said: whether these are said; where they were drawn, those that the file does not name are
            drawn anew, each alone, unless it names nobody.
        ratios: of that drawing.
        seed: likewise.
    """
    otherwise: list[str | None] = [None] * len(whose)
    if said or read_splits(Path(file)).keys().isdisjoint(whose):
        for split, rows in parts.items():
            for row in rows.tolist():
                otherwise[row] = split
    return rows_of_splits(as_in_file(file, whose, otherwise, ratios, seed))


def check_patches(
    path: str | Path,
    size: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    stream: bool | None = None,
    workers: int = 2,
    splits: str | Path | None = None,
) -> CheckReport:
    """What the reader finds, or what is wrong with the files: every patch is decoded.

    All patches that cannot be decoded are named, and patches of several splits with equal pixels.
    """
    from core.data.encoded_images import in_folders

    root = Path(path)
    problems = []
    if root.is_dir():
        for image in in_folders(root):
            try:
                image.decoded(None)
            except DataError as error:
                problems.append(error)
    if problems:
        return CheckReport({"patches that cannot be decoded": len(problems)}, problems, [])
    try:
        patches = load_patches(path, size, ratios, valid_share, seed, stream, workers, splits)
    except DataError as error:
        problems.append(error)
        # Where the table is at fault, the folders may still be.
        with suppress(DataError):
            images = load_images(root, size, ratios, valid_share, seed, stream, workers)
            problems += _twins(images, root)
        return CheckReport({}, problems, [])
    report = samples_report(patches)
    report.problems.extend(_twins(patches, root))
    facts = dict(report.facts)
    if patches.patients:
        facts |= {
            f"{split} patients": len({patches.patients[row] for row in rows.tolist()})
            for split, rows in patches.splits.items()
        }
    else:
        report.warnings.append(
            f"nobody says whose the patches are: without {TABLE} ({_COLUMNS}) a patient may be in "
            "two splits"
        )
    return CheckReport(facts, report.problems, report.warnings)


def _rows(table: Path, ids: list[str]) -> list[dict[str, str]]:
    """One row of the table for each patch, in the order of the ids."""
    by_file = read_rows(table, "file", _COLUMNS)
    missing = [name for name in ids if name not in by_file]
    unknown = sorted(set(by_file) - set(ids))
    nobody = [row["file"] for row in by_file.values() if not row["patient_id"].strip()]
    if missing or unknown or nobody:
        found = (
            f"no row for {few(missing)}"
            if missing
            else f"rows for files that are not there: {few(unknown)}"
            if unknown
            else f"no patient for {few(nobody)}"
        )
        raise DataError(found, path=table, expected="one row with a patient for every patch")
    return [by_file[name] for name in ids]


def _twins(patches: Samples, root: Path) -> list[DataError]:
    """A problem where patches of later splits have the pixels of one of an earlier split."""
    images = patches.inputs["image"]
    if isinstance(images, StoredRows):
        return []
    seen: set[bytes] = set()
    twins = []
    for split in SPLITS:
        rows = patches.splits[split].tolist()
        content = {row: images[row].numpy().tobytes() for row in rows}
        twins += [patches.ids[row] for row in rows if content[row] in seen]
        seen |= set(content.values())
    if not twins:
        return []
    said = (
        f"{len(twins)} patches of another split have the same pixels as one of training or "
        f"validation, such as {few(twins)}"
    )
    return [DataError(said, path=root, fix="remove the copies")]
