"""Mean and deviation of every band, over pixels with data alone; kept beside the data."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Float64

from core.data.checks import DataError
from remote_sensing.data.chips import Statistics

FILE = "statistics.json"
_DEVIATIONS = 2.0


@dataclass
class Moments:
    """Sums over the pixels of each band.

    Attributes:
        count: (bands,) pixels with data.
        total: (bands,) sum.
        squares: (bands,) sum of squares.
    """

    count: Float64[np.ndarray, " bands"]
    total: Float64[np.ndarray, " bands"]
    squares: Float64[np.ndarray, " bands"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "n bands height width"]) -> Self:
        """Those of chips; NaN is no data."""
        known = np.isfinite(values)
        filled = np.where(known, values, 0).astype(np.float64)
        axes = (0, 2, 3)
        return cls(known.sum(axes).astype(float), filled.sum(axes), (filled**2).sum(axes))

    def __add__(self, other: Self) -> Self:
        """Those of both."""
        return type(self)(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def ends(self) -> list[tuple[float, float]]:
        """Of each band, the mean less and plus two deviations.

        Raises:
            DataError: a band has no data, or one value everywhere.
        """
        count = np.maximum(self.count, 1)
        mean = self.total / count
        spread = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        for number in range(len(mean)):
            if self.count[number] == 0:
                raise DataError(f"band {number + 1} has no data in any training chip")
            if spread[number] <= 1e-6 * max(abs(mean[number]), 1e-6):
                raise DataError(f"band {number + 1} is {mean[number]:g} everywhere")
        low, high = mean - _DEVIATIONS * spread, mean + _DEVIATIONS * spread
        return list(zip(low.tolist(), high.tolist(), strict=True))


def saved_statistics(file: Path, key: str | None) -> Statistics | None:
    """What was kept in a file; None where there is none, or where it is of other chips.

    Args:
        file: the JSON file.
        key: what the statistics must be of; None takes any.

    Raises:
        DataError: it is no file of statistics.
    """
    try:
        content = json.loads(file.read_text())
        found = {
            sensor: {band: (float(low), float(high)) for band, (low, high) in bands.items()}
            for sensor, bands in content["ends"].items()
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"is no file of statistics ({type(error).__name__})",
            path=file,
            fix="delete it: it is written anew",
        ) from None
    return found if key is None or content.get("key") == key else None


def save_statistics(file: Path, statistics: Statistics, key: str) -> None:
    """Writes a file in one step; a folder that cannot be written to stays as it is."""
    about = "reflectance or dB that become 0 and 1: mean -+ 2 deviations of the training chips"
    content = {"about": about, "key": key, "ends": statistics}
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
