"""A demo data set of scores and performances, in the files of MSMD's preparation.

Pairs of clean engraving and a clean piano teach, others validate; scanned scores and recordings in
a room, by other fonts and instruments, test. Scores and sound of that kind are there without pairs
too, for pre-training: `pretraining/scores/*.png`, `pretraining/audio/*.wav`. No two pieces share a
melody.
"""

import csv
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float, UInt8

from audio_music.data import engraving, plain_engraving
from audio_music.data.engraving import FONTS, Engraving
from audio_music.data.log_filterbank import FPS, RATE, LogFilterbank
from audio_music.data.score_files import Performance, Piece, write_piece
from audio_music.data.synthesis import (
    INSTALL,
    Note,
    Synthesizer,
    find_fluidsynth,
    midi_of_notes,
    render_midi,
    synthesize,
)
from core.data.checks import DataError
from core.data.demo_folder import demo_folder

Engraver = Literal["auto", "verovio", "plain"]
_TEMPI = (0.9, 1.1)
_CLEAN_PROGRAM, _REAL_PROGRAMS = 0, (2, 5, 6)  # grand piano; electric pianos, harpsichord
_LEAD, _TAIL = 0.5, 1.0  # seconds of silence before and after the music


@dataclass(frozen=True)
class Played:
    """A performance as it sounds.

    Attributes:
        name: tempo and sound.
        wave: mono, at `RATE`.
        onsets: seconds of every notehead's onset, in the order of the engraving's noteheads.
    """

    name: str
    wave: Float[np.ndarray, " samples"]
    onsets: Float[np.ndarray, " noteheads"]


def write_scores(
    path: str | Path,
    seed: int = 0,
    n_train: int = 20,
    n_valid: int = 8,
    n_test: int = 16,
    n_unpaired: int = 30,
    n_performances: int = 2,
    even_paper: bool = False,
    engraver: Engraver = "auto",
    synthesizer: Synthesizer = "auto",
) -> None:
    """Writes `<piece>.npz`, `all_split.yaml`, `recordings/`, `pages/` and `pretraining/`.

    `recordings/<performance>.wav` is what the first performance of a piece sounds like, and
    `pages/<piece>-1.png` its score on pages; `pages/<piece>.csv` says where on them each notehead
    of the unrolled system is.
    The folder appears complete or not at all; an earlier demo in its place is replaced.

    Args:
        path: the folder.
        seed: of the choice of pieces and of how they are played.
        n_train: clean pieces with pairs.
        n_valid: likewise, for validation.
        n_test: pieces as scanned and recorded.
        n_unpaired: such pieces without pairs.
        n_performances: of each training piece, at tempi of 0.9 to 1.1.
        even_paper: all scans are on the same grey, equally blurred and noisy; otherwise each has
            its own, by which, in a collection as small as this one, pre-training tells snippets
            apart without reading a note.
        engraver: `verovio`: Bach's chorales from music21's corpus; `plain`: random music by the
            built-in engraver; `auto`: verovio where it is installed.
        synthesizer: `fluidsynth`, `additive`, or fluidsynth where it is installed (`auto`).

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable; a
            program that was asked for is missing; there are not so many pieces.
    """
    random = np.random.default_rng(seed)
    engraver, synthesizer = _chosen(engraver, synthesizer)
    sizes = {"train": n_train, "valid": n_valid, "test": n_test, "unpaired": n_unpaired}
    about = {"generator": "scores", "seed": seed, "engraver": engraver}
    own = {"all_split.yaml", "pages", "recordings", "pretraining"}
    own |= {file.name for file in Path(path).glob("*.npz")} if _is_demo(Path(path)) else set()
    names: dict[str, list[str]] = {split: [] for split in ("train", "valid", "test")}
    with demo_folder(Path(path), own, about) as folder:
        for name in ("pages", "recordings", "pretraining/audio", "pretraining/scores"):
            (folder / name).mkdir(parents=True)
        pieces = _engraved(engraver, sizes, seed, random)
        for split, piece in pieces:
            real = split in ("test", "unpaired")
            tempi = random.uniform(*_TEMPI, n_performances if split == "train" else 1)
            played = [play(piece, tempo, real, random, synthesizer) for tempo in tempi]
            score = scan(piece.unrolled, random, even_paper) if real else piece.unrolled
            if split == "unpaired":
                _write_unpaired(folder / "pretraining", piece.name, score, played[0])
                continue
            names[split].append(piece.name)
            write_piece(folder, prepared(piece, score, played))
            _write_wave(folder / "recordings" / f"{played[0].name}.wav", played[0].wave)
            _write_pages(folder / "pages", piece)
        (folder / "all_split.yaml").write_text(yaml.safe_dump(names))


