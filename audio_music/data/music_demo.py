"""A demo data set of music with labels from the score: chorales, or chords that are made up."""

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from audio_music.data.engraving import same_melody
from audio_music.data.synthesis import (
    INSTALL,
    Note,
    Synthesizer,
    find_fluidsynth,
    midi_of_notes,
    render_midi,
    synthesize,
)
from audio_music.keys import NAMES, key_name
from core.data.cache import cached
from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from core.data.samples import SPLITS

# General MIDI programs of the four instruments.
INSTRUMENTS = {0: "piano", 6: "harpsichord", 19: "organ", 24: "guitar"}
_VERSION = 1  # of the reading of scores, for the cache
_SOUNDING = 0.1  # seconds of a note within a clip from which its pitch class counts
_SHARES = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class Piece:
    """A score as numbers.

    Attributes:
        name: of the piece.
        notes: (n, 3) start and length in quarters, MIDI pitch.
        tonic: 0 to 11 from C.
        mode: major or minor.
    """

    name: str
    notes: Float[np.ndarray, "n 3"]
    tonic: int
    mode: str


def write_music_demo(
    path: str | Path,
    source: Literal["auto", "chorales", "chords"] = "auto",
    synthesizer: Synthesizer = "auto",
    pieces: int = 60,
    clips: int = 20,
    seconds: float = 1.0,
    rate: int = 24000,
    seed: int = 0,
) -> None:
    """Writes `audio/PIECE_NN.wav` and train.jsonl, valid.jsonl, test.jsonl as MARBLE's are.

    Every piece is played by piano, harpsichord, organ or guitar at 70 to 130 quarters a minute and
    cut into clips from its beginning. A line has the clip's `pitch_classes` (those that sound for
    0.1 s at least), `instrument` and `beats` (seconds), and the piece's `key`, `tempo` and `group`.
    Pieces, not clips, are split, and no two have the same melody.

    Args:
        path: the folder; it appears complete or not at all, an earlier demo there is replaced.
        source: `chorales`: Bach's, from the corpus of music21; `chords`: made-up progressions in
            four voices; `auto`: chorales where music21 is installed.
        synthesizer: see `audio_music.data.synthesis.render_midi`.
        pieces: how many.
        clips: of a piece, at most.
        seconds: length of a clip.
        rate: of the files, in Hz.
        seed: of choice, instruments, tempi and splits.

    Raises:
        DataError: music21 or fluidsynth were asked for and are missing, there are not so many
            chorales, or `path` is something other than an empty folder or a demo.
    """
    if source == "auto":
        source = "chorales" if find_spec("music21") else "chords"
    if source not in ("chorales", "chords"):
        raise DataError(f"demo.source={source}", expected="auto, chorales or chords")
    synthesizer = _chosen(synthesizer)
    own = {"audio", *(f"{split}.jsonl" for split in SPLITS)}
    about = {"generator": "music", "source": source, "synthesizer": synthesizer, "seed": seed}
    rng = np.random.default_rng(seed)
    find = _chorales if source == "chorales" else _chords
    with demo_folder(Path(path), own, about) as folder:
        (folder / "audio").mkdir()
        lines: dict[str, list[str]] = {split: [] for split in SPLITS}
        bounds = np.cumsum(_SHARES)[:2] * pieces
        for number, piece in enumerate(find(pieces, rng)):
            split = SPLITS[int((number + 0.5 > bounds).sum())]
            for line in _written(folder, piece, rng, synthesizer, clips, seconds, rate):
                lines[split].append(json.dumps(line))
        for split, own_lines in lines.items():
            (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in own_lines))


def _chosen(synthesizer: Synthesizer) -> Synthesizer:
    """What `auto` means here."""
    if synthesizer != "auto":
        return synthesizer
    if find_fluidsynth() is not None and find_spec("mido"):
        return "fluidsynth"
    warnings.warn(
        "fluidsynth, a soundfont or mido is missing, so a built-in synthesiser plays; for "
        f"sampled instruments {INSTALL.partition(';')[0]}, and pip install 'consilience[scores]'",
        stacklevel=2,
    )
    return "additive"


def _written(
    folder: Path,
    piece: Piece,
    rng: np.random.Generator,
    synthesizer: Synthesizer,
    clips: int,
    seconds: float,
    rate: int,
) -> Iterator[dict[str, Any]]:
    """Writes the clips of one piece and gives their lines."""
    import soundfile

    program = int(rng.choice(list(INSTRUMENTS)))
    tempo = float(np.round(rng.uniform(70, 130), 1))
    quarter = 60 / tempo
    starts, lengths = piece.notes[:, 0] * quarter, piece.notes[:, 1] * quarter
    is_played = starts < clips * seconds
    notes = [
        # Voices that meet on a note are let go before it is struck again.
        Note(start, 0.95 * length, int(pitch), int(rng.integers(70, 96)), program)
        for start, length, pitch in zip(starts, lengths, piece.notes[:, 2], strict=True)
        if start < clips * seconds
    ]
    if synthesizer == "additive":
        wave = synthesize(notes, rate)
    else:
        wave = render_midi(midi_of_notes(notes), rate, synthesizer=synthesizer)
    ends = starts + 0.95 * lengths
    pitch_class = piece.notes[:, 2].astype(int) % 12
    n_clips = min(clips, int(ends[is_played].max() / seconds))
    for clip in range(n_clips):
        begin, end = clip * seconds, (clip + 1) * seconds
        part = wave[round(begin * rate) : round(end * rate)]
        name = f"audio/{piece.name}_{clip:02d}.wav"
        soundfile.write(folder / name, part, rate, subtype="PCM_16")
        overlap = np.minimum(ends, end) - np.maximum(starts, begin)
        heard = sorted(set(pitch_class[overlap >= min(_SOUNDING, seconds)].tolist()))
        beats = np.arange(np.ceil(begin / quarter - 1e-9), end / quarter) * quarter - begin
        yield {
            "audio_path": name,
            "sample_rate": rate,
            "num_samples": len(part),
            "group": piece.name,
            "key": key_name(piece.tonic, piece.mode),
            "pitch_classes": [NAMES[of] for of in heard],
            "instrument": INSTRUMENTS[program],
            "tempo": tempo,
            "beats": [abs(round(float(beat), 4)) for beat in beats if beat < seconds],
        }


