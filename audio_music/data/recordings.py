"""Recordings: audio of any length with labels and splits, read by crops or resident on a device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from audio_music.data.audio_files import Source, read_samples
from audio_music.data.code_files import cut_codes
from audio_music.data.labels import Label
from core.data.checks import DataError

Batch = dict[str, Tensor]
_BATCH_SECONDS = 120  # of audio that is embedded at a time


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        name: unique.
        source: its bytes.
        rate: samples a second in the file.
        frames: samples in the file.
        group: artist, speaker or piece; its own name where none is known.
    """

    name: str
    source: Source
    rate: int
    frames: int
    group: str


class Window(NamedTuple):
    """A part of a recording, in samples of its file."""

    row: int
    start: int
    count: int


@dataclass(frozen=True)
class Recordings:
    """A data set of recordings.

    A batch is `wave` (B, samples) float32 in [-1, 1] at `rate`, and, where some recordings are
    shorter than a crop, `samples` (B,): how many count, the rest is zero.

    Attributes:
        clips: the recordings.
        labels: name -> label of all recordings.
        splits: train, valid, test -> rows of that split, on the CPU.
        rate: samples a second of the batches.
        crop: samples of a training crop and of a window of evaluation, at `rate`.
        whole: whether the files hold whole numbers of 16 bits, as which they are read and copied.
        downmix: whether files of several channels are averaged.
        workers: processes or threads that decode.
        device: of the batches.
        resident: all samples one recording after the other, on the device; None: in the files.
        codes: (time, codebooks) of each recording from an acoustic teacher; empty: there are none.
        label_rate: codes a second.
    """

    clips: tuple[Clip, ...]
    labels: dict[str, Label]
    splits: dict[str, Int64[Tensor, " rows"]]
    rate: int
    crop: int
    whole: bool
    downmix: bool
    workers: int
    device: torch.device
    resident: Tensor | None = None
    codes: tuple[np.ndarray, ...] = ()
    label_rate: float = 75.0

    @property
    def ids(self) -> list[str]:
        """Names of the recordings."""
        return [clip.name for clip in self.clips]

    @property
    def rates(self) -> list[int]:
        """Rates of the files, ascending."""
        return sorted({clip.rate for clip in self.clips})

    @property
    def pads(self) -> bool:
        """Whether some recordings are shorter than a crop."""
        return any(clip.frames < self.raw_crop(clip.rate) for clip in self.clips)

    def raw_crop(self, rate: int) -> int:
        """Samples of a file of that rate that give a crop."""
        return -(-self.crop * rate // self.rate)

    def crops_of(self, split: str) -> Int64[Tensor, " crops"]:
        """The recordings of an epoch: each as often as crops fit into it, once at least."""
        rows = self.splits[split].tolist()
        times = [max(c.frames // self.raw_crop(c.rate), 1) for c in (self.clips[r] for r in rows)]
        return torch.tensor(rows).repeat_interleave(torch.tensor(times).long())

    def random_window(self, row: int, place: float) -> Window:
        """A crop of a recording that begins at a place in [0, 1) of where it can."""
        clip = self.clips[row]
        count = min(self.raw_crop(clip.rate), clip.frames)
        return Window(row, int(place * (clip.frames - count + 1)), count)

    def windows_of(self, row: int) -> list[Window]:
        """A recording cut into windows; of the last, less than a quarter is left out."""
        clip = self.clips[row]
        size = self.raw_crop(clip.rate)
        starts = range(0, clip.frames, size)
        windows = [Window(row, start, min(size, clip.frames - start)) for start in starts]
        return [w for w in windows if w.count >= size / 4] or windows[:1]

    def codes_of(self, window: Window) -> Tensor:
        """(frames, codebooks) int64 codes of a training crop, -1 beyond the recording's end."""
        start = round(window.start * self.label_rate / self.clips[window.row].rate)
        frames = round(self.crop * self.label_rate / self.rate)
        return torch.from_numpy(cut_codes(self.codes[window.row], start, frames)).long()

    def decode(self, window: Window) -> Tensor:
        """The samples of a window as they lie in the file, on the CPU.

        Raises:
            DataError: the file is damaged, or ends before its header says.
        """
        source = self.clips[window.row].source
        wave = read_samples(
            source, window.start, window.count, whole=self.whole, downmix=self.downmix
        )
        if len(wave) < window.count:
            raise DataError(
                f"ends after {window.start + len(wave)} samples",
                path=source.place,
                expected=f"{self.clips[window.row].frames}, as its header says",
                fix="copy or write it again",
            )
        return torch.from_numpy(wave)

    def raw(self, windows: Sequence[Window], size: int | None = None) -> Batch:
        """Windows as they lie in the files, padded with zeros to one size, on the device."""
        counts = torch.tensor([window.count for window in windows])
        rates = torch.tensor([self.clips[window.row].rate for window in windows])
        size = int(counts.max()) if size is None else size
        if self.resident is None:
            wave = torch.zeros(len(windows), size, dtype=self.dtype)
            with ThreadPoolExecutor(max(self.workers, 1)) as pool:
                for place, part in enumerate(pool.map(self.decode, windows)):
                    wave[place, : len(part)] = part
            wave = wave.to(self.device)
        else:
            begins = torch.tensor([self._offsets[w.row] + w.start for w in windows])
            places = begins.to(self.device)[:, None] + torch.arange(size, device=self.device)
            wave = self.resident[places.clamp(max=len(self.resident) - 1)]
            wave = wave * (torch.arange(size, device=self.device) < counts.to(self.device)[:, None])
        return {"wave": wave, "count": counts.to(self.device), "rate": rates.to(self.device)}

    @property
    def dtype(self) -> torch.dtype:
        """Of the samples as they are read."""
        return torch.int16 if self.whole else torch.float32

    @property
    def _offsets(self) -> list[int]:
        return _offsets(tuple(clip.frames for clip in self.clips))

    def at_rate(self, raw: Batch, size: int, padded: bool) -> Batch:
        """Raw samples as float32 at the model's rate, on the device.

        Args:
            raw: `wave`, and `count` and `rate` of each row.
            size: samples of the result.
            padded: whether some rows have fewer, so that `samples` must say how many.
        """
        wave, count, rate = raw["wave"], raw["count"], raw["rate"]
        wave = wave.float() / 32768 if wave.dtype == torch.int16 else wave.float()
        rates = self.rates
        if rates != [self.rate]:
            versions = [_resampler(r, self.rate, wave.device)(wave) for r in rates]
            width = max(version.shape[1] for version in versions)
            mixed = wave.new_zeros(len(wave), width)
            for r, version in zip(rates, versions, strict=True):
                missing = width - version.shape[1]
                resampled = nn.functional.pad(version, (0, missing))
                mixed = torch.where(rate[:, None] == r, resampled, mixed)
            wave, count = mixed, (count * self.rate + rate - 1) // rate
        wave = wave[:, :size]
        if not padded:
            return {"wave": wave}
        count = count.clamp(max=size)
        inside = torch.arange(wave.shape[1], device=wave.device) < count[:, None]
        return {"wave": wave * inside, "samples": count}

    def window_batches(self, rows: Sequence[int]) -> Iterator[tuple[list[Window], Batch]]:
        """All windows of some recordings, those of similar length together."""
        return self.batches_of([window for row in rows for window in self.windows_of(row)])

    def batches_of(self, windows: Sequence[Window]) -> Iterator[tuple[list[Window], Batch]]:
        """Windows of similar length together."""
        windows = sorted(windows, key=lambda w: (w.count / self.clips[w.row].rate, w.row, w.start))
        size = max(int(_BATCH_SECONDS * self.rate / self.crop), 1)
        for start in range(0, len(windows), size):
            some = windows[start : start + size]
            sizes = self._sizes(some)
            yield some, self.at_rate(self.raw(some), max(sizes), min(sizes) < max(sizes))

    def _sizes(self, windows: Sequence[Window]) -> list[int]:
        """Samples of windows at the model's rate."""
        of = (-(-w.count * self.rate // self.clips[w.row].rate) for w in windows)
        return [min(size, self.crop) for size in of]

    def training_waves(self, n_clips: int, seed: int = 0) -> Iterator[Tensor]:
        """Random crops of the training split in batches of 32, each cut to its shortest.

        Args:
            n_clips: about how many, each of a recording that is drawn.
            seed: of the draw.
        """
        crops = self.crops_of("train")
        rng = np.random.default_rng(seed)
        chosen = crops[torch.from_numpy(rng.permutation(len(crops))[:n_clips])].tolist()
        for start in range(0, len(chosen), 32):
            windows = [self.random_window(row, rng.random()) for row in chosen[start : start + 32]]
            yield self.at_rate(self.raw(windows), min(self._sizes(windows)), False)["wave"]

    def to(self, device: torch.device) -> Self:
        """The same data, whose batches are on another device."""
        resident = None if self.resident is None else self.resident.to(device)
        labels = {name: label.to(device) for name, label in self.labels.items()}
        return replace(self, device=device, resident=resident, labels=labels)

    def without_test(self) -> Self:
        """The same data without the recordings of the test split."""
        kept = torch.cat([self.splits["train"], self.splits["valid"]]).sort().values
        new_row = torch.full((len(self.clips),), -1)
        new_row[kept] = torch.arange(len(kept))
        resident = self.resident
        if resident is not None:
            offsets = self._offsets
            parts = [resident[offsets[r] : offsets[r + 1]] for r in kept.tolist()]
            resident = torch.cat(parts)
        return replace(
            self,
            clips=tuple(self.clips[row] for row in kept.tolist()),
            labels={name: label.take(kept) for name, label in self.labels.items()},
            splits={s: new_row[self.splits[s]] for s in ("train", "valid")} | {"test": kept[:0]},
            resident=resident,
            codes=tuple(self.codes[row] for row in kept.tolist()) if self.codes else (),
        )

    def digest(self) -> str:
        """16 hex digits of names, lengths, rates, labels and splits, and of resident samples."""
        total = sha256(f"{self.rate} {self.crop}".encode())
        for row, clip in enumerate(self.clips):
            labels = [label.describe(row) for label in self.labels.values()]
            total.update(f"{clip.name} {clip.frames} {clip.rate} {labels}".encode())
            total.update(self.codes[row].tobytes() if self.codes else b"")
        for name in sorted(self.splits):
            total.update(f"{name} {self.splits[name].tolist()}".encode())
        if self.resident is not None:
            total.update(self.resident.cpu().numpy().tobytes())
        return total.hexdigest()[:16]


@lru_cache(maxsize=4)
def _offsets(frames: tuple[int, ...]) -> list[int]:
    return [0, *np.cumsum(frames).tolist()]


@lru_cache(maxsize=32)
def _resampler(before: int, after: int, device: torch.device) -> nn.Module:
    from torchaudio.transforms import Resample

    return nn.Identity() if before == after else Resample(before, after).to(device)
