"""Looks through volumes and their reports and lists everything that is wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from core.data.checks import CheckReport, DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from medical.data.case_splits import split_cases
from medical.data.layouts import CaseFiles, Layout, find_cases
from medical.data.load import (
    expand_frames,
    patients_of,
    preparation,
    read_report,
    threads_of,
)
from medical.data.prepare import Preparation, check_intensity, check_label, expected_bytes
from medical.data.read_volume import read_volume

_THICK = 5.0  # times the finest side of a voxel that its coarsest may be without a remark


@dataclass(frozen=True)
class _Seen:
    """What was seen of one case.

    Attributes:
        shape: of the volume.
        spacing: in mm.
        axes: where they point to.
        low: smallest value.
        high: largest value.
        digest: of the values.
        classes: of the segmentation.
        gib: after preparation.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, float, float]
    axes: str
    low: float
    high: float
    digest: bytes
    classes: frozenset[int]
    gib: float


def check_cases(
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
) -> CheckReport:
    """Reads every file that `load_cases` reads, with the same arguments, and writes nothing.

    Cases at fault are set aside and reading goes on, so that one call shows all problems; the facts
    are those of the usable ones. Beyond what `load_cases` refuses, problems are volumes and reports
    that are there twice.
    """
    findings = Findings(strict=False)
    how: Preparation | None = None
    layout: Layout | None = None
    with findings.going_on():
        how = preparation(size, spacing, intensity, window, series)
        layout = expand_frames(find_cases(path, findings), frames, findings)
    if how is None or layout is None:
        return CheckReport({}, findings.problems, findings.warnings)
    seen: dict[str, _Seen] = {}
    texts: dict[str, str] = {}
    with ThreadPoolExecutor(threads_of(workers)) as threads:
        for case, found in zip(
            layout.cases, threads.map(lambda c: _look(c, how, layout), layout.cases), strict=True
        ):
            if isinstance(found, DataError):
                findings.problem(found)
            else:
                seen[case.id] = found
    for case in layout.cases:
        with findings.going_on():
            texts[case.id] = read_report(case, layout.root, reports)
    _twice(layout, seen, texts, findings)
    facts: dict[str, str | int | float] = {"layout": layout.name, "cases": len(layout.cases)}
    facts |= _facts(layout, seen, texts, resident_gib)
    with findings.going_on():
        facts |= _splits(layout, splits, ratios, split_seed, findings)
    _remarks(layout, seen, findings)
    return CheckReport(facts, findings.problems, findings.warnings)


def _look(case: CaseFiles, how: Preparation, layout: Layout) -> _Seen | DataError:
    try:
        volume = read_volume(case.image, case.frame, how.series)
        check_intensity(case.image, volume.values, how)
        classes: frozenset[int] = frozenset()
        if case.label is not None:
            label = read_volume(case.label)
            check_label(case, volume, label, layout.classes)
            classes = frozenset(np.unique(label.values).astype(int).tolist())
        return _Seen(
            volume.values.shape,
            volume.spacing,
            volume.axes,
            float(volume.values.min()),
            float(volume.values.max()),
            sha256(np.ascontiguousarray(volume.values)).digest(),
            classes,
            expected_bytes(case, how) / 2**30,
        )
    except DataError as error:
        return error


def _facts(
    layout: Layout, seen: dict[str, _Seen], texts: dict[str, str], resident_gib: float
) -> dict[str, str | int | float]:
    if not seen:
        return {}
    shapes = np.array([each.shape for each in seen.values()])
    spacings = np.array([each.spacing for each in seen.values()])
    words = [len(text.split()) for text in texts.values() if text.strip()]
    gib = sum(each.gib for each in seen.values())
    where = "on the device" if gib <= resident_gib else "in the cache on disk"
    axes = Counter(each.axes for each in seen.values())
    facts: dict[str, str | int | float] = {
        "usable volumes": len(seen),
        "shape": _range(shapes, "d"),
        "spacing in mm": _range(spacings, ".3g"),
        "axes": ", ".join(f"{name} {count}" for name, count in axes.most_common()),
        "values": f"{min(each.low for each in seen.values()):g} to "
        f"{max(each.high for each in seen.values()):g}",
        "prepared": f"at most {gib:.2g} GiB, {where}",
        "reports": f"{len(words)}, {min(words)} to {max(words)} words" if words else 0,
    }
    if any(case.label is not None for case in layout.cases):
        count: Counter[int] = Counter()
        for each in seen.values():
            count.update(each.classes)
        names = dict(enumerate(layout.classes))
        told = [f"{names.get(number, number)} {count[number]}" for number in sorted(count)]
        facts["segmentations with"] = ", ".join(told)
    return facts


def _splits(
    layout: Layout,
    splits: str | Path | None,
    ratios: Sequence[float],
    seed: int,
    findings: Findings,
) -> dict[str, str | int | float]:
    patients = patients_of(layout)
    said = [case.split for case in layout.cases]
    of_case = split_cases(patients, said, splits, ratios, seed, findings)
    facts: dict[str, str | int | float] = {"patients": len(set(patients))}
    for split in SPLITS:
        own = [name for name, s in zip(patients, of_case, strict=True) if s == split]
        facts[split] = f"{len(own)} cases of {len(set(own))} patients"
        if not own:
            findings.warn(f"the {split} split is empty")
    return facts


def _twice(
    layout: Layout, seen: dict[str, _Seen], texts: dict[str, str], findings: Findings
) -> None:
    first: dict[bytes, str] = {}
    for case in layout.cases:
        if case.id not in seen:
            continue
        other = first.setdefault(seen[case.id].digest, case.id)
        if other != case.id:
            findings.problem(
                DataError(
                    f"the same voxels as {other}",
                    path=case.image,
                    expected="each volume once",
                    fix="keep one of the two",
                )
            )
    same: dict[str, list[str]] = defaultdict(list)
    for name, text in texts.items():
        if text.strip():
            same[" ".join(text.split())].append(name)
    often = [names for names in same.values() if len(names) > 1]
    if often:
        findings.warn(
            f"{layout.root}: {sum(map(len, often))} cases share their report with another, e.g. "
            f"{few(often[0])}; retrieval cannot tell them apart"
        )


def _remarks(layout: Layout, seen: dict[str, _Seen], findings: Findings) -> None:
    thick = [name for name, each in seen.items() if max(each.spacing) > _THICK * min(each.spacing)]
    if thick:
        findings.warn(
            f"{layout.root}: voxels more than {_THICK:g} times as long as wide in {few(thick)}"
        )
    if all(case.patient in (None, case.id) and not case.image.is_dir() for case in layout.cases):
        findings.warn(
            f"{layout.root}: every case counts as a patient of its own; where patients have "
            "several, say whose each is in a table: image,patient_id"
        )
    without = [case.id for case in layout.cases if case.label is None]
    if without and len(without) < len(layout.cases):
        findings.note(f"{layout.root}: no segmentation of {few(without)}")


def _range(rows: np.ndarray, form: str) -> str:
    low, high = rows.min(0), rows.max(0)
    return " x ".join(
        f"{a:{form}}" if a == b else f"{a:{form}}-{b:{form}}"
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    )
