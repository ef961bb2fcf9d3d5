"""From a folder of GeoTIFFs to `Chips`: cut by windows, split by blocks of ground, normalised."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.cache import cached
from core.data.checks import DataError
from core.data.samples import SPLITS
from core.data.stored_rows import Column, take
from remote_sensing.data.bands import OPTICAL, RADAR, SENSORS
from remote_sensing.data.chips import UNKNOWN, Chips, Places, Statistics, to_steps
from remote_sensing.data.cut import Chip, check_options, cut_and_split, cut_scenes, side_by_side
from remote_sensing.data.layouts import COVER, find_scenes
from remote_sensing.data.rasters import Reading, Scene, SceneReader
from remote_sensing.data.statistics import FILE, save_statistics, saved_statistics
from remote_sensing.data.stored_chips import stored_columns
from remote_sensing.data.survey import (
    Survey,
    class_numbers,
    class_shares,
    covers_of,
    statistics_of,
    survey,
)

CLASSES, LARGER = "classes.json", "larger"


def load_chips(
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
) -> Chips:
    """Reads a folder of GeoTIFFs and cuts them into chips of one size.

    Statistics are of the training chips, without pixels that have no data, and are kept in
    `statistics.json` beside the data, which is used as long as nothing that they follow from
    changes. Chips that take more memory than `held` stay in their files: they are looked through
    once, and what that showed is kept in the cache of `core.data.cache`.

    Args:
        path: folder; see `remote_sensing.data.layouts` for what lies there. `classes.json` names
            the codes of land-cover maps, where there are any: `{"1": "water"}`; 0 is unknown.
        format: `scenes`, `ssl4eo` or `auto`.
        sensors: `optical`, `radar` or both.
        optical_bands: to take, such as `[B02, B03, B04, B08]`; None takes all of the first scene.
        radar_bands: likewise, `[VV, VH]`.
        optical_unit: `dn` or `reflectance`.
        dn_offset: see `remote_sensing.data.bands.to_physical`.
        radar_unit: `db`, `power` or `amplitude`.
        align: bring sensors that lie on other grids, or in other CRSs, to that of the optical one.
        size: side of a chip in pixels of the finest band; None takes whole files, all of one size.
        stride: pixels from one chip to the next; `size` by default.
        windows: training chips at so many random places, on whole pixels, drawn once, in place of
            those of the grid; before those with too little data are left out.
        min_valid: chips with a smaller share of pixels with data are left out.
        split: `files` goes by `splits.csv` with the columns scene and split; `blocks` draws blocks
            of ground; `auto` takes the file where there is one.
        block: side of a block in metres.
        buffer: see `remote_sensing.data.blocks.split_by_blocks`; None is the side of a chip.
        ratios: shares of the blocks in train, valid and test.
        seed: of the draw of blocks.
        larger: side of further test chips, which are cut from the folder `larger` in `path`.
        statistics: a file of statistics to normalise by, that of an earlier training.
        held: GiB of chips, as 8 bits, that are kept in memory; 0 keeps none.
        workers: threads that read, one at least, and processes that read stored chips while
            training, none with 0.
        device: where the chips go; None takes the GPU where there is one.

    Raises:
        DataError: what lies there cannot be used.
    """
    path = Path(path)
    units = {OPTICAL: optical_unit, RADAR: radar_unit}
    check_options(sensors, units, size, stride, windows, min_valid)
    sensors = [sensor for sensor in SENSORS if sensor in sensors]
    bands = {s: {OPTICAL: optical_bands, RADAR: radar_bands}[s] for s in sensors}
    reading = Reading(units, dn_offset, align)
    scenes = find_scenes(path, format, sensors, bands)
    chips, splits, height, width = cut_and_split(
        *(path, scenes, size, stride, windows, split, block, buffer, ratios, seed)
    )
    chips = [chip for chip, own in zip(chips, splits, strict=True) if own]
    splits = [own for own in splits if own]
    codes = class_codes(path)
    is_train = [own == "train" for own in splits]
    look = (reading, height, width, min_valid, list(codes), workers)
    train = [chip for chip, own in zip(chips, is_train, strict=True) if own]
    looked_at = _key(path, scenes, chips, (look[:-1], splits))
    wide_survey = survey_of = None
    if _bytes(chips, height, width) > held * 2**30:
        survey_of = _kept_survey(looked_at, chips, is_train, *look)

    key = _key(path, scenes, train, (height, width, reading, min_valid))
    if statistics is None:
        found = saved_statistics(path / FILE, key)
        if found is None:
            of_train = survey_of or survey(train, [True] * len(train), *look)
            found = statistics_of(of_train.moments, train)
            save_statistics(path / FILE, found, key)
    else:
        found = saved_statistics(Path(statistics), None)
        if found is None:
            raise DataError("no such file", path=statistics)
    names = {s: [band.name for band in scenes[0].bands[s]] for s in sensors}
    _check_statistics(found, names, statistics or path / FILE)
    how = (reading, found, codes)
    result = _read(chips, splits, *how, (height, width), min_valid, workers, survey_of, looked_at)
    if larger is not None:
        more = find_scenes(path / LARGER, format, sensors, {s: names[s] for s in sensors})
        wide, *side = cut_scenes(more, larger, None)
        looked_at = _key(path, more, wide, (side, look))
        if _bytes(wide, *side) > held * 2**30:
            wide_survey = _kept_survey(
                *(looked_at, wide, [False] * len(wide), reading, *side, min_valid),
                *(list(codes), workers),
            )
        beside = _read(
            *(wide, ["test"] * len(wide), *how, (side[0], side[1]), min_valid, workers),
            *(wide_survey, looked_at),
        )
        result = replace(result, larger=beside)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return result.to(torch.device(device))


def _bytes(chips: Sequence[Chip], height: int, width: int) -> int:
    """What chips take in memory, with their land cover and the mask."""
    layers = sum(len(bands) for bands in chips[0].scene.bands.values()) + 2
    return len(chips) * layers * height * width


def _kept_survey(key: str, chips: Sequence[Chip], *how: Any) -> Survey:  # noqa: ANN401
    """A survey, from a file where an earlier one of the same chips has left it."""
    tensors, _ = cached("remote_sensing_survey", f"1 {key}", lambda: survey(chips, *how).tensors())
    return Survey.of_tensors(tensors)


def _held(
    chips: Sequence[Chip],
    reading: Reading,
    statistics: Statistics,
    codes: dict[int, str],
    height: int,
    width: int,
    workers: int,
) -> tuple[dict[str, Column], np.ndarray, np.ndarray, Tensor]:
    """Chips as steps, where their pixels are valid, their land cover, and shares of it."""
    number_of = class_numbers(list(codes))

    def read(group: Sequence[Chip]) -> tuple[dict[str, Tensor], np.ndarray, np.ndarray]:
        with SceneReader(group[0].scene, reading, group[0].grid) as reader:
            pixels = reader.read([(chip.row, chip.column) for chip in group], height, width)
        steps = {
            sensor: to_steps(torch.from_numpy(values), list(statistics[sensor].values()))
            for sensor, values in pixels.values.items()
        }
        return steps, pixels.valid, covers_of(pixels, number_of)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        parts = list(pool.map(read, side_by_side(chips)))
    inputs: dict[str, Column] = {
        sensor: torch.cat([part[0][sensor] for part in parts]) for sensor in parts[0][0]
    }
    cover = np.concatenate([part[2] for part in parts])
    valid = np.concatenate([part[1] for part in parts])
    return inputs, valid, cover, class_shares(cover, len(codes))


def _read(
    chips: Sequence[Chip],
    splits: Sequence[str],
    reading: Reading,
    statistics: Statistics,
    codes: dict[int, str],
    size: tuple[int, int],
    min_valid: float,
    workers: int,
    found: Survey | None,
    fingerprint: str,
) -> Chips:
    """Chips with enough data: in memory, or in their files where a survey has looked at them."""
    height, width = size
    valid: Tensor | None = None
    if found is None:
        inputs, pixels, held_cover, shares = _held(
            chips, reading, statistics, codes, height, width, workers
        )
        enough, cover = pixels.mean((1, 2)), torch.from_numpy(held_cover)
        valid = None if pixels.all() else torch.from_numpy(pixels)
    else:
        stored, cover = stored_columns(
            chips, reading, height, width, found.dtypes, list(codes), fingerprint, workers
        )
        inputs, enough, shares = dict(stored), found.valid.numpy(), found.shares
    kept = np.flatnonzero(enough >= min_valid)
    if not len(kept):
        raise DataError(
            f"no chip has data in {100 * min_valid:g} % of its pixels",
            path=chips[0].scene.files[0],
            fix="lower data.min_valid, or check what value means no data",
        )
    taken = torch.from_numpy(kept)
    own = [chips[k] for k in kept]
    rows = {s: [i for i, k in enumerate(kept) if splits[k] == s] for s in SPLITS}
    targets = shares[taken]
    if not codes or bool(targets.isnan().all()):
        targets = None
    if valid is not None:
        valid = valid[taken]
        valid = None if bool(valid.all()) else valid
    return Chips(
        inputs={sensor: take(values, taken) for sensor, values in inputs.items()},
        labels={} if targets is None else {"label": _dominant(targets)},
        splits={s: torch.tensor(of, dtype=torch.int64) for s, of in rows.items()},
        ids=_ids(own),
        classes={} if targets is None else {"label": list(codes.values())},
        bands={s: list(bands) for s, bands in statistics.items() if s in inputs},
        valid=valid,
        statistics={s: statistics[s] for s in inputs},
        places=Places(
            [chip.scene.name for chip in own],
            [chip.grid.crs.to_string() for chip in own],
            torch.tensor([list(chip.transform)[:6] for chip in own], dtype=torch.float64),
        ),
        targets=targets,
        cover=None if targets is None else take(cover, taken),
        reading=reading,
    )


def _dominant(targets: Float[Tensor, "n classes"]) -> Tensor:
    return torch.where(targets[:, 0].isnan(), -1, targets.nan_to_num(-1.0).argmax(1))


def _ids(chips: Sequence[Chip]) -> list[str]:
    names = [chip.scene.name for chip in chips]
    if len(set(names)) == len(names):
        return names
    return [f"{chip.scene.name}_{chip.row}_{chip.column}" for chip in chips]


def class_codes(path: Path) -> dict[int, str]:
    """Code -> name of land cover, ascending; none without maps.

    Raises:
        DataError: there are maps, and no file that names their codes.
    """
    file = path / CLASSES
    if not (path / COVER).is_dir():
        return {}
    expected = '{"1": "water", "2": "forest"}: the codes of the maps, 1 to 254'
    try:
        named = {int(code): str(name) for code, name in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        raise DataError("no such file", path=file, expected=expected) from None
    except (ValueError, AttributeError):
        raise DataError("cannot be read", path=file, expected=expected) from None
    if not all(0 < code < UNKNOWN for code in named):
        raise DataError(f"codes {min(named)} to {max(named)}", path=file, expected=expected)
    return dict(sorted(named.items()))


def _check_statistics(
    statistics: Statistics, names: dict[str, list[str]], file: str | Path
) -> None:
    for sensor, own in names.items():
        known = list(statistics.get(sensor, {}))
        if known != own:
            raise DataError(
                f"{sensor} has the bands {', '.join(own)}",
                path=file,
                expected=f"those that the statistics are of: {', '.join(known) or 'none'}",
                fix=f"take these: data.{sensor}_bands=[{','.join(known)}]",
            )


def _key(
    path: Path, scenes: Sequence[Scene], chips: Sequence[Chip], more: tuple[object, ...]
) -> str:
    """What was read: the files as they are, the chips, and how they are cut and read."""
    total = sha256(repr(more).encode())
    for scene in scenes:
        for sensor, bands in scene.bands.items():
            for band in bands:
                own = band.file.stat()
                named = f"{sensor} {band.name} {band.index} {band.file.relative_to(path)}"
                total.update(f"{named} {own.st_size} {own.st_mtime_ns}\n".encode())
        if scene.cover is not None:
            own = scene.cover.stat()
            total.update(f"cover {scene.name} {own.st_size} {own.st_mtime_ns}\n".encode())
    for chip in chips:
        total.update(f"{chip.scene.name} {chip.row} {chip.column}\n".encode())
    return total.hexdigest()[:16]
