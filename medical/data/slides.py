"""Slides as bags of patches: read by openslide, cut at a stated magnification, split by patient."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import torch
from jaxtyping import Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import Findings, few
from core.data.samples import SPLITS
from core.data.stored_rows import Column, StoredRows
from medical.data.case_splits import rows_of_splits
from medical.data.patches import Patches, divided, load_patches
from medical.data.patient_splits import refuse_straddling, split_patients
from medical.data.patient_table import read_rows, stated_splits, with_validation
from medical.data.slide_files import (
    MPP_TIMES_MAGNIFICATION,
    SUFFIXES,
    Grid,
    opened,
    overview,
    read_patch,
    slide_mpp,
)
from medical.data.tissue_mask import tissue_grid, tissue_mask

TABLE = "slides.csv"
_COLUMNS = "slide_id, patient_id and, where known, label, split, mpp"
_REGIONS = "regions"


@dataclass(frozen=True)
class Slide:
    """One slide of a data set.

    Attributes:
        id: as in the table, or the file's name without its suffix.
        path: its file.
        patient: whose it is; its own id where nobody says.
        label: its class, -1 where unknown.
        split: train, valid or test.
        mpp: micrometres a pixel at level 0.
    """

    id: str
    path: Path
    patient: str
    label: int
    split: str
    mpp: float


@dataclass(frozen=True)
class Slides(Patches):
    """Patches of slides; a split's rows are those that are learned from or stand for it.

    Their ids are `SLIDE@X-Y`, the upper left corner at level 0. Their label `slide` is that of
    their slide.

    Attributes:
        slides: all of them.
        slide_of: (n) the number of each patch's slide.
        corners: (n, 2) x and y at level 0.
        grid: how patches were cut.
        slide_classes: names of the slides' classes.
        regions: labelled patches that slides can be compared with, or None.
    """

    slides: list[Slide] = field(default_factory=list)
    slide_of: Int64[Tensor, " n"] = field(default_factory=lambda: torch.empty(0).long())
    corners: Int64[Tensor, "n 2"] = field(default_factory=lambda: torch.empty(0, 2).long())
    grid: Grid = field(default_factory=lambda: Grid(256, 0.5))
    slide_classes: list[str] = field(default_factory=list)
    regions: Patches | None = None

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        regions = None if self.regions is None else self.regions.to(device)
        slide_of = self.slide_of.to(device)
        return replace(super().to(device), regions=regions, slide_of=slide_of)

    def without_test(self) -> Self:
        """The same data without the slides of the test split."""
        numbers = [n for n, slide in enumerate(self.slides) if slide.split != "test"]
        new = torch.full((len(self.slides),), -1, device=self.slide_of.device)
        new[numbers] = torch.arange(len(numbers), device=new.device)
        kept = (new[self.slide_of] >= 0).nonzero().flatten()
        place = torch.full((len(self.ids),), -1, device=kept.device)
        place[kept] = torch.arange(len(kept), device=kept.device)
        rows = kept.tolist()
        return replace(
            self,
            inputs={name: _taken(column, kept) for name, column in self.inputs.items()},
            labels={name: of.index_select(0, kept) for name, of in self.labels.items()},
            splits={s: place[self.splits[s]] for s in ("train", "valid")} | {"test": kept[:0]},
            ids=[self.ids[row] for row in rows],
            patients=[self.patients[row] for row in rows],
            slides=[self.slides[n] for n in numbers],
            slide_of=new[self.slide_of[kept]],
            corners=self.corners[kept.cpu()],
            regions=None if self.regions is None else self.regions.without_test(),
        )

    def rows_of(self, number: int) -> Int64[Tensor, " patches"]:
        """The patches of a slide, row by row."""
        return (self.slide_of == number).nonzero().flatten()


def load_slides(
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
) -> Slides:
    """Reads a folder of slides and `slides.csv`, and cuts touching patches where there is tissue.

    `slides.csv` has `slide_id` (a file's name, with or without its suffix), `patient_id` (or
    `case_id`) and, where known, `label`, `split` and `mpp`. Without it every slide is a patient of
    its own. A folder `regions/`, read as `data=patches` is, holds labelled patches of the same
    magnification; those of patients of validation or test slides are in that split, and teach
    nothing.

    Args:
        path: the folder.
        magnification: of the patches; 20 is half a micrometre a pixel.
        size: height and width of a patch in pixels at that magnification.
        slide_mpp: micrometres a pixel of all slides at full resolution, where the files do not say.
        min_tissue: share of a patch that must be tissue.
        patches_per_slide: how many of each training slide are learned from, drawn once; None: all.
        ratios: train, valid and test shares of the patients, where the table says no split.
        valid_share: of the training patients, where there are splits and no valid.
        seed: of these choices.
        stream: read patches in training rather than beforehand; None: where they do not fit into
            half of the free memory.
        workers: processes that read in training, where patches are streamed.
        splits: CSV of `patient_id,split`, which stands above what the table says.

    Raises:
        DataError: no slide, one that cannot be read, is without tissue or of unknown or too low
            magnification, a patient in two splits, or a table that does not fit the files.
    """
    grid = grid_of(magnification, size, min_tissue, patches_per_slide)
    found = Findings()
    slides, classes = list_slides(path, slide_mpp, ratios, valid_share, seed, found, splits)
    with ThreadPoolExecutor() as pool:
        corners = list(pool.map(lambda slide: tissue_corners(slide, grid, min_tissue), slides))
    lengths = torch.tensor([len(of) for of in corners])
    slide_of = torch.arange(len(slides)).repeat_interleave(lengths)
    places = torch.from_numpy(np.concatenate(corners))
    split_of = [slides[number].split for number in slide_of.tolist()]
    parts = rows_of_splits(split_of)
    if patches_per_slide is not None:
        parts["train"] = _some(parts["train"], slide_of, patches_per_slide, seed)
    read = _Read([slide.path for slide in slides], [s.mpp for s in slides], slide_of, places, grid)
    return Slides(
        {"image": _images(read, Path(path), stream, workers)},
        {"slide": torch.tensor([slides[n].label for n in slide_of.tolist()])} if classes else {},
        parts,
        [
            f"{slides[n].id}@{x}-{y}"
            for n, (x, y) in zip(slide_of.tolist(), places.tolist(), strict=True)
        ],
        {"slide": classes} if classes else {},
        [slides[n].patient for n in slide_of.tolist()],
        slides,
        slide_of,
        places,
        grid,
        classes,
        _regions(Path(path) / _REGIONS, size, slides),
    )


def grid_of(
    magnification: float, size: int, min_tissue: float, patches_per_slide: int | None
) -> Grid:
    """How patches are cut, from the arguments of `load_slides`.

    Raises:
        DataError: one of them cannot be.
    """
    if magnification <= 0:
        raise DataError(f"data.magnification={magnification}", expected="above 0, such as 20")
    if size < 1:
        raise DataError(f"data.size={size}", expected="one pixel or more")
    if not 0 <= min_tissue <= 1:
        raise DataError(f"data.min_tissue={min_tissue}", expected="a share, 0 to 1")
    if patches_per_slide is not None and patches_per_slide < 1:
        raise DataError(f"data.patches_per_slide={patches_per_slide}", expected="one or more")
    return Grid(size, MPP_TIMES_MAGNIFICATION / magnification)


def list_slides(
    path: str | Path,
    stated_mpp: float | None,
    ratios: Sequence[float],
    valid_share: float,
    seed: int,
    found: Findings,
    splits: str | Path | None = None,
) -> tuple[list[Slide], list[str]]:
    """The slides of a folder with their patients, classes, splits and resolutions.

    Those whose resolution is unknown are findings, and are left out.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("no such folder", path=root, expected="a folder of slides")
    files = sorted(f for f in root.iterdir() if f.is_file() and f.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError("no slides", path=root, expected=f"files {', '.join(SUFFIXES)}")
    stems = [file.stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError(f"two slides are called {few(twice)}", path=root, fix="rename one")
    table = root / TABLE
    rows = [{"slide_id": file.stem, "patient_id": file.stem} for file in files]
    if table.is_file():
        rows = _rows(table, files, found)
    else:
        found.warn(
            f"nobody says whose the slides are: without {TABLE} ({_COLUMNS}) a patient may "
            "be in two splits"
        )
    classes = sorted({row["label"] for row in rows if row.get("label")})
    place = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([place.get(row.get("label", ""), -1) for row in rows])
    patients = [row["patient_id"] for row in rows]
    parts = _splits(table, rows, patients, labels, ratios, valid_share, seed, found)
    if splits is not None:
        parts = divided(splits, patients, parts, "split" in rows[0], ratios, seed)
    split_of = {row: split for split in SPLITS for row in parts[split].tolist()}
    slides = []
    for number, (file, row) in enumerate(zip(files, rows, strict=True)):
        with found.going_on():
            stated = _number(row.get("mpp", ""), table, file)
            mpp = slide_mpp(file, stated_mpp if stated is None else stated)
            label, split = int(labels[number]), split_of[number]
            slides.append(Slide(row["slide_id"], file, patients[number], label, split, mpp))
    return slides, classes


def tissue_corners(slide: Slide, grid: Grid, min_tissue: float) -> Int64[np.ndarray, "n 2"]:
    """Corners of a slide's patches.

    Raises:
        DataError: its magnification is too low, or there is no tissue.
    """
    if grid.mpp < slide.mpp * 0.99:
        raise DataError(
            f"scanned at {slide.mpp:g} micrometres a pixel, a magnification of about "
            f"{MPP_TIMES_MAGNIFICATION / slide.mpp:.0f}",
            path=slide.path,
            expected=f"{grid.mpp:g} or finer, for patches at a magnification of "
            f"{MPP_TIMES_MAGNIFICATION / grid.mpp:g}",
            fix="data.magnification=N, at most that of the slide",
        )
    mask = tissue_mask(overview(slide.path, slide.mpp))
    corners = tissue_grid(mask, opened(slide.path).dimensions, grid.side(slide.mpp), min_tissue)
    if not len(corners):
        raise DataError(
            f"no tissue: {100 * mask.mean():.1f} % of the slide is coloured, and no patch of "
            f"{grid.size} pixels is tissue to {100 * min_tissue:.0f} %",
            path=slide.path,
            fix="leave the slide out, or set data.min_tissue",
        )
    return corners


def _regions(folder: Path, size: int, slides: Sequence[Slide]) -> Patches | None:
    if not folder.is_dir():
        return None
    regions = load_patches(folder, size, (1.0, 0.0, 0.0), 0.0)
    # Of patients that nobody names, the files' word that they train is all there is.
    of_patient = {slide.patient: slide.split for slide in slides}
    split_of = {row: split for split in SPLITS for row in regions.splits[split].tolist()}
    for row, patient in enumerate(regions.patients):
        split_of[row] = of_patient.get(patient, split_of[row])
    return replace(regions, splits=rows_of_splits([of for _, of in sorted(split_of.items())]))


class _Read:
    """Reads the n-th patch; goes to workers as paths and numbers."""

    def __init__(
        self,
        paths: list[Path],
        mpps: list[float],
        slide_of: Int64[Tensor, " n"],
        corners: Int64[Tensor, "n 2"],
        grid: Grid,
    ) -> None:
        self.paths, self.mpps, self.grid = paths, mpps, grid
        self.slide_of, self.corners = slide_of, corners

    def __call__(self, row: int) -> Tensor:
        number = int(self.slide_of[row])
        x, y = self.corners[row].tolist()
        return read_patch(self.paths[number], (x, y), self.grid, self.mpps[number])

    def fingerprint(self) -> str:
        total = sha256(f"{self.grid} {self.corners.tolist()}".encode())
        for path in self.paths:
            total.update(f"{path.name} {path.stat().st_size}\n".encode())
        return total.hexdigest()


def _images(read: _Read, root: Path, stream: bool | None, workers: int) -> Column:
    n, size = len(read.slide_of), read.grid.size
    needed, room = 3 * n * size**2, psutil.virtual_memory().available // 2
    shape = (3, size, size)
    column = StoredRows(read, n, shape, torch.uint8, read.fingerprint(), workers)
    if stream or (stream is None and needed > room):
        if stream is None:
            warnings.warn(
                f"{root}: {n} patches take {needed / 2**30:.1f} GiB; they are read in training",
                stacklevel=3,
            )
        return column
    if needed > room:
        raise DataError(
            f"{n} patches take {needed / 2**30:.1f} GiB, more than half of the free memory",
            path=root,
            fix="data.stream=true, or data.patches_per_slide=N",
        )
    return column.index_select(0, torch.arange(n))


def _taken(column: Column, rows: Tensor) -> Column:
    return column.take(rows) if isinstance(column, StoredRows) else column.index_select(0, rows)


def _some(rows: Tensor, slide_of: Tensor, most: int, seed: int) -> Tensor:
    """At most so many random rows of each slide, ascending."""
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    kept: list[int] = []
    count: dict[int, int] = {}
    for row in order.tolist():
        number = int(slide_of[row])
        count[number] = count.get(number, 0) + 1
        if count[number] <= most:
            kept.append(row)
    return torch.tensor(sorted(kept)).long()


def _rows(table: Path, files: list[Path], found: Findings) -> list[dict[str, str]]:
    """A row of the table for every file, in their order."""
    by_id = read_rows(table, "slide_id", _COLUMNS)
    given = [by_id.get(file.stem) or by_id.get(file.name) for file in files]
    lacking = [file.name for file, row in zip(files, given, strict=True) if row is None]
    if lacking:
        raise DataError(f"no row for {few(lacking)}", path=table, expected="one for every slide")
    names = {file.stem for file in files} | {file.name for file in files}
    gone = sorted(set(by_id) - names)
    if gone:
        found.problem(DataError(f"rows for slides that are not there: {few(gone)}", path=table))
    nobody = [row["slide_id"] for row in given if row and not row["patient_id"].strip()]
    if nobody:
        raise DataError(f"no patient for {few(nobody)}", path=table, expected="whose each slide is")
    return [row for row in given if row is not None]


def _splits(
    table: Path,
    rows: list[dict[str, str]],
    patients: list[str],
    labels: Tensor,
    ratios: Sequence[float],
    valid_share: float,
    seed: int,
    found: Findings,
) -> dict[str, Tensor]:
    if "split" not in rows[0]:
        return split_patients(patients, labels, ratios, seed)
    splits = stated_splits(table, rows, "slide_id")
    with found.going_on():
        refuse_straddling(patients, splits, str(table))
    if not len(splits["train"]):
        raise DataError("no slide to train on", path=table, expected="some of split train")
    return with_validation(splits, patients, labels, valid_share, seed)


def _number(text: str, table: Path, file: Path) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"mpp {text!r} of {file.name}", path=table, expected="micrometres a pixel"
        ) from None
