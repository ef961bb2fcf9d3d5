"""Slides checked before an hour is spent on them."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tifffile

from core.data.checks import CheckReport, DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from medical.data.patches import TABLE, check_patches
from medical.data.patient_table import read_rows
from medical.data.slide_files import read_patch
from medical.data.slides import SUFFIXES, Slide, grid_of, list_slides, tissue_corners

_TIFF = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
_READ = 4  # patches of a slide, from its first to its last


def check_slides(
    path: str | Path,
    magnification: float = 20.0,
    size: int = 256,
    slide_mpp: float | None = None,
    min_tissue: float = 0.5,
    patches_per_slide: int | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    stream: bool | None = None,
    workers: int = 2,
    splits: str | Path | None = None,
) -> CheckReport:
    """Opens every slide, finds its tissue and reads some patches of it; names all problems.

    Of TIFF files it looks whether all tiles that are announced are there, which finds a truncated
    copy without decoding it.
    """
    found = Findings(strict=False)
    root = Path(path)
    try:
        grid = grid_of(magnification, size, min_tissue, patches_per_slide)
    except DataError as error:
        return CheckReport({}, [error], [])
    if root.is_dir():
        for file in sorted(f for f in root.iterdir() if f.suffix.lower() in SUFFIXES):
            with found.going_on():
                refuse_truncated(file)
    broken = {str(problem.path) for problem in found.problems}
    slides: list[Slide] = []
    classes: list[str] = []
    with found.going_on():
        slides, classes = list_slides(path, slide_mpp, ratios, valid_share, seed, found, splits)
    # A slide that is truncated may be no slide at all to openslide: once is enough.
    of_file = {
        str(problem.path) if Path(str(problem.path)).suffix.lower() in SUFFIXES else str(problem): (
            problem
        )
        for problem in reversed(found.problems)
    }
    found.problems[:] = [problem for problem in found.problems if problem in of_file.values()]
    counts = []
    for slide in slides:
        if str(slide.path) in broken:
            continue
        with found.going_on():
            corners = tissue_corners(slide, grid, min_tissue)
            counts.append(len(corners))
            for x, y in corners[:: max(1, len(corners) // _READ)].tolist():
                read_patch(slide.path, (x, y), grid, slide.mpp)
    of_class = Counter(slide.label for slide in slides)
    lonely = [classes[label] for label, n in of_class.items() if n == 1 and label >= 0]
    if lonely:
        found.problem(
            DataError(
                f"one slide alone in class {few(lonely)}",
                path=root,
                expected="two or more, for training and test",
                fix="add others, or leave the class out",
            )
        )
    facts: dict[str, str | int | float] = {}
    if slides:
        facts = {f"{split} slides": sum(of.split == split for of in slides) for split in SPLITS}
        facts |= {"patients": len({slide.patient for slide in slides}), "classes": len(classes)}
        scans = Counter(f"{slide.mpp:.3g}" for slide in slides)
        facts["micrometres a pixel"] = ", ".join(f"{mpp}: {n} slides" for mpp, n in scans.items())
    if counts:
        middle = sorted(counts)[len(counts) // 2]
        facts |= {"patches": sum(counts), "patches of a slide, median": middle}
    regions = root / "regions"
    if regions.is_dir():
        report = check_patches(regions, size, (1.0, 0.0, 0.0), 0.0)
        found.problems.extend(report.problems)
        found.warnings.extend(f"{regions}: {warning}" for warning in report.warnings)
        held_out = {slide.patient for slide in slides if slide.split != "train"}
        if (regions / TABLE).is_file() and not report.problems:
            whose = read_rows(regions / TABLE, "file", "file, patient_id").values()
            n_idle = sum(row["patient_id"] in held_out for row in whose)
            if n_idle:
                found.warn(
                    f"{regions}: {n_idle} patches are of patients of validation or test slides: "
                    "they teach nothing"
                )
        facts["labelled patches in regions"] = report.facts.get("train samples", 0)
    return CheckReport(facts, found.problems, found.warnings)


def refuse_truncated(file: Path) -> None:
    """Raises where a TIFF announces more than its file holds.

    Raises:
        DataError: naming how much is missing.
    """
    if file.suffix.lower() not in _TIFF:
        return
    there = file.stat().st_size
    # What it logs is said below.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(file) as tiff:
            ends = [
                offset + count
                for page in tiff.pages
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read as TIFF ({reason})", path=file, fix="copy it again"
        ) from None
    if ends and max(ends) > there:
        raise DataError(f"truncated: {there} bytes of {max(ends)}", path=file, fix="copy it again")
