"""Looks through an archive and lists everything that is wrong with it."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import torch
from jaxtyping import Float
from rasterio.errors import RasterioError
from torch import Tensor

from core.data.checks import CheckReport, DataError
from core.data.samples import SPLITS
from remote_sensing.data.bands import OPTICAL, RADAR, SENSORS
from remote_sensing.data.chips import UNKNOWN
from remote_sensing.data.cut import check_options, cut_and_split, cut_scenes
from remote_sensing.data.layouts import find_scenes
from remote_sensing.data.plausible import (
    dtype_problem,
    named_otherwise,
    odd_pixels,
    swapped_optical,
    swapped_radar,
    undeclared_nodata,
    value_problems,
)
from remote_sensing.data.rasters import (
    Grid,
    Reading,
    Scene,
    SceneReader,
    describe,
    grid_of,
    opened,
    overlap,
)
from remote_sensing.data.read_chips import CLASSES, LARGER, class_codes
from remote_sensing.data.statistics import Moments
from remote_sensing.data.survey import statistics_of, survey

if TYPE_CHECKING:
    import hashlib

_FEW_VALID = 0.5
_PIXELS = 1 << 22  # of all bands that are held at a time


@dataclass
class _Look:
    """What one scene showed."""

    scene: Scene
    problems: list[DataError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    optical: list[float] = field(default_factory=list)
    codes: set[int] = field(default_factory=set)
    digest: str = ""
    grid: Grid | None = None


def check_chips(
    path: str | Path,
    format: str = "auto",
    sensors: Sequence[str] = SENSORS,
    optical_bands: Sequence[str] | None = None,
    radar_bands: Sequence[str] | None = None,
    optical_unit: str = "dn",
    dn_offset: float = -1000.0,
    radar_unit: str = "db",
    align: bool = False,
    size: int | None = None,
    stride: int | None = None,
    windows: int | None = None,
    min_valid: float = 0.9,
    split: str = "auto",
    block: float = 5000.0,
    buffer: float | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    larger: int | None = None,
    statistics: str | Path | None = None,
    held: float = 4.0,
    workers: int = 4,
    device: str | torch.device | None = None,
) -> CheckReport:
    """Reads every pixel of what `load_chips` reads, with the same arguments, and writes nothing.

    Scenes at fault are set aside and reading goes on, so that one call shows all problems; the
    facts are those of the rest. Beyond what `load_chips` refuses, problems are values that cannot
    be of the declared unit, numbers of another type, missing pixels that no file declares, bands
    that seem swapped, and scenes with the same values.
    """
    path, problems, warnings = Path(path), [], []
    facts: dict[str, str | int | float] = {}
    units = {OPTICAL: optical_unit, RADAR: radar_unit}
    codes: dict[int, str] = {}
    try:
        codes = class_codes(path)
    except DataError as error:
        problems.append(error)
    try:
        check_options(sensors, units, size, stride, windows, min_valid)
        wanted = {OPTICAL: optical_bands, RADAR: radar_bands}
        own = [sensor for sensor in SENSORS if sensor in sensors]
        more: list[Scene] = []
        scenes = find_scenes(path, format, own, {s: wanted[s] for s in own})
        if larger is not None:
            more = find_scenes(path / LARGER, format, own, {s: wanted[s] for s in own})
    except DataError as error:
        return CheckReport(facts, [*problems, error], warnings)
    reading = Reading(units, dn_offset, align)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        looks = list(pool.map(lambda scene: _look(scene, reading), [*scenes, *more]))
    problems += [problem for look in looks for problem in look.problems]
    warnings += [warning for look in looks for warning in look.warnings]
    nameless = sorted(set().union(*(look.codes for look in looks)) - codes.keys() - {0, UNKNOWN})
    if codes and nameless:
        said = ", ".join(map(str, nameless[:10]))
        warnings.append(f"{path / CLASSES} does not name {said}: such pixels count as unknown")
    problems += _swapped(looks)
    problems += _same_values(looks)
    usable = [look.scene for look in looks[: len(scenes)] if not look.problems]
    facts["scenes"] = f"{len(usable)} usable of {len(scenes)}"
    if usable:
        facts |= {s: ", ".join(b.name for b in usable[0].bands[s]) for s in own}
        facts["scenes with a land-cover map"] = sum(scene.cover is not None for scene in usable)
        first = next(look.grid for look in looks if look.scene is usable[0])
        facts["grid of the first"] = describe(first) if first else ""
        try:
            chips, splits, height, width = cut_and_split(
                *(path, usable, size, stride, windows, split, block, buffer, ratios, seed)
            )
            facts["chips"] = f"{len(chips)} of {width} x {height} pixels"
            found = survey(
                *(chips, [own_split == "train" for own_split in splits], reading, height, width),
                *(min_valid, list(codes), workers),
            )
            facts |= _splits_of(splits, found.valid, min_valid)
            if larger is not None:
                wide, *side = cut_scenes(more, larger, None)
                facts["larger chips"] = f"{len(wide)} of {side[1]} x {side[0]} pixels"
            if statistics is None:
                statistics_of(found.moments, chips)
            elif not Path(statistics).is_file():
                raise DataError("no such file", path=statistics)
        except DataError as error:
            problems.append(error)
    for name in ("valid", "test"):
        if not facts.get(f"{name} chips"):
            warnings.append(f"{path}: the {name} split is empty")
    return CheckReport(facts, problems, warnings)


def _look(scene: Scene, reading: Reading) -> _Look:
    """All that one scene can show on its own."""
    look = _Look(scene)
    try:
        grid = look.grid = grid_of(scene)
    except DataError as error:
        look.problems.append(error)
        return look
    for file in scene.files:
        try:
            with opened(file) as source:
                _same_ground(look, file, Grid.of(source), grid, reading.align)
        except DataError as error:
            look.problems.append(error)
    if look.problems:
        return look
    try:
        valid, means = _read_whole(look, reading, grid)
    except DataError as error:
        look.problems.append(error)
        return look
    if valid == 0:
        look.problems.append(
            DataError(
                "no pixel has data of all sensors",
                path=scene.files[0],
                fix="take the scene out, or check what value means no data",
            )
        )
    elif valid < _FEW_VALID:
        look.warnings.append(f"{scene.files[0]}: only {100 * valid:.0f} % of the pixels have data")
    stored = sha256()
    for sensor in scene.bands:
        _values(look, sensor, reading, stored)
    look.digest = stored.hexdigest()
    if OPTICAL in means and valid > 0:
        look.optical = means[OPTICAL]
    if RADAR in means and valid > 0 and not look.problems:  # else the means mean nothing
        bands = scene.bands[RADAR]
        swapped = swapped_radar(bands[0].file, [band.name for band in bands], means[RADAR])
        look.problems += [swapped] if swapped else []
    return look


def _read_whole(look: _Look, reading: Reading, grid: Grid) -> tuple[float, dict[str, list[float]]]:
    """Share of the pixels with data, and the mean of each band of each sensor; some rows at a time.

    A whole tile of Sentinel-2 in 12 bands would be 6 GB.
    """
    n_valid, moments = 0, {}
    rows = max(1, _PIXELS // (grid.width * sum(len(of) for of in look.scene.bands.values())))
    with SceneReader(look.scene, reading, grid) as reader:
        for top in range(0, grid.height, rows):
            pixels = reader.read([(top, 0)], min(rows, grid.height - top), grid.width)
            n_valid += int(pixels.valid.sum())
            for sensor, values in pixels.values.items():
                found = Moments.of(values)
                moments[sensor] = moments[sensor] + found if sensor in moments else found
            if pixels.cover is not None:
                look.codes.update(np.unique(pixels.cover).tolist())
    means = {s: (of.total / np.maximum(of.count, 1)).tolist() for s, of in moments.items()}
    return n_valid / (grid.height * grid.width), means


def _same_ground(look: _Look, file: Path, own: Grid, grid: Grid, align: bool) -> None:
    if own.same_place(grid):
        return
    if not overlap(own, grid):
        look.problems.append(
            DataError(
                f"has no ground in common with the other files of {look.scene.name}: "
                f"{describe(own)}",
                path=file,
                expected=describe(grid),
                fix="check which files belong together",
            )
        )
    elif align:
        look.warnings.append(f"{file}: is brought to the grid of the scene by interpolation")
    else:
        look.problems.append(
            DataError(
                f"another grid than the scene's: {describe(own)}",
                path=file,
                expected=describe(grid),
                fix="align the files, or let data.align=true do it while they are read",
            )
        )


def _values(look: _Look, sensor: str, reading: Reading, stored: "hashlib._Hash") -> None:
    """Types, units and missing pixels of the stored values, file by file."""
    unit, pixel_of = reading.units[sensor], {}
    for band in look.scene.bands[sensor]:
        try:
            with rasterio.open(band.file) as source:
                raw, nodata = source.read(band.index), source.nodatavals[band.index - 1]
                dtype, description = (
                    source.dtypes[band.index - 1],
                    source.descriptions[band.index - 1],
                )
                pixel_of[band.name] = Grid.of(source).pixel
        except RasterioError:
            continue  # the reading said so already
        stored.update(raw.tobytes())
        found = dtype_problem(band.file, dtype, sensor, unit)
        look.problems += [found] if found else []
        found = named_otherwise(band.file, band.name, description, sensor)
        look.problems += [found] if found else []
        empty = 0 if unit not in ("db", "reflectance") and nodata is None else nodata
        found = undeclared_nodata(band.file, band.name, raw, empty)
        look.problems += [found] if found else []
        known = np.isfinite(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, bool)
        known &= True if empty is None or np.isnan(empty) else raw != empty
        look.problems += value_problems(
            band.file, band.name, sensor, unit, raw[known].astype(np.float64), reading.dn_offset
        )
    for fine, coarse in odd_pixels(pixel_of):
        look.problems.append(
            DataError(
                f"{fine} has pixels of {pixel_of[fine]:g}, {coarse} of {pixel_of[coarse]:g}",
                path=look.scene.bands[sensor][0].file.parent,
                expected=f"{fine} not coarser than {coarse}",
                fix="the two are swapped: correct their names",
            )
        )


def _swapped(looks: Sequence[_Look]) -> list[DataError]:
    shown = [look for look in looks if look.optical]
    if not shown:
        return []
    bands = shown[0].scene.bands[OPTICAL]
    means = np.array([look.optical for look in shown])
    found = []
    for number, one, other in swapped_optical([band.name for band in bands], means):
        scene = shown[number].scene
        file = next(band.file for band in scene.bands[OPTICAL] if band.name == one)
        problem = DataError(
            f"{one} and {other} of {scene.name} look as if they were swapped",
            path=file,
            expected="a spectrum like that of the other scenes",
            fix="correct the names of the bands",
        )
        shown[number].problems.append(problem)
        found.append(problem)
    return found


def _same_values(looks: Sequence[_Look]) -> list[DataError]:
    first: dict[str, Scene] = {}
    found = []
    for look in looks:
        if look.digest:
            earlier = first.setdefault(look.digest, look.scene)
            if earlier is not look.scene:
                found.append(
                    DataError(
                        f"the same values as {earlier.files[0]}",
                        path=look.scene.files[0],
                        fix="keep one of the two",
                    )
                )
    return found


def _splits_of(
    splits: Sequence[str], valid: Float[Tensor, " n"], min_valid: float
) -> dict[str, str | int | float]:
    """How many chips of each split are kept, and how many are dropped for lack of data."""
    counts: dict[str, int] = defaultdict(int)
    for own, keep in zip(splits, (valid.numpy() >= min_valid).tolist(), strict=True):
        counts[(own or "between splits") if keep else "dropped"] += 1
    facts: dict[str, str | int | float] = {f"{s} chips": counts[s] for s in SPLITS}
    facts["chips between splits, left out"] = counts["between splits"]
    facts["chips with too few data, dropped"] = counts["dropped"]
    return facts
