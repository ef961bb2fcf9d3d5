"""What one pass over chips tells: where they have data, what covers them, moments of the bands."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.data.checks import DataError
from remote_sensing.data.chips import UNKNOWN, Statistics
from remote_sensing.data.cut import Chip, side_by_side
from remote_sensing.data.rasters import Pixels, Reading, SceneReader
from remote_sensing.data.statistics import Moments


@dataclass(frozen=True)
class Survey:
    """Of some chips.

    Attributes:
        valid: (n,) shares of the pixels that have data of all sensors.
        shares: (n, classes) of the known pixels that classes cover; NaN without any.
        dtypes: sensor -> numbers in which chips can be read as they are, see `native_dtype`.
        moments: sensor -> sums over the pixels of the chips that were to be counted.
    """

    valid: Float[Tensor, " n"]
    shares: Float[Tensor, "n classes"]
    dtypes: dict[str, torch.dtype]
    moments: dict[str, Moments] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be kept in a file."""
        found = {"valid": self.valid, "shares": self.shares}
        found |= {f"{s}/dtype": torch.empty(0, dtype=dtype) for s, dtype in self.dtypes.items()}
        return found | {
            f"{sensor}/moments": torch.from_numpy(
                np.stack([of.count, of.total, of.squares]).astype(np.float64)
            )
            for sensor, of in self.moments.items()
        }

    @classmethod
    def of_tensors(cls, found: dict[str, Tensor]) -> "Survey":
        """What `tensors` gave."""
        dtypes, moments = {}, {}
        for name, value in sorted(found.items()):  # files give them in any order
            sensor, _, what = name.partition("/")
            if what == "dtype":
                dtypes[sensor] = value.dtype
            elif what == "moments":
                moments[sensor] = Moments(*value.numpy())
        return cls(found["valid"], found["shares"], dtypes, moments)


def survey(
    chips: Sequence[Chip],
    counted: Sequence[bool],
    reading: Reading,
    height: int,
    width: int,
    min_valid: float,
    codes: Sequence[int],
    workers: int,
) -> Survey:
    """Reads all chips once, in threads, and keeps none.

    Args:
        chips: to be read.
        counted: those whose pixels enter the moments, if enough of them have data.
        reading: units, and whether sensors are aligned.
        height: of a chip in pixels.
        width: of a chip in pixels.
        min_valid: share of a chip's pixels that must have data.
        codes: of the land-cover maps; their places are the classes.
        workers: threads.

    Raises:
        DataError: a file cannot be read.
    """
    is_counted = {id(chip): wanted for chip, wanted in zip(chips, counted, strict=True)}
    number_of = class_numbers(codes)

    def look(group: Sequence[Chip]) -> Survey:
        with SceneReader(group[0].scene, reading, group[0].grid) as reader:
            corners = [(chip.row, chip.column) for chip in group]
            pixels = reader.read(corners, height, width)
            dtypes = {sensor: _torch_dtype(reader.native_dtype(sensor)) for sensor in pixels.values}
        valid = pixels.valid.mean((1, 2))
        kept = (valid >= min_valid) & np.array([is_counted[id(chip)] for chip in group])
        shares = class_shares(covers_of(pixels, number_of), len(codes))
        moments = {sensor: Moments.of(values[kept]) for sensor, values in pixels.values.items()}
        return Survey(torch.from_numpy(valid).float(), shares, dtypes, moments)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        parts = list(pool.map(look, side_by_side(chips)))
    moments: dict[str, Moments] = {}
    for part in parts:
        moments = {s: moments[s] + own if s in moments else own for s, own in part.moments.items()}
    dtypes = {}
    for sensor in parts[0].dtypes:
        found = {part.dtypes[sensor] for part in parts}
        dtypes[sensor] = found.pop() if len(found) == 1 else torch.float32
    return Survey(
        torch.cat([part.valid for part in parts]),
        torch.cat([part.shares for part in parts]),
        dtypes,
        moments,
    )


def statistics_of(moments: dict[str, Moments], chips: Sequence[Chip]) -> Statistics:
    """The values that become 0 and 1.

    Args:
        moments: sensor -> sums over the pixels of the training chips.
        chips: some of them, for the names of the bands.

    Raises:
        DataError: a band has no data, or one value everywhere.
    """
    found = {}
    for sensor, sums in moments.items():
        bands = chips[0].scene.bands[sensor]
        names = [band.name for band in bands]
        try:
            found[sensor] = dict(zip(names, sums.ends(), strict=True))
        except DataError as error:
            raise DataError(
                f"{sensor}, {', '.join(names)}: {error.found}",
                path=bands[0].file.parent,
                expected="data in every band, and values that differ",
                fix=f"leave the band out: data.{sensor}_bands=[...]; or check data.min_valid, and "
                "what value means no data",
            ) from None
    return found


def class_numbers(codes: Sequence[int]) -> UInt8[np.ndarray, "256"]:
    """Code of a land-cover map -> number of the class, 255 where unknown."""
    numbers = np.full(256, UNKNOWN, np.uint8)
    numbers[list(codes)] = np.arange(len(codes))
    return numbers


def covers_of(
    pixels: Pixels, number_of: UInt8[np.ndarray, "256"]
) -> UInt8[np.ndarray, "n height width"]:
    """Classes of pixels, 255 where unknown or without data of a sensor."""
    if pixels.cover is None:
        return np.full(pixels.valid.shape, UNKNOWN, np.uint8)
    return np.where(pixels.valid, number_of[pixels.cover], UNKNOWN).astype(np.uint8)


def class_shares(
    cover: UInt8[np.ndarray, "n height width"], n_classes: int
) -> Float[Tensor, "n classes"]:
    """Shares of the pixels with a class, NaN for chips that have none."""
    known = (cover != UNKNOWN).sum((1, 2))
    counts = np.zeros((len(cover), n_classes))
    for number in range(n_classes):
        counts[:, number] = (cover == number).sum((1, 2))
    shares = np.where(known[:, None] > 0, counts / np.maximum(known, 1)[:, None], np.nan)
    return torch.from_numpy(shares.astype(np.float32))


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    found: torch.dtype = torch.from_numpy(np.empty(0, dtype)).dtype
    return found
