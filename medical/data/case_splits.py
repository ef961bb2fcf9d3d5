"""Which split each case is in, as the files say or drawn, whole patients always together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from medical.data.patient_splits import split_patients

_FILE = "splits.csv"  # of a run


def split_cases(
    patients: Sequence[str],
    said: Sequence[str | None],
    file: str | Path | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    findings: Findings | None = None,
) -> list[str]:
    """Which split each case is in.

    Args:
        patients: (n) whose each case is.
        said: (n) the split that the files say, or None.
        file: CSV of `patient_id,split`, which decides in place of the files, see `as_in_file`.
        ratios: shares of the patients that train, validate and test, where nothing else decides.
            Where the files say who trains and tests but not who validates, a part of the training
            patients does, in the same proportion.
        seed: of that drawing.
        findings: where a patient in two splits is told; that patient's cases are all put into the
            first of them.

    Raises:
        DataError: ratios that are no shares, a file that cannot be used, a patient in two splits,
            some cases with a split and some without, or nobody trains.
    """
    findings = findings or Findings()
    names = sorted(set(patients))
    if file is not None:
        of_row = as_in_file(file, patients, said, ratios, seed, findings)
        of_patient = dict(zip(patients, of_row, strict=True))
    elif any(said):
        of_patient = _of_files(patients, said, findings)
        if "valid" not in of_patient.values():
            train = sorted(name for name, split in of_patient.items() if split == "train")
            share = ratios[1] / max(ratios[0] + ratios[1], 1e-9)
            drawn = split_patients(train, None, (1 - share, share, 0), seed)
            of_patient |= {train[row]: "valid" for row in drawn["valid"].tolist()}
    else:
        drawn = split_patients(names, None, ratios, seed)
        of_patient = {names[row]: s for s, rows in drawn.items() for row in rows.tolist()}
    if "train" not in of_patient.values():
        raise DataError(
            f"none of {len(names)} patients trains", fix="give data.ratios, or data.splits=FILE.csv"
        )
    return [of_patient[name] for name in patients]


def as_in_file(
    file: str | Path,
    patients: Sequence[str],
    otherwise: Sequence[str | None],
    ratios: Sequence[float],
    seed: int,
    findings: Findings | None = None,
) -> list[str]:
    """Which split each row is in, as a file of `patient_id,split` says.

    Who is not in it is where `otherwise` says, or is drawn, each alone, so that all others stay
    where they are. A file that names none of the patients is of other data, and decides nothing
    where `otherwise` says all.

    Args:
        file: the CSV.
        patients: (n) whose each row is.
        otherwise: (n) the split that the data themselves say, or None.
        ratios: shares of train, valid and test in the drawing.
        seed: of it.
        findings: where it is told who is drawn, and a patient in two splits.

    Raises:
        DataError: the file cannot be used, or a patient that it does not name is in two splits.
    """
    findings = findings or Findings()
    of_patient = read_splits(Path(file))
    left = [(p, split) for p, split in zip(patients, otherwise, strict=True) if p not in of_patient]
    stated = [(patient, split) for patient, split in left if split is not None]
    of_patient |= _of_files(*zip(*stated, strict=True), findings) if stated else {}
    drawn = sorted({patient for patient, _ in left} - of_patient.keys())
    if drawn:
        findings.warn(f"{file} does not say the split of {few(drawn)}: drawn")
    of_patient |= {name: _drawn(name, ratios, seed) for name in drawn}
    return [of_patient[name] for name in patients]


def rows_of_splits(of_row: Sequence[str]) -> dict[str, Int64[Tensor, " rows"]]:
    """Ascending rows of each split, from the split of each row."""
    return {
        split: torch.tensor([row for row, own in enumerate(of_row) if own == split]).long()
        for split in SPLITS
    }


def keep_splits(
    run_dir: Path, patients: Sequence[str], splits: Mapping[str, Int64[Tensor, " rows"]]
) -> None:
    """Writes who is in which split into a run, as `data.splits` reads it: CSV `patient_id,split`.

    Data that are given without their test split, as a comparison trains on, are not all there is
    to say: of them nothing is written, and the same data are divided in the same way again.
    """
    import polars as pl

    if not len(splits["test"]):
        return
    split_of = {row: split for split in SPLITS for row in splits[split].tolist()}
    rows = {patients[row]: split for row, split in sorted(split_of.items())}
    table = pl.DataFrame({"patient_id": list(rows), "split": list(rows.values())})
    table.write_csv(run_dir / _FILE)


def kept_splits(run_dir: Path) -> dict[str, str]:
    """What the reader needs so that nobody who was trained on is ever tested on."""
    file = run_dir / _FILE
    return {"splits": str(file)} if file.is_file() else {}


def _of_files(
    patients: Sequence[str], said: Sequence[str | None], findings: Findings
) -> dict[str, str]:
    of: dict[str, set[str]] = defaultdict(set)
    for name, split in zip(patients, said, strict=True):
        if split is None:
            raise DataError(
                f"a case of patient {name} has no split, others have",
                fix="say the split of every case, or of none",
            )
        of[name].add(split)
    of_patient = {}
    for name, own in of.items():
        splits = [split for split in SPLITS if split in own]
        if len(splits) > 1:
            findings.problem(
                DataError(
                    f"patient {name} is in {' and '.join(splits)}",
                    expected="all cases of a patient in one split",
                    fix="move them into one",
                )
            )
        of_patient[name] = splits[0]
    return of_patient


def read_splits(file: Path) -> dict[str, str]:
    """Patient -> split, of a CSV of `patient_id,split`.

    Raises:
        DataError: it cannot be read, or says something else.
    """
    import polars as pl

    if not file.is_file():
        raise DataError("no such file", path=file, expected="a CSV with patient_id,split")
    try:
        table = pl.read_csv(file, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({str(error).splitlines()[0]})", path=file) from None
    if not {"patient_id", "split"} <= set(table.columns):
        raise DataError(
            f"columns {', '.join(table.columns)}", path=file, expected="patient_id,split"
        )
    of_patient: dict[str, str] = {}
    for line, row in enumerate(table.select("patient_id", "split").iter_rows(), start=2):
        name, split = ((value or "").strip() for value in row)
        if split not in SPLITS:
            raise DataError(f"split {split}", path=file, line=line, expected=", ".join(SPLITS))
        if of_patient.setdefault(name, split) != split:
            raise DataError(f"patient {name} is in {of_patient[name]} too", path=file, line=line)
    return of_patient


def _drawn(name: str, ratios: Sequence[float], seed: int) -> str:
    place = np.random.default_rng([seed, crc32(name.encode())]).random()
    number = int(np.searchsorted(np.cumsum(ratios)[:-1], place, side="right"))
    return SPLITS[number]
