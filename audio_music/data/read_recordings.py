"""From a manifest or a folder to recordings: headers of all files, samples of a small set."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from audio_music.data.audio_files import not_mono, read_header
from audio_music.data.audio_splits import split_entries
from audio_music.data.code_files import TOLERANCE, expected_frames, same_codebooks
from audio_music.data.labels import make_label
from audio_music.data.manifests import Entry, find_entries
from audio_music.data.recordings import Clip, Recordings, Window
from core.data.checks import DataError
from core.data.findings import Findings, few

_MIB = 2**20


def load_recordings(
    path: str | Path,
    format: str = "auto",
    pattern: str | None = None,
    codes: str | None = None,
    label_rate: float = 75.0,
    rate: int = 24000,
    seconds: float = 5.0,
    min_seconds: float = 0.1,
    file_rate: int | None = None,
    channels: Literal["mono", "downmix"] = "mono",
    split: str = "auto",
    ratios: Sequence[float] = (0.7, 0.1, 0.2),
    valid_share: float = 0.1,
    seed: int = 0,
    resident_mib: int = 1024,
    workers: int = 4,
    device: str | None = None,
    findings: Findings | None = None,
) -> Recordings:
    """Reads the headers of all recordings, and the samples of a small set.

    Args:
        path: folder or manifest, see `audio_music.data.manifests`.
        format: which of its formats; `auto` goes by what lies there.
        pattern: regular expression for names of files, whose named groups are labels.
        codes: name of code files beside fairseq's manifests, which take the teacher's place.
        label_rate: codes a second.
        rate: samples a second of the model; files of other rates are resampled on the device.
        seconds: length of training crops and of the windows of evaluation.
        min_seconds: shorter recordings are left out.
        file_rate: that all files must have; None: any.
        channels: `mono`: all files must be; `downmix`: the mean of the channels is taken.
        split: see `audio_music.data.audio_splits`.
        ratios: likewise.
        valid_share: likewise.
        seed: likewise.
        resident_mib: a set of at most so many MiB lies on the device as a whole.
        workers: processes that decode crops of larger sets.
        device: where batches are made; None: the GPU where there is one.
        findings: collects problems where it is not strict, and then no samples are kept; None: the
            first problem is raised.

    Raises:
        DataError: nothing is there, a file cannot be read, or files are not as was said.
    """
    findings, place = findings or Findings(), str(path)
    downmix = _downmixes(channels)
    if min(seconds, rate) <= 0 or workers < 0:
        raise DataError(
            f"data.seconds={seconds}, data.rate={rate}, data.workers={workers}",
            expected="seconds and rate above 0, workers from 0 on",
        )
    entries = find_entries(path, format, pattern, codes)
    usable: list[tuple[Entry, Clip]] = []
    short: list[str] = []
    whole = True
    for entry in entries:
        with findings.going_on():
            clip, is_whole = read_clip(entry, file_rate, downmix)
            _check_codes(entry, clip, label_rate)
            if clip.frames < min_seconds * clip.rate:
                short.append(entry.name)
                continue
            usable.append((entry, clip))
            whole &= is_whole
    if short:
        findings.note(f"{len(short)} recordings are shorter than {min_seconds} s: {few(short)}")
    if not usable:
        raise DataError("no recording can be used", path=place)
    kept = [entry for entry, _ in usable]
    names = sorted({name for entry in kept for name in entry.labels})
    labels = {n: make_label(n, [e.labels.get(n) for e in kept], place) for n in names}
    recordings = Recordings(
        tuple(clip for _, clip in usable),
        {name: label for name, label in labels.items() if bool(label.known.any())},
        split_entries(kept, split, ratios, valid_share, seed),
        rate,
        round(seconds * rate),
        whole,
        downmix,
        workers,
        torch.device("cpu"),
        codes=tuple(entry.codes for entry in kept if entry.codes is not None),
        label_rate=label_rate,
    )
    same_codebooks(recordings.codes, place)
    size = sum(clip.frames for clip in recordings.clips) * recordings.dtype.itemsize
    if findings.strict and size <= resident_mib * _MIB:
        everything = [Window(row, 0, c.frames) for row, c in enumerate(recordings.clips)]
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            recordings = replace(
                recordings, resident=torch.cat(list(pool.map(recordings.decode, everything)))
            )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return recordings.to(torch.device(device))


def _downmixes(channels: str) -> bool:
    """Whether files of several channels are averaged.

    Raises:
        DataError: the word is unknown.
    """
    if channels not in ("mono", "downmix"):
        raise DataError(f"data.channels={channels}", expected="mono or downmix")
    return channels == "downmix"


def _check_codes(entry: Entry, clip: Clip, label_rate: float) -> None:
    """Refuses codes that are not of the recording's length."""
    if entry.codes is None:
        return
    expected = expected_frames(clip.frames, clip.rate, label_rate)
    if abs(len(entry.codes) - expected) > TOLERANCE:
        raise DataError(
            f"{len(entry.codes)} codes for {clip.frames / clip.rate:.2f} s of audio",
            path=entry.place,
            expected=f"{expected}, {label_rate:g} a second",
            fix="are they of this file, and is data.label_rate right?",
        )


def read_clip(entry: Entry, file_rate: int | None, downmix: bool) -> tuple[Clip, bool]:
    """One recording, and whether its samples are whole numbers of 16 bits.

    Raises:
        DataError: the file cannot be read, holds nothing, or is not as the manifest says.
    """
    header = read_header(entry.source)
    place = entry.source.place
    if header.frames == 0:
        raise DataError("holds no samples", path=place, expected="audio")
    expected = file_rate or entry.said.get("rate")
    if expected is not None and header.rate != expected:
        said = "as data.file_rate says" if file_rate else f"as {entry.place} says"
        raise DataError(
            f"{header.rate} samples a second", path=place, expected=f"{expected}, {said}"
        )
    frames = entry.said.get("frames")
    if frames is not None and header.frames != frames:
        raise DataError(
            f"{header.frames} samples",
            path=place,
            expected=f"{frames}, as {entry.place} says",
            fix="copy the file again, or write the manifest anew",
        )
    if header.channels != 1 and not downmix:
        raise not_mono(entry.source, header.channels)
    clip = Clip(entry.name, entry.source, header.rate, header.frames, entry.group or entry.name)
    return clip, header.is_whole
