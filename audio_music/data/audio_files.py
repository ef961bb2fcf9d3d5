"""Audio files: headers, and parts of them, from folders or from inside tar shards."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int16

from core.data.checks import DataError

if TYPE_CHECKING:
    from soundfile import SoundFile

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Of these every sample is a whole number of 16 bits.
_WHOLE = ("PCM_16", "PCM_S8", "PCM_U8")
_UNKNOWN = 0x7FFF0000  # of bytes in the header of a WAV
# A frame of an MP3 may need bits of the ones before it: decoding begins so many samples earlier.
_WARM_UP = 16 * 1152

Wave = Int16[np.ndarray, " samples"] | Float[np.ndarray, " samples"]


@dataclass(frozen=True)
class Source:
    """Where the bytes of an audio file are.

    Attributes:
        path: the file, or the shard that it is in.
        offset: its first byte.
        size: its bytes; None: to the end of the file.
        member: its name in the shard.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    member: str | None = None

    @property
    def place(self) -> str:
        """For messages."""
        return str(self.path) if self.member is None else f"{self.path}: {self.member}"

    @contextmanager
    def opened(self) -> Iterator["SoundFile"]:
        """The file for soundfile."""
        from soundfile import SoundFile

        if self.size is None:
            with SoundFile(self.path) as sound:
                yield sound
            return
        with self.path.open("rb") as file:
            part = io.BufferedReader(_Part(file, self.offset, self.size))
            with SoundFile(part) as sound:
                yield sound


@dataclass(frozen=True)
class Header:
    """What an audio file says of itself.

    Attributes:
        rate: samples a second.
        frames: samples of each channel.
        channels: 1 is mono, 2 stereo.
        is_whole: whether samples are whole numbers of 16 bits, exactly.
    """

    rate: int
    frames: int
    channels: int
    is_whole: bool


def sound_files_below(folder: Path) -> list[Path]:
    """Audio files of a folder and of those in it, in order, without hidden ones.

    On foreign drives a Mac leaves a `._NAME.wav` beside every NAME.wav that is no audio.
    """
    found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(file for file in found if not file.name.startswith("."))


def read_header(source: Source) -> Header:
    """Rate, length and channels, without decoding.

    Raises:
        DataError: the file is missing, empty, cut off, or no audio.
    """
    try:
        size = source.size if source.size is not None else source.path.stat().st_size
        if size == 0:
            raise DataError("an empty file, of 0 bytes", path=source.place, expected="audio")
        if not source.path.is_file():
            raise FileNotFoundError
        with source.opened() as sound:
            is_whole = sound.subtype in _WHOLE
            header = Header(sound.samplerate, sound.frames, sound.channels, is_whole)
        promised = _promised_frames(source)
    except FileNotFoundError:
        raise DataError("no such file", path=source.place, expected="audio") from None
    except (OSError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    if promised is not None and header.frames < promised:
        raise DataError(
            f"{header.frames} samples, then it ends",
            path=source.place,
            expected=f"{promised}, as its header says",
            fix="copy or write it again",
        )
    return header


def _promised_frames(source: Source) -> int | None:
    """Samples of a WAV by its header, which libsndfile corrects without a word; None of others."""
    with source.path.open("rb") as file:
        file.seek(source.offset)
        start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"WAVE":
            return None
        width = 0  # bytes of a sample of all channels
        while len(chunk := file.read(8)) == 8:
            kind, size = chunk[:4], int.from_bytes(chunk[4:], "little")
            if kind == b"data":
                # What was written to a pipe says 0 or the largest number there is.
                return size // width if width and size < _UNKNOWN else None
            content_start = file.tell()
            if kind == b"fmt ":
                width = int.from_bytes(file.read(16)[12:14], "little")
            file.seek(content_start + size + size % 2)
    return None


def read_samples(
    source: Source, start: int = 0, count: int = -1, *, whole: bool = False, downmix: bool = False
) -> Wave:
    """Some samples of one channel, read by seeking to the first.

    Args:
        source: the file.
        start: first sample.
        count: number of samples; -1 reads to the end.
        whole: as int16, for files whose samples are such; else float32 in [-1, 1].
        downmix: the mean of the channels; else the file must be mono.

    Returns:
        (count,), fewer where the file ends.

    Raises:
        DataError: the file is missing or damaged, or has several channels and is not downmixed.
    """
    try:
        if not source.path.is_file():
            raise FileNotFoundError
        with source.opened() as sound:
            ahead = min(start, _WARM_UP) if sound.format == "MP3" else 0
            if start:
                sound.seek(start - ahead)
            kind = "int16" if whole else "float32"
            wanted = count if count < 0 else count + ahead
            wave: np.ndarray = sound.read(wanted, dtype=kind, always_2d=True)[ahead:]
    except FileNotFoundError:
        raise DataError("no such file", path=source.place, expected="audio") from None
    except (OSError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    if wave.shape[1] == 1:
        return wave[:, 0]
    if not downmix:
        raise not_mono(source, wave.shape[1])
    mean = wave.mean(1, dtype=np.float32)
    return mean.round().astype(np.int16) if whole else mean


def not_mono(source: Source, channels: int) -> DataError:
    """The error of a file that has more channels than was said."""
    return DataError(
        f"{channels} channels",
        path=source.place,
        expected="mono, as data.channels=mono says",
        fix="data.channels=downmix takes the mean of the channels",
    )


def _unreadable(source: Source, error: Exception) -> DataError:
    reason = str(error).splitlines()[0].removesuffix(".") if str(error) else type(error).__name__
    # What libsndfile prints of a Python file object is an address.
    reason = reason.partition(": ")[2] if reason.startswith("Error opening") else reason
    return DataError(
        f"cannot be read as audio ({reason[:150]})",
        path=source.place,
        expected=f"one of {', '.join(SUFFIXES)}",
        fix="write it again or leave it out",
    )


class _Part(io.RawIOBase):
    """A part of a file as if it were a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self.file, self.offset, self.size, self.position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        wanted = min(len(buffer), max(self.size - self.position, 0))
        self.file.seek(self.offset + self.position)
        content = self.file.read(wanted)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def tell(self) -> int:
        return self.position
