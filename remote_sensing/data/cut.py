"""Scenes cut into chips by windows of a grid, and which split each chip is in."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from affine import Affine

from core.data.checks import DataError
from core.data.samples import SPLITS
from remote_sensing.data.bands import SENSORS, check_unit
from remote_sensing.data.blocks import split_by_blocks
from remote_sensing.data.rasters import Grid, Scene, grid_of

SPLIT_FILE = "splits.csv"
_AT_A_TIME = 64  # chips that a thread reads in one go
_ROUNDS = 20  # of drawing places, before giving up


@dataclass(frozen=True)
class Chip:
    """One square of one scene.

    Attributes:
        scene: which it is cut from.
        grid: the scene's.
        row: of its upper left pixel.
        column: of its upper left pixel.
    """

    scene: Scene
    grid: Grid
    row: int
    column: int

    @property
    def transform(self) -> Affine:
        """From its own (column, row) to coordinates."""
        return self.grid.transform @ Affine.translation(self.column, self.row)

    def corners(self, height: int, width: int) -> list[tuple[float, float]]:
        """Coordinates of its corners."""
        places = ((0, 0), (width, 0), (width, height), (0, height))
        return [self.transform @ place for place in places]


def check_options(
    sensors: Sequence[str],
    units: dict[str, str],
    size: int | None,
    stride: int | None,
    windows: int | None,
    min_valid: float,
) -> None:
    """Refuses options of `load_chips` that mean nothing."""
    unknown = [name for name in sensors if name not in SENSORS]
    if unknown or not sensors:
        raise DataError(f"data.sensors={list(sensors)}", expected="optical, radar, or both")
    for sensor, unit in units.items():
        check_unit(sensor, unit)
    if (size is not None and size < 1) or (stride is not None and (stride < 1 or size is None)):
        raise DataError(
            f"data.size={size}, data.stride={stride}",
            expected="pixels, or null for whole files; a stride only with a size",
        )
    if windows is not None and (windows < 1 or size is None):
        raise DataError(
            f"data.windows={windows}, data.size={size}",
            expected="a number of training chips and their side in pixels",
        )
    if not 0 < min_valid <= 1:
        raise DataError(f"data.min_valid={min_valid}", expected="a share above 0, at most 1")


def cut_scenes(
    scenes: Sequence[Scene], size: int | None, stride: int | None
) -> tuple[list[Chip], int, int]:
    """The chips of all scenes, row by row, and their height and width; none hangs over an edge.

    Raises:
        DataError: no scene is large enough, or whole files differ in size.
    """
    chips = []
    grids = [grid_of(scene) for scene in scenes]
    if size is None:
        height, width = grids[0].height, grids[0].width
        for scene, grid in zip(scenes, grids, strict=True):
            if (grid.height, grid.width) != (height, width):
                raise DataError(
                    f"{grid.width} x {grid.height} pixels",
                    path=scene.files[0],
                    expected=f"{width} x {height}, as {scenes[0].name} has",
                    fix="cut all to chips of one size: data.size=PIXELS",
                )
        return [Chip(s, g, 0, 0) for s, g in zip(scenes, grids, strict=True)], height, width
    step = stride or size
    for scene, grid in zip(scenes, grids, strict=True):
        for row in range(0, grid.height - size + 1, step):
            for column in range(0, grid.width - size + 1, step):
                chips.append(Chip(scene, grid, row, column))
    if not chips:
        raise DataError(
            f"no scene has {size} x {size} pixels; the first has {grids[0].width} x "
            f"{grids[0].height}",
            path=scenes[0].files[0],
            fix="lower data.size",
        )
    return chips, size, size


def split_chips(
    path: Path,
    chips: Sequence[Chip],
    height: int,
    width: int,
    split: str,
    block: float,
    buffer: float | None,
    ratios: Sequence[float],
    seed: int,
) -> list[str]:
    """The split of each chip, `""` for those that are left out; see `load_chips`.

    Raises:
        DataError: the file of splits does not fit.
    """
    file = path / SPLIT_FILE
    if split not in ("auto", "files", "blocks"):
        raise DataError(f"data.split={split}", expected="auto, files or blocks")
    if split == "files" or (split == "auto" and file.is_file()):
        of_scene = _read_splits(file, {chip.scene.name for chip in chips})
        return [of_scene.get(chip.scene.name, "") for chip in chips]
    corners = np.array([chip.corners(height, width) for chip in chips])
    crs = [chip.grid.crs.to_string() for chip in chips]
    return split_by_blocks(crs, corners, block, buffer, ratios, seed)


def cut_and_split(
    path: Path,
    scenes: Sequence[Scene],
    size: int | None,
    stride: int | None,
    windows: int | None,
    split: str,
    block: float,
    buffer: float | None,
    ratios: Sequence[float],
    seed: int,
) -> tuple[list[Chip], list[str], int, int]:
    """Chips, the split of each (`""`: left out), and their height and width; see `load_chips`.

    Raises:
        DataError: the options do not fit the scenes, or no chip is left to train on.
    """
    chips, height, width = cut_scenes(scenes, size, stride)

    def splits_of(some: Sequence[Chip]) -> list[str]:
        return split_chips(path, some, height, width, split, block, buffer, ratios, seed)

    splits = splits_of(chips)
    if "train" not in splits:
        raise DataError(
            "no chip is left to train on",
            path=path,
            fix="lower data.block or data.buffer, or say the splits in splits.csv",
        )
    if windows is not None:
        kept = [(chip, own) for chip, own in zip(chips, splits, strict=True) if own != "train"]
        drawn = random_windows(chips, height, width, windows, splits_of, seed)
        chips = [*drawn, *(chip for chip, _ in kept)]
        splits = ["train"] * len(drawn) + [own for _, own in kept]
    return chips, splits, height, width


def random_windows(
    chips: Sequence[Chip],
    height: int,
    width: int,
    count: int,
    splits_of: Callable[[Sequence[Chip]], list[str]],
    seed: int,
) -> list[Chip]:
    """Training windows at random whole pixels, each place once, those of a scene together.

    A scene is drawn in proportion to its pixels, then a place in it; places of other splits are
    drawn again.

    Args:
        chips: one or more of every scene.
        height: of a window in pixels.
        width: of a window in pixels.
        count: how many.
        splits_of: the split of each window.
        seed: of the draw.

    Raises:
        DataError: there are not so many places to train on.
    """
    scenes = list({id(chip.scene): chip for chip in chips}.values())
    pixels = np.array([chip.grid.height * chip.grid.width for chip in scenes], float)
    rng = np.random.default_rng(seed)
    found: dict[tuple[int, int, int], Chip] = {}
    for _ in range(_ROUNDS):
        numbers = rng.choice(len(scenes), max(count, _AT_A_TIME), p=pixels / pixels.sum())
        drawn = {}
        for number, (down, right) in zip(
            numbers.tolist(), rng.random((len(numbers), 2)), strict=True
        ):
            own = scenes[number]
            row = int(down * (own.grid.height - height + 1))
            column = int(right * (own.grid.width - width + 1))
            drawn[number, row, column] = Chip(own.scene, own.grid, row, column)
        splits = splits_of(list(drawn.values()))
        found |= {k: v for (k, v), own in zip(drawn.items(), splits, strict=True) if own == "train"}
        if len(found) >= count:
            chosen = sorted(list(found)[:count])
            return [found[place] for place in chosen]
    raise DataError(
        f"data.windows={count}: found {len(found)} places of the training split",
        fix="ask for fewer, or for larger blocks: data.block",
    )


def side_by_side(chips: Sequence[Chip]) -> list[list[Chip]]:
    """Chips that are read in one go: those of a small scene, or some rows of a large one."""
    groups: list[list[Chip]] = []
    for _, of in groupby(chips, key=lambda chip: id(chip.scene)):
        own: list[Chip] = []
        for _, row in groupby(of, key=lambda chip: chip.row):
            own += row
            while len(own) >= 2 * _AT_A_TIME:
                groups.append(own[:_AT_A_TIME])
                own = own[_AT_A_TIME:]
            if len(own) >= _AT_A_TIME:
                groups.append(own)
                own = []
        groups += [own] if own else []
    return groups


def _read_splits(file: Path, names: set[str]) -> dict[str, str]:
    if not file.is_file():
        raise DataError("no such file", path=file, expected="the columns scene and split")
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", path=file, expected="CSV in UTF-8") from None
    found: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        scene, split = row.get("scene"), row.get("split")
        if scene is None or split not in (*SPLITS, ""):
            raise DataError(
                f"scene {scene}, split {split}",
                path=file,
                line=line,
                expected="the columns scene and split; train, valid, test, or nothing",
            )
        if found.setdefault(scene, split) != split:
            raise DataError(
                f"scene {scene} is in {found[scene] or 'no split'} and in {split or 'none'}",
                path=file,
                line=line,
                expected="one split of each scene",
            )
    missing = sorted(names - found.keys())
    if missing:
        raise DataError(
            f"does not say the split of {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            path=file,
            fix="add them; with nothing for a split a scene is left out",
        )
    return found
