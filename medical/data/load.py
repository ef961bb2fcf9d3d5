"""Loads volumes with their reports; see `medical.data.layouts` for how the files may lie."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from core.data.checks import DataError
from core.data.findings import Findings
from medical.data.case_splits import rows_of_splits, split_cases
from medical.data.cases import Cases, Finding
from medical.data.layouts import CaseFiles, Layout, find_cases
from medical.data.prepare import (
    Preparation,
    expected_bytes,
    read_prepared,
    whole_position,
)
from medical.data.prepared import Prepared, ResidentVolumes, Store, VolumesOnDisk
from medical.data.read_volume import files_of, frames_of

_ENDS = 1 << 16  # bytes of each end of a file that its fingerprint is of


@dataclass(frozen=True)
class CaseReader:
    """Reads the case of a number; small enough to be sent to the processes that read ahead."""

    files: list[CaseFiles]
    how: Preparation
    use_cache: bool
    classes: list[str]

    def __call__(self, number: int) -> Prepared:
        """The prepared case."""
        return read_prepared(self.files[number], self.how, self.classes, self.use_cache)


def preparation(
    size: int,
    spacing: Sequence[float],
    intensity: str,
    window: Sequence[float],
    series: str | None,
) -> Preparation:
    """The arguments of `load_cases` that say how volumes are prepared.

    Raises:
        DataError: one of them cannot be.
    """
    if len(spacing) != 3:
        raise DataError(f"data.spacing={list(spacing)}", expected="three sizes in mm")
    if len(window) != 2:
        raise DataError(f"data.window={list(window)}", expected="two HU: [-175, 250]")
    x, y, z = map(float, spacing)
    return Preparation(size, (x, y, z), intensity, (float(window[0]), float(window[1])), series)


def threads_of(workers: int | None) -> int:
    """How many threads prepare volumes."""
    return max(min(os.cpu_count() or 1, 8) if workers is None else workers, 1)


def load_cases(
    path: str | Path,
    reports: bool = True,
    splits: str | Path | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    split_seed: int = 0,
    size: int = 96,
    spacing: Sequence[float] = (1.0, 1.0, 0.5),
    intensity: str = "window",
    window: Sequence[float] = (-175.0, 250.0),
    frames: str = "refuse",
    series: str | None = None,
    resident_gib: float = 4.0,
    workers: int | None = None,
    cache: bool = True,
) -> Cases:
    """Reads the cases of a folder or a list, prepares them, and splits them by patient.

    Volumes that together take at most `resident_gib` after preparation are read now and will lie
    on the device. Of more, none is read now: each is prepared when it is first needed and read from
    the cache after that.

    Args:
        path: a folder, a CSV or a JSON list of cases (`medical.data.layouts`).
        reports: whether every case must have one; without, those that lack it have "".
        splits: CSV of `patient_id,split`, in place of what the files say.
        ratios: shares of the patients that train, validate and test, where nothing says the split.
        split_seed: of that drawing.
        size: side of the cubes that systems see, in voxels.
        spacing: of the prepared voxels in mm, to the right, the front and the head.
        intensity: `window`: HU; `bytes`: 0 to 255; `percentiles`: MR.
        window: HU that become 0 and 1.
        frames: what becomes of 4-D files: refused, or split into cases of the same patient.
        series: SeriesInstanceUID, for a DICOM folder with several.
        resident_gib: see above.
        workers: threads that prepare, processes that read ahead; None: one a CPU core, 8 at most.
        cache: whether prepared volumes are kept on disk and read from there.

    Raises:
        DataError: nothing to read, a file that cannot be used, or splits that cannot be made.
    """
    how = preparation(size, spacing, intensity, window, series)
    layout = expand_frames(find_cases(path), frames)
    texts = [read_report(case, layout.root, reports) for case in layout.cases]
    patients = patients_of(layout)
    said = [case.split for case in layout.cases]
    of_case = split_cases(patients, said, splits, ratios, split_seed)
    reader = CaseReader(layout.cases, how, cache, layout.classes)
    store = _store(reader, resident_gib, threads_of(workers))
    return Cases(
        ids=[case.id for case in layout.cases],
        patients=patients,
        splits=rows_of_splits(of_case),
        reports=texts,
        store=store,
        size=size,
        classes=layout.classes,
        findings=_planted(layout, store, size),
        source=[f"{how} {fingerprint(case)}" for case in layout.cases],
        workers=threads_of(workers) if workers != 0 else 0,
    )


def expand_frames(layout: Layout, frames: str, findings: Findings | None = None) -> Layout:
    """Makes a case of every volume of 4-D files where that is asked for.

    Raises:
        DataError: `frames` is neither `refuse` nor `split`, or a file cannot be read.
    """
    if frames not in ("refuse", "split"):
        raise DataError(f"data.frames={frames}", expected="refuse or split")
    if frames == "refuse":
        return layout
    findings, cases = findings or Findings(), []
    for case in layout.cases:
        with findings.going_on():
            n_frames = frames_of(case.image)
            if n_frames == 1:
                cases.append(case)
                continue
            digits = len(str(n_frames - 1))
            # Whose the file is, its volumes are, also where nobody says whose.
            whose = case.patient or case.id
            cases += [
                replace(case, id=f"{case.id}_{frame:0{digits}}", patient=whose, frame=frame)
                for frame in range(n_frames)
            ]
    return replace(layout, cases=cases)


def patients_of(layout: Layout) -> list[str]:
    """Whose each case is; a DICOM series says so itself, otherwise each case is a patient's own."""
    from medical.data.read_dicom import patient_of

    return [
        case.patient or (patient_of(case.image) if case.image.is_dir() else None) or case.id
        for case in layout.cases
    ]


