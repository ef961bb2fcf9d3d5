"""From a folder of GeoTIFFs to `Chips`: cut by windows, split by blocks of ground, normalised."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import SPLITS
from remote_sensing.data.bands import OPTICAL, RADAR, SENSORS
from remote_sensing.data.chips import Chips, Places, Statistics
from remote_sensing.data.cut import Chip, check_options, cut_scenes, side_by_side, split_chips
from remote_sensing.data.layouts import COVER, find_scenes
from remote_sensing.data.rasters import Pixels, Reading, Scene, SceneReader
from remote_sensing.data.statistics import FILE, Moments, save_statistics, saved_statistics

CLASSES, LARGER = "classes.json", "larger"
UNKNOWN = 255
_MIDDLE = 128  # of 8 bits: the mean of a band


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
    min_valid: float = 0.9,
    split: str = "auto",
    block: float = 5000.0,
    buffer: float | None = None,
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    larger: int | None = None,
    statistics: str | Path | None = None,
    workers: int = 4,
    device: str | torch.device | None = None,
) -> Chips:
    """Reads a folder of GeoTIFFs and cuts them into chips of one size.

    Statistics are of the training chips, without pixels that have no data, and are kept in
    `statistics.json` beside the data, which is used as long as nothing that they follow from
    changes. Values become 8 bits between the mean less and plus two deviations.

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
        min_valid: chips with a smaller share of pixels with data are left out.
        split: `files` goes by `splits.csv` with the columns scene and split; `blocks` draws blocks
            of ground; `auto` takes the file where there is one.
        block: side of a block in metres.
        buffer: see `remote_sensing.data.blocks.split_by_blocks`; None is the side of a chip.
        ratios: shares of the blocks in train, valid and test.
        seed: of the draw of blocks.
        larger: side of further test chips, which are cut from the folder `larger` in `path`.
        statistics: a file of statistics to normalise by, that of an earlier training.
        workers: threads that read.
        device: where the chips go; None takes the GPU where there is one.

    Raises:
        DataError: what lies there cannot be used.
    """
    path = Path(path)
    units = {OPTICAL: optical_unit, RADAR: radar_unit}
    check_options(sensors, units, size, stride, min_valid)
    sensors = [sensor for sensor in SENSORS if sensor in sensors]
    bands = {s: {OPTICAL: optical_bands, RADAR: radar_bands}[s] for s in sensors}
    reading = Reading(units, dn_offset, align)
    scenes = find_scenes(path, format, sensors, bands)
    chips, height, width = cut_scenes(scenes, size, stride)
    splits = split_chips(path, chips, height, width, split, block, buffer, ratios, seed)
    chips = [chip for chip, own in zip(chips, splits, strict=True) if own]
    splits = [own for own in splits if own]

    key = _key(path, scenes, chips, splits, (height, width, reading, min_valid))
    found = saved_statistics(path / FILE if statistics is None else Path(statistics), None)
    if statistics is None:
        found = saved_statistics(path / FILE, key)
        if found is None:
            train = [chip for chip, own in zip(chips, splits, strict=True) if own == "train"]
            found = measure(train, reading, height, width, min_valid, workers)
            save_statistics(path / FILE, found, key)
    elif found is None:
        raise DataError("no such file", path=statistics)
    names = {s: [band.name for band in scenes[0].bands[s]] for s in sensors}
    _check_statistics(found, names, statistics or path / FILE)
    codes = _class_codes(path)
    result = _read(chips, splits, reading, found, codes, height, width, min_valid, workers)
    if larger is not None:
        more = find_scenes(path / LARGER, format, sensors, {s: names[s] for s in sensors})
        wide, wide_height, wide_width = cut_scenes(more, larger, None)
        beside = _read(
            *(wide, ["test"] * len(wide), reading, found, codes),
            *(wide_height, wide_width, min_valid, workers),
        )
        result = replace(result, larger=beside)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return result.to(torch.device(device))


def measure(
    chips: Sequence[Chip],
    reading: Reading,
    height: int,
    width: int,
    min_valid: float,
    workers: int,
) -> Statistics:
    """Statistics of chips, over pixels with data.

    Raises:
        DataError: a band has no data, or one value everywhere.
    """

    def moments(group: Sequence[Chip]) -> dict[str, Moments]:
        pixels = _pixels(group, reading, height, width)
        kept = pixels.valid.mean((1, 2)) >= min_valid
        return {sensor: Moments.of(values[kept]) for sensor, values in pixels.values.items()}

    total: dict[str, Moments] = {}
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(moments, side_by_side(chips)):
            total = {s: total[s] + own if s in total else own for s, own in part.items()}
    found = {}
    for sensor, sums in total.items():
        names = [band.name for band in chips[0].scene.bands[sensor]]
        try:
            found[sensor] = dict(zip(names, sums.ends(), strict=True))
        except DataError as error:
            raise DataError(
                f"{sensor}, {', '.join(names)}: {error.found}",
                path=chips[0].scene.bands[sensor][0].file.parent,
                expected=error.expected,
                fix=error.fix or "check data.min_valid, and what value means no data",
            ) from None
    return found


def _read(
    chips: Sequence[Chip],
    splits: Sequence[str],
    reading: Reading,
    statistics: Statistics,
    codes: dict[int, str],
    height: int,
    width: int,
    min_valid: float,
    workers: int,
) -> Chips:
    n_classes = len(codes)
    number_of = np.full(256, UNKNOWN, np.uint8)
    number_of[list(codes)] = np.arange(n_classes)

    def read(group: Sequence[Chip]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        pixels = _pixels(group, reading, height, width)
        cover = np.full(pixels.valid.shape, UNKNOWN, np.uint8)
        if pixels.cover is not None:
            cover = np.where(pixels.valid, number_of[pixels.cover], UNKNOWN)
        bytes_of = {
            sensor: _to_bytes(values, list(statistics[sensor].values()))
            for sensor, values in pixels.values.items()
        }
        return bytes_of, pixels.valid, cover

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(read, side_by_side(chips)))
    valid = np.concatenate([part[1] for part in parts])
    kept = np.flatnonzero(valid.mean((1, 2)) >= min_valid)
    if not len(kept):
        raise DataError(
            f"no chip has data in {100 * min_valid:g} % of its pixels",
            path=chips[0].scene.files[0],
            fix="lower data.min_valid, or check what value means no data",
        )
    inputs = {
        sensor: torch.from_numpy(np.concatenate([part[0][sensor] for part in parts])[kept])
        for sensor in parts[0][0]
    }
    rows = {s: [i for i, k in enumerate(kept) if splits[k] == s] for s in SPLITS}
    valid, cover = valid[kept], np.concatenate([part[2] for part in parts])[kept]
    targets = _shares(cover, n_classes)
    own = [chips[k] for k in kept]
    return Chips(
        inputs=inputs,
        labels={} if targets is None else {"label": _dominant(targets)},
        splits={s: torch.tensor(of, dtype=torch.int64) for s, of in rows.items()},
        ids=_ids(own),
        classes={} if targets is None else {"label": list(codes.values())},
        bands={s: list(bands) for s, bands in statistics.items() if s in inputs},
        valid=None if valid.all() else torch.from_numpy(valid),
        statistics={s: statistics[s] for s in inputs},
        places=Places(
            [chip.grid.crs.to_string() for chip in own],
            torch.tensor([list(chip.transform)[:6] for chip in own], dtype=torch.float64),
        ),
        targets=targets,
        cover=None if targets is None else torch.from_numpy(cover),
    )


def _pixels(group: Sequence[Chip], reading: Reading, height: int, width: int) -> Pixels:
    with SceneReader(group[0].scene, reading, group[0].grid) as reader:
        return reader.read([(chip.row, chip.column) for chip in group], height, width)


def _to_bytes(
    values: Float[np.ndarray, "n bands height width"], ends: Sequence[tuple[float, float]]
) -> UInt8[np.ndarray, "n bands height width"]:
    low, high = np.array(ends, np.float32).T[..., None, None]
    scaled = np.clip((values - low) / (high - low), 0, 1) * 255
    return np.where(np.isfinite(scaled), np.round(scaled), _MIDDLE).astype(np.uint8)


def _shares(
    cover: UInt8[np.ndarray, "n height width"], n_classes: int
) -> Float[Tensor, "n classes"] | None:
    """Shares of the pixels with a class, NaN for chips that have none."""
    known = (cover != UNKNOWN).sum((1, 2))
    if not known.any():
        return None
    counts = np.stack([(cover == number).sum((1, 2)) for number in range(n_classes)], 1)
    shares = np.where(known[:, None] > 0, counts / np.maximum(known, 1)[:, None], np.nan)
    return torch.from_numpy(shares.astype(np.float32))


def _dominant(targets: Float[Tensor, "n classes"]) -> Tensor:
    return torch.where(targets[:, 0].isnan(), -1, targets.nan_to_num(-1.0).argmax(1))


def _ids(chips: Sequence[Chip]) -> list[str]:
    names = [chip.scene.name for chip in chips]
    if len(set(names)) == len(names):
        return names
    return [f"{chip.scene.name}_{chip.row}_{chip.column}" for chip in chips]


def _class_codes(path: Path) -> dict[int, str]:
    """Code -> name of land cover, ascending."""
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
    path: Path,
    scenes: Sequence[Scene],
    chips: Sequence[Chip],
    splits: Sequence[str],
    more: tuple[object, ...],
) -> str:
    """What statistics follow from: the files as they are, and how they are cut and read."""
    total = sha256(repr(more).encode())
    for scene in scenes:
        for sensor, bands in scene.bands.items():
            for band in bands:
                own = band.file.stat()
                named = f"{sensor} {band.name} {band.index} {band.file.relative_to(path)}"
                total.update(f"{named} {own.st_size} {own.st_mtime_ns}\n".encode())
    for chip, split in zip(chips, splits, strict=True):
        if split == "train":
            total.update(f"{chip.scene.name} {chip.row} {chip.column}\n".encode())
    return total.hexdigest()[:16]
