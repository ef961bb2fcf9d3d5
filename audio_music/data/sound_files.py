"""Recordings that are too many to be held: windows of them are read from the files by seeking."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int16, Int64
from torch import Tensor

from audio_music.data.audio_files import Source, read_header, read_samples
from audio_music.data.log_filterbank import LOWEST_RATE, RATE, to_rate
from core.data.checks import DataError

_CONTEXT = 64  # samples beside a window that the filter of the resampling may see, at least


class SoundFile(NamedTuple):
    """One recording: its file, its rate, and its samples of each channel."""

    path: Path
    rate: int
    samples: int


@dataclass(frozen=True)
class SoundFiles:
    """Recordings in files, of which windows are cut as from `Lines` of one row.

    No file is read whole: a window's own samples are decoded, by as many threads as `workers`, and
    those of other rates are resampled on the device as the whole recording would be.

    Attributes:
        files: the recordings.
        lengths: (n,) samples of each at 22,050 Hz.
        workers: threads that decode.
    """

    files: tuple[SoundFile, ...]
    lengths: Int64[Tensor, " n"]
    workers: int = 4

    @classmethod
    def of(cls, files: Sequence[SoundFile], workers: int = 4) -> "SoundFiles":
        """Recordings, one or more."""
        lengths = torch.tensor([-(-file.samples * RATE // file.rate) for file in files])
        return cls(tuple(files), lengths, workers)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.files)

    def windows(
        self,
        items: Int64[Tensor, " batch"],
        first: Int64[Tensor, " batch"],
        width: int,
        fill: int,
    ) -> Int16[Tensor, "batch 1 width"]:
        """Samples `first` to `first + width` of some recordings, mono, at 22,050 Hz.

        Args:
            items: which.
            first: where the windows begin; they may lie beyond the ends.
            width: of the windows.
            fill: what is heard beyond the ends.

        Raises:
            DataError: a file is damaged, or ends before its header says.
        """
        asked = list(zip(items.tolist(), first.tolist(), strict=True))
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            read = list(pool.map(lambda one: self._read(*one, width), asked))
        found = torch.full((len(asked), width), fill, dtype=torch.int16, device=items.device)
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, (item, _) in enumerate(asked):
            rows_of[self.files[item].rate].append(row)
        place = torch.arange(width, device=items.device)
        for rate, rows in rows_of.items():
            waves = torch.from_numpy(np.stack([read[row][0] for row in rows])).to(items.device)
            offsets = torch.tensor([read[row][1] for row in rows], device=items.device)
            waves = to_rate(waves, rate).gather(1, offsets[:, None] + place)
            chosen = torch.tensor(rows, device=items.device)
            start, length = first[chosen, None], self.lengths[items[chosen], None]
            inside = (place >= -start) & (place < length - start)
            found[chosen] = torch.where(inside, as_int16(waves), fill)
        return found[:, None]

    def _read(self, item: int, first: int, width: int) -> tuple[Float[np.ndarray, " samples"], int]:
        """What a window needs of a file, at its rate, and where after resampling it begins."""
        path, rate, samples = self.files[item]
        # Every so many samples resampling begins anew: from there on it is as of the whole.
        before, after = rate // gcd(rate, RATE), RATE // gcd(rate, RATE)
        context = -(-_CONTEXT // before) if rate != RATE else 0
        block = first // after - context
        n_blocks = -(-width // after) + 2 * context + 1
        start, stop = block * before, (block + n_blocks) * before
        wave = np.zeros(stop - start, np.float32)
        low, high = max(start, 0), min(stop, samples)
        if low < high:
            part = read_samples(Source(path), low, high - low, downmix=True)
            if len(part) < high - low:
                raise DataError(
                    f"ends after {low + len(part)} samples",
                    path=path,
                    expected=f"{samples}, as its header says",
                    fix="copy or write it again",
                )
            wave[low - start : high - start] = part
        return wave, first - block * after

    def one(self, item: int) -> Int16[Tensor, "1 samples"]:
        """A whole recording."""
        start = torch.zeros(1, dtype=torch.int64, device=self.lengths.device)
        return self.windows(start + item, start, int(self.lengths[item]), 0)[0]

    def to(self, device: torch.device) -> Self:
        """The same, whose windows are on a device."""
        return replace(self, lengths=self.lengths.to(device))

    def identity(self) -> bytes:
        """Changes where a file does: names, lengths, rates, and when they were written."""
        known = [
            f"{file.path.name} {file.samples} {file.rate} {file.path.stat().st_mtime_ns}"
            for file in self.files
        ]
        return "\n".join(known).encode()


def read_sound_header(path: Path) -> SoundFile:
    """Rate and length of a recording, without decoding.

    Raises:
        DataError: the file cannot be read, holds nothing, or is at less than 12 kHz.
    """
    header = read_header(Source(path))
    if header.frames == 0:
        raise DataError("holds no samples", path=path)
    if header.rate < LOWEST_RATE:
        raise DataError(f"audio at {header.rate} Hz", path=path, expected="12 kHz or more")
    return SoundFile(path, header.rate, header.frames)


def as_int16(wave: Float[Tensor, "*shape"]) -> Int16[Tensor, "*shape"]:
    """Samples within [-1, 1], louder ones clipped, as they are kept."""
    return (wave.clamp(-1, 1) * 32767).round().to(torch.int16)