def read_report(case: CaseFiles, root: Path, required: bool) -> str:
    """Text of a report; "" where there is none and none is needed.

    Raises:
        DataError: it is missing, empty or not UTF-8.
    """
    text, where = case.report, case.report if isinstance(case.report, Path) else root
    if isinstance(text, Path):
        try:
            text = text.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"not UTF-8 (byte {error.start})",
                path=where,
                expected="text in UTF-8",
                fix="convert it, e.g. iconv -f latin1 -t utf8",
            ) from None
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", path=where) from None
    if required and not (text or "").strip():
        found = "an empty report" if isinstance(case.report, Path) else f"{case.id} has no report"
        raise DataError(
            found,
            path=where,
            expected=f"what the radiologist wrote, beside the volume as {case.id}.txt or in a CSV",
            fix="leave the case out, or data.reports=false for volumes alone",
        )
    return text or ""


def fingerprint(case: CaseFiles) -> str:
    """Changes when a file of the case does: of sizes and of both ends, where gzip has its sum."""
    total = sha256()
    for file in [*files_of(case.image), *([] if case.label is None else files_of(case.label))]:
        with file.open("rb") as opened:
            size = file.stat().st_size
            total.update(f"{file.name} {size}".encode())
            total.update(opened.read(_ENDS))
            opened.seek(max(size - _ENDS, 0))
            total.update(opened.read())
    return f"{case.frame} {total.hexdigest()[:16]}"


def _store(reader: CaseReader, resident_gib: float, workers: int) -> Store:
    files = reader.files
    total = sum(expected_bytes(case, reader.how) for case in files)
    if total > resident_gib * 2**30:
        labelled = [case.label is not None for case in files]
        return VolumesOnDisk(reader, list(range(len(files))), labelled)
    with ThreadPoolExecutor(workers) as threads:
        return ResidentVolumes.of(list(threads.map(reader, range(len(files)))))


def _planted(layout: Layout, store: Store, size: int) -> list[tuple[Finding, ...] | None]:
    """What `findings.json` says of generated cases, in voxels of the whole cubes."""
    file = layout.root / "findings.json"
    if not file.is_file():
        return [None] * len(layout.cases)
    known, found = _read_findings(file), []
    for row, case in enumerate(layout.cases):
        prepared = store.prepared(row)
        to_voxel = np.linalg.inv(prepared.affine.numpy())
        shape = tuple(prepared.voxels.shape)
        own = [
            Finding(
                entry["kind"],
                entry["site"],
                entry["size_mm"],
                whole_position((to_voxel @ [*entry["centre_mm"], 1])[:3], shape, size),
            )
            for entry in known.get(case.id, [])
        ]
        found.append(tuple(own))
    return found


def _read_findings(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        wanted = {"kind", "site", "size_mm", "centre_mm"}
        usable = all(wanted <= one.keys() for own in known.values() for one in own)
    except (OSError, ValueError, AttributeError, TypeError):
        usable = False
    if not usable:
        raise DataError(
            "not the findings of generated cases",
            path=file,
            expected='{"ct0001": [{"kind", "site", "size_mm", "centre_mm"}]}',
            fix="rename the file: of real cases it is not read",
        )
    return known