def _chosen(engraver: Engraver, synthesizer: Synthesizer) -> tuple[Engraver, Synthesizer]:
    """What this machine has, in place of `auto`."""
    if engraver not in ("auto", "verovio", "plain"):
        raise DataError(f"demo.engraver={engraver}", expected="auto, verovio or plain")
    if engraver == "auto" and not engraving.is_installed():
        warnings.warn(
            "music21, verovio or resvg-py is missing, so a built-in engraver writes random music; "
            "for chorales, pip install 'consilience[scores]'",
            stacklevel=3,
        )
        engraver = "plain"
    if synthesizer == "auto" and (find_fluidsynth() is None or not find_spec("mido")):
        warnings.warn(
            "fluidsynth, a soundfont or mido is missing, so a built-in synthesiser plays; for "
            f"sampled instruments {INSTALL.partition(';')[0]}",
            stacklevel=3,
        )
        synthesizer = "additive"
    engraver = "verovio" if engraver == "auto" else engraver
    return engraver, "fluidsynth" if synthesizer == "auto" else synthesizer


def _is_demo(path: Path) -> bool:
    return (path / "demo.json").is_file()


def _engraved(
    engraver: Engraver, sizes: dict[str, int], seed: int, random: np.random.Generator
) -> Iterator[tuple[str, Engraving]]:
    """As many pieces of every split as wanted; those that are to look scanned in other fonts."""
    splits = [split for split, size in sizes.items() for _ in range(size)]
    if engraver == "plain":
        for number, split in enumerate(splits):
            name = f"random-{seed}-{number:03}"
            yield split, plain_engraving.engrave_random(name, 1000 * seed + number)
        return
    known: list[tuple[int, ...]] = []
    names = iter(random.permutation(engraving.chorales()).tolist())
    for split in splits:
        for name in names:
            score = engraving.parse(name)
            if score is None:
                continue
            melody = engraving.melody(score)
            if any(engraving.same_melody(melody, other) for other in known):
                continue
            known.append(melody)
            fonts = FONTS[1:] if split in ("test", "unpaired") else FONTS[:1]
            font = fonts[int(random.integers(len(fonts)))]
            yield split, engraving.engrave(score, name, font, with_pages=split != "unpaired")
            break
        else:
            raise DataError(
                f"music21's corpus has {len(known)} chorales of different melodies",
                expected=f"{len(splits)}, as asked for",
                fix="ask for fewer pieces",
            )


def play(
    piece: Engraving,
    tempo: float,
    real: bool,
    random: np.random.Generator,
    synthesizer: Synthesizer = "auto",
) -> Played:
    """A performance of a piece: its tempo, loudness of every note, instrument and room.

    Args:
        piece: what is played.
        tempo: factor of the written speed.
        real: by one of other instruments, in a room, with hiss.
        random: of loudness, instrument and room.
        synthesizer: see `audio_music.data.synthesis`.
    """
    program = int(random.choice(_REAL_PROGRAMS)) if real else _CLEAN_PROGRAM
    onsets = np.array([_LEAD + head.onset / tempo for head in piece.noteheads])
    loudness = np.clip(random.normal(75, 10, len(onsets)).round(), 30, 120).astype(int)
    notes = [
        Note(float(onset), head.seconds / tempo, head.pitch, int(velocity), program)
        for onset, head, velocity in zip(onsets, piece.noteheads, loudness, strict=True)
        if head.seconds > 0
    ]
    if synthesizer == "additive":
        wave = synthesize(notes, RATE)
    else:
        wave = render_midi(midi_of_notes(notes), RATE, synthesizer=synthesizer)
    wave = np.pad(wave, (0, round(_TAIL * RATE)))
    name = f"{piece.name}_tempo-{round(1000 * tempo)}_program-{program}"
    return Played(name, in_a_room(wave, random) if real else wave, onsets)


