"""What pre-training sees: pictures of unrolled scores, and recordings; nothing pairs them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int16, UInt8
from torch import Tensor

from audio_music.data.audio_files import sound_files_below
from audio_music.data.lines import Lines
from audio_music.data.log_filterbank import to_rate
from audio_music.data.snippets import AUDIO, SHEET, SHEET_MARGIN, samples_of_view, strip
from audio_music.data.sound_files import SoundFile, SoundFiles, as_int16, read_sound_header
from core.data.checks import DataError
from core.data.findings import Findings

_HELD_OUT = 10  # every so many items judge, where the files do not say which
_MIB = 2**20


def read_unpaired(
    path: Path,
    audio: str | None,
    scores: str | None,
    frames: int,
    findings: Findings,
    resident_mib: int,
    workers: int,
) -> tuple[dict[str, Lines | SoundFiles], dict[str, Tensor]]:
    """Scores and recordings of pre-training; a modality of which there is nothing is left out.

    Args:
        path: folder of the data set.
        audio: folder of recordings, with or without a table as MAESTRO's; None is
            `pretraining/audio` where that is there.
        scores: folder of unrolled systems; None is `pretraining/scores`, likewise.
        frames: of a snippet of audio.
        findings: collects problems where it is not strict; then every recording is decoded.
        resident_mib: recordings of at most so many MiB are held.
        workers: threads that read windows of others.

    Returns:
        Modality -> its lines, and modality -> which of them judge.
    """
    lines: dict[str, Lines | SoundFiles] = {}
    held_out: dict[str, Tensor] = {}
    folders = {AUDIO: (audio, path / "pretraining/audio")}
    folders[SHEET] = (scores, path / "pretraining/scores")
    for modality, (asked, usual) in folders.items():
        folder = usual if asked is None else Path(asked)
        if not folder.is_dir():
            if asked is not None:
                raise DataError("no such folder", path=folder)
            continue
        if modality == SHEET:
            systems, judges = _systems(folder, findings)
            if systems:
                lines[SHEET] = Lines.of(systems, torch.uint8, SHEET_MARGIN)
                held_out[SHEET] = torch.tensor(judges)
            continue
        files, judges = _recordings(folder, findings)
        if files:
            sounds = SoundFiles.of(files, workers)
            held_out[AUDIO] = torch.tensor(judges)
            is_small = 2 * int(sounds.lengths.sum()) <= resident_mib * _MIB
            lines[AUDIO] = _held(files, frames) if findings.strict and is_small else sounds
    return lines, held_out


def _held(files: Sequence[SoundFile], frames: int) -> Lines:
    waves = [read_wave(file.path)[None] for file in files]
    return Lines.of(waves, torch.int16, 2 * samples_of_view(frames))


def read_wave(file: Path) -> Int16[np.ndarray, " samples"]:
    """A recording in mono at 22,050 Hz.

    Raises:
        DataError: the file cannot be read, holds nothing, NaN, or silence.
    """
    try:
        import soundfile
    except ImportError as error:
        fix = "pip install 'consilience[audio-music]'"
        raise DataError("soundfile is not installed", fix=fix) from error

    try:
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"cannot be read ({error})", path=file, expected="a sound file") from error
    if len(wave) == 0:
        raise DataError("holds no samples", path=file)
    if not np.isfinite(wave).all():
        raise DataError("holds NaN or infinity", path=file)
    if np.abs(wave).max() < 1e-4:
        raise DataError("silence", path=file, expected="sound", fix="record or render it again")
    mono = torch.from_numpy(wave.mean(1))[None]
    try:
        mono = to_rate(mono, rate)
    except DataError as error:
        raise DataError(error.found, path=file, expected="12 kHz or more") from error
    return as_int16(mono[0]).numpy()


def read_system(file: Path) -> UInt8[np.ndarray, "height width"]:
    """A picture of an unrolled score, in grey.

    Raises:
        DataError: it cannot be read, or is all of one grey.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            if opened.mode.startswith("I;16"):  # convert("L") would cut all greys off at 255
                score = (np.asarray(opened) >> 8).astype(np.uint8)
            elif opened.has_transparency_data:
                # What is transparent is paper, as in the pictures that MuseScore exports.
                paper = Image.new("RGBA", opened.size, "white")
                paper.alpha_composite(opened.convert("RGBA"))
                score = np.asarray(paper.convert("L"))
            else:
                score = np.asarray(opened.convert("L"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        reason = str(error).partition(" '")[0]  # without the path
        raise DataError(f"cannot be read ({reason})", path=file, expected="an image") from error
    if score.min() == score.max():
        raise DataError("an empty page", path=file, expected="a score")
    return score


def _recordings(folder: Path, findings: Findings) -> tuple[list[SoundFile], list[bool]]:
    tables = sorted(folder.glob("maestro*.csv"))
    if tables:
        wanted = _of_maestro(tables[0])
    else:
        files = sound_files_below(folder)
        wanted = [(file, number % _HELD_OUT == 0) for number, file in enumerate(files, start=1)]
    sounds, judges = [], []
    for file, judge in wanted:
        with findings.going_on():
            header = read_sound_header(file)
            if not findings.strict:
                read_wave(file)  # can it be decoded, and is there a sound?
            sounds.append(header)
            judges.append(judge)
    return sounds, judges


def _of_maestro(table: Path) -> list[tuple[Path, bool]]:
    """Files that train or validate, of a table with `split` and `audio_filename`."""
    with table.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    if not rows or {"split", "audio_filename"} - set(rows[0]):
        raise DataError("lacks split or audio_filename", path=table, expected="MAESTRO's table")
    return [
        (table.parent / row["audio_filename"], row["split"] == "validation")
        for row in rows
        if row["split"] in ("train", "validation")
    ]


def _systems(folder: Path, findings: Findings) -> tuple[list[np.ndarray], list[bool]]:
    arrays, judges = [], []
    files = sorted(file for file in folder.rglob("*.png") if not file.name.startswith("."))
    for number, file in enumerate(files, start=1):
        with findings.going_on():
            arrays.append(strip(read_system(file)))
            judges.append(number % _HELD_OUT == 0)
    return arrays, judges
