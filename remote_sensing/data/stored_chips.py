"""Chips that stay in their files: windows are read in the files' own numbers when asked for."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from core.data.stored_rows import StoredRows
from remote_sensing.data.cut import Chip
from remote_sensing.data.rasters import Reading, Scene, SceneReader
from remote_sensing.data.survey import class_numbers

_OPEN_SCENES = 32  # of each thread


class _OpenScenes(threading.local):
    """Readers that a thread keeps open; GDAL's handles serve one thread of one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        # Scenes stay with their readers, so that no other scene gets the number of one.
        self.readers: OrderedDict[tuple[int, str], tuple[Scene, SceneReader]] = OrderedDict()

    def reader(self, chip: Chip, part: str, scene: Scene, reading: Reading) -> SceneReader:
        if self.process != os.getpid():  # handles of the process that this one was forked from
            self.process, self.readers = os.getpid(), OrderedDict()
        key = (id(chip.scene), part)
        if key not in self.readers:
            opened = SceneReader(scene, reading, chip.grid).__enter__()
            self.readers[key] = chip.scene, opened
            if len(self.readers) > _OPEN_SCENES:
                self.readers.popitem(last=False)[1][1].__exit__()
        self.readers.move_to_end(key)
        return self.readers[key][1]


_OPEN = _OpenScenes()


@dataclass(frozen=True)
class SensorWindows:
    """Row -> (bands, height, width) of one sensor, as in the files.

    Attributes:
        chips: a window a row.
        sensor: which one.
        reading: units, and whether sensors are aligned.
        height: in pixels.
        width: in pixels.
        dtype: see `SceneReader.native_dtype`.
    """

    chips: Sequence[Chip]
    sensor: str
    reading: Reading
    height: int
    width: int
    dtype: torch.dtype

    def __call__(self, row: int) -> Shaped[Tensor, "bands height width"]:
        """One window.

        Raises:
            DataError: a file cannot be read.
        """
        chip = self.chips[row]
        scene = Scene(chip.scene.name, {self.sensor: chip.scene.bands[self.sensor]})
        reader = _OPEN.reader(chip, self.sensor, scene, self.reading)
        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        corner = (chip.row, chip.column)
        return torch.from_numpy(
            reader.read_native(self.sensor, corner, self.height, self.width, dtype)
        )


@dataclass(frozen=True)
class CoverWindows:
    """Row -> (height, width) classes of the land-cover map, 255 where unknown.

    Attributes:
        chips: a window a row.
        reading: whether maps on other grids are aligned.
        height: in pixels.
        width: in pixels.
        codes: of the maps; their places are the classes.
    """

    chips: Sequence[Chip]
    reading: Reading
    height: int
    width: int
    codes: Sequence[int]

    def __call__(self, row: int) -> UInt8[Tensor, "height width"]:
        """One window.

        Raises:
            DataError: a file cannot be read.
        """
        chip = self.chips[row]
        scene = Scene(chip.scene.name, {}, chip.scene.cover)
        reader = _OPEN.reader(chip, "cover", scene, self.reading)
        raw = reader.read_cover((chip.row, chip.column), self.height, self.width)
        codes = np.zeros((self.height, self.width), np.uint8) if raw is None else raw
        return torch.from_numpy(class_numbers(self.codes)[codes])


def stored_columns(
    chips: Sequence[Chip],
    reading: Reading,
    height: int,
    width: int,
    dtypes: dict[str, torch.dtype],
    codes: Sequence[int],
    fingerprint: str,
    workers: int,
) -> tuple[dict[str, StoredRows], StoredRows]:
    """Columns of the sensors, and that of the land cover, which are read when rows are selected.

    Args:
        chips: a window a row.
        reading: units, and whether sensors are aligned.
        height: of a chip in pixels.
        width: of a chip in pixels.
        dtypes: sensor -> numbers of its files.
        codes: of the land-cover maps.
        fingerprint: tells these files from others.
        workers: processes that read while training.
    """
    n = len(chips)
    inputs = {
        sensor: StoredRows(
            SensorWindows(chips, sensor, reading, height, width, dtype),
            n,
            (len(chips[0].scene.bands[sensor]), height, width),
            dtype,
            fingerprint,
            workers,
        )
        for sensor, dtype in dtypes.items()
    }
    cover = CoverWindows(chips, reading, height, width, codes)
    return inputs, StoredRows(cover, n, (height, width), torch.uint8, fingerprint, workers)