def in_a_room(
    wave: Float[np.ndarray, " samples"], random: np.random.Generator
) -> Float[np.ndarray, " samples"]:
    """Reverberation of 0.3 to 0.8 s that is as loud as half the sound, and hiss."""
    from scipy.signal import fftconvolve

    seconds = random.uniform(0.3, 0.8)
    time = np.arange(int(seconds * RATE)) / RATE
    tail = random.normal(size=len(time)) * np.exp(-6.9 * time / seconds)
    late = fftconvolve(wave, tail / np.linalg.norm(tail))[: len(wave)]
    late *= 0.5 * np.abs(wave).max() / np.abs(late).max()
    heard = wave + late + random.normal(0, 0.01, len(wave))
    return (0.8 * heard / np.abs(heard).max()).astype(np.float32)


def scan(
    score: UInt8[np.ndarray, "height width"], random: np.random.Generator, even: bool = False
) -> UInt8[np.ndarray, "height width"]:
    """A printed score as a scanner sees it: grey uneven paper, blurred print, noise.

    With `even` paper, the mean grey, the blur and the noise are always the same.
    """
    from scipy.ndimage import gaussian_filter

    blur, grey, noise = (
        (low + high) / 2 if even else random.uniform(low, high)
        for low, high in ((0.6, 1.1), (200, 235), (6, 14))
    )
    print_ = gaussian_filter(score.astype(np.float32), blur)
    coarse = random.normal(0, 1, (score.shape[0] // 40 + 2, score.shape[1] // 40 + 2))
    uneven = np.kron(coarse, np.ones((40, 40)))[: score.shape[0], : score.shape[1]]
    paper = grey + 6 * gaussian_filter(uneven, 20)
    seen = print_ / 255 * (paper - 30) + 30 + random.normal(0, noise, score.shape)
    return np.clip(seen, 0, 255).astype(np.uint8)


def prepared(
    piece: Engraving, score: UInt8[np.ndarray, "height width"], played: list[Played]
) -> Piece:
    """Score and performances with their alignment: one row for every time at which notes begin.

    Notes that a tie continues begin nothing.
    """
    spectrogram = LogFilterbank()
    struck = np.array([head.seconds > 0 for head in piece.noteheads])
    columns = np.array([head.x for head in piece.noteheads])
    performances = []
    for one in played:
        frames = spectrogram(torch.from_numpy(one.wave).float()[None])[0].numpy()
        rows = []
        for onset in np.unique(one.onsets[struck]):
            at = columns[struck & (one.onsets == onset)]
            # The lower median: a column between two noteheads would hold neither.
            rows.append((round(onset * FPS), round(float(np.sort(at)[(len(at) - 1) // 2]))))
        performances.append(Performance(one.name, frames, np.array(rows, np.int64)))
    return Piece(piece.name, score, performances)


def _write_unpaired(folder: Path, name: str, score: np.ndarray, played: Played) -> None:
    from PIL import Image

    Image.fromarray(score).save(folder / "scores" / f"{name}-unrolled_score.png")
    _write_wave(folder / "audio" / f"{played.name}.wav", played.wave)


def _write_wave(file: Path, wave: np.ndarray) -> None:
    from scipy.io.wavfile import write

    write(file, RATE, (wave * 32767).round().astype(np.int16))


def _write_pages(folder: Path, piece: Engraving) -> None:
    """The pages as pictures, and where each notehead of the unrolled system is on them."""
    from PIL import Image

    for number, page in enumerate(piece.pages, start=1):
        Image.fromarray(page).save(folder / f"{piece.name}-{number}.png")
    with (folder / f"{piece.name}.csv").open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["x", "page", "page_x", "page_y"])
        for head in piece.noteheads:
            place = (head.page_x, head.page_y)
            rows.writerow([round(head.x), head.page + 1, *(round(value) for value in place)])