def _chorales(pieces: int, rng: np.random.Generator) -> Iterator[Piece]:
    if find_spec("music21") is None:
        fix = "pip install 'consilience[scores]', or demo.source=chords"
        raise DataError("music21, whose corpus has the chorales, is not installed", fix=fix)
    from music21 import corpus

    found = sorted(p for p in corpus.getComposer("bach") if Path(p).name.startswith("bwv"))
    # Some works have many movements; the number of the work and of the movement make the name.
    if pieces > len(found):
        raise DataError(f"demo.pieces={pieces}", expected=f"at most {len(found)} chorales")
    known: list[list[int]] = []
    for number in rng.permutation(len(found)).tolist():
        piece = _chorale(Path(found[number]))
        if piece is None:
            continue
        melody = _upper_voice(piece.notes)
        if any(same_melody(melody, other) for other in known):
            continue  # the same chorale, set anew, would be in two splits
        yield piece
        known.append(melody)
        if len(known) == pieces:
            return
    raise DataError(
        f"demo.pieces={pieces}",
        expected=f"at most {len(known)}: so many chorales have four voices and a melody of their "
        "own",
    )


def _upper_voice(notes: Float[np.ndarray, "n 3"], beats: int = 24) -> list[int]:
    """The highest pitch that sounds on each quarter, from the first note on; -1 in a rest."""
    start, end, pitch = notes[:, 0], notes[:, 0] + notes[:, 1], notes[:, 2]
    times = start.min() + np.arange(beats)[:, None] + 1e-6
    return np.where((start <= times) & (times < end), pitch, -1).max(1).astype(int).tolist()


def _chorale(path: Path) -> Piece | None:
    """The notes of a score, from the cache where it was read before; None without four voices."""

    def read() -> dict[str, torch.Tensor]:
        from music21 import converter

        score = converter.parse(path)
        sounding = score.stripTies()
        rows = [
            (float(note.getOffsetInHierarchy(sounding)), float(note.quarterLength), pitch.midi)
            for note in sounding.recurse().notes
            for pitch in note.pitches
            if note.quarterLength > 0
        ]
        key = score.analyze("key")
        about = [key.tonic.pitchClass, int(key.mode == "minor"), len(score.parts)]
        return {"notes": torch.tensor(rows).double(), "about": torch.tensor(about)}

    name = path.name.removesuffix(path.suffix).replace(".", "_")
    content = cached("chorales", f"{_VERSION} {path.name} {path.stat().st_size}", read)[0]
    tonic, is_minor, parts = content["about"].tolist()
    if parts < 4 or len(content["notes"]) < 60:
        return None
    return Piece(name, content["notes"].numpy(), tonic, "minor" if is_minor else "major")


# Steps of the scale on which the chords of a progression stand.
_PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 1, 4, 0), (5, 3, 0, 4), (0, 2, 3, 4))
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}


def _chords(pieces: int, rng: np.random.Generator) -> Iterator[Piece]:
    """Progressions of four voices, whose upper one moves in eighths now and then."""
    for number in range(pieces):
        tonic, mode = int(rng.integers(12)), str(rng.choice(list(_SCALES)))
        scale, rows = _SCALES[mode], []
        for bar in range(16):
            chord = 0 if bar == 15 else int(rng.choice(_PROGRESSIONS[number % 5]))
            for beat in (0.0, 2.0):
                for voice, step in enumerate((0, 0, 2, 4)):
                    pitch = _pitch(tonic, scale, chord + step, 36 if voice == 0 else 48)
                    rows.append((4 * bar + beat, 2.0, pitch))
            rows += _melody(rng, tonic, scale, chord, bar)
        yield Piece(f"piece{number:03d}", np.array(rows, np.float64), tonic, mode)


def _melody(
    rng: np.random.Generator, tonic: int, scale: Sequence[int], chord: int, bar: int
) -> list[tuple[float, float, int]]:
    rows, beat, step = [], 0.0, chord + 7 + int(rng.choice((0, 2, 4)))
    while beat < 4:
        length = float(rng.choice((0.5, 1.0, 1.0)))
        length = min(length, 4 - beat)
        rows.append((4 * bar + beat, length, _pitch(tonic, scale, step, 48)))
        step += int(rng.choice((-1, 1)))
        beat += length
    return rows


def _pitch(tonic: int, scale: Sequence[int], step: int, octave: int) -> int:
    return octave + tonic + 12 * (step // 7) + scale[step % 7]
