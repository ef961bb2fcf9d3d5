"""Which split each case is in, as the files say or drawn, whole patients always together."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from core.data.checks import DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from medical.data.patient_splits import split_patients


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
        file: CSV of `patient_id,split`, which decides in place of the files; who is not in it is
            drawn, each alone, so that the others stay where they are.
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
        of_patient = _of_file(Path(file))
        drawn_alone = [name for name in names if name not in of_patient]
        if drawn_alone:
            findings.warn(f"{file} does not say the split of {few(drawn_alone)}: drawn")
        of_patient |= {name: _drawn(name, ratios, seed) for name in drawn_alone}
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


def _of_file(file: Path) -> dict[str, str]:
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
