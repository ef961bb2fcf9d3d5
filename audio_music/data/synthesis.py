"""MIDI and notes to sound: by fluidsynth where it is installed, else by a built-in synthesiser."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from core.data.cache import cached
from core.data.checks import DataError

if TYPE_CHECKING:
    from mido import MidiFile

Synthesizer = Literal["auto", "fluidsynth", "additive"]
Wave = Float[np.ndarray, " samples"]

INSTALL = (
    "install both, on Debian and Ubuntu by `apt-get install fluidsynth fluid-soundfont-gm`, on a "
    "Mac by `brew install fluid-synth` with a General MIDI .sf2 in ~/.soundfonts; or choose "
    "synthesizer=additive"
)
_SOUNDFONTS = (
    "~/.soundfonts",
    "/usr/share/sounds/sf2",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
)
_PEAK = 0.8  # of what is rendered
_VERSION = 1  # of the rendering, for the cache
_DRUMS = 9  # the channel of General MIDI's percussion


class Note(NamedTuple):
    """One sounding note.

    Attributes:
        start: seconds.
        seconds: how long the key is held.
        pitch: MIDI number, 69 is A at 440 Hz.
        velocity: 1 to 127.
        program: General MIDI instrument, 0 to 127.
    """

    start: float
    seconds: float
    pitch: int
    velocity: int = 80
    program: int = 0


class _Voice(NamedTuple):
    """How an instrument of the built-in synthesiser sounds.

    Attributes:
        slope: the n-th partial has the amplitude n^-slope.
        even: factor of the even partials.
        attack: seconds until the note is at its loudest.
        decay: seconds in which it falls to 1/e while held; None stays.
        vibrato: deviation of the pitch, as a share.
    """

    slope: float
    even: float
    attack: float
    decay: float | None
    vibrato: float = 0.0


# One a family of eight General MIDI programs.
_VOICES = (
    _Voice(1.6, 1.0, 0.004, 0.9),  # piano
    _Voice(2.4, 0.3, 0.002, 0.35),  # chromatic percussion
    _Voice(1.1, 0.7, 0.015, None),  # organ
    _Voice(1.2, 0.8, 0.003, 0.5),  # guitar
    _Voice(1.9, 0.8, 0.006, 0.7),  # bass
    _Voice(1.0, 1.0, 0.06, None, 0.004),  # strings
    _Voice(1.3, 0.9, 0.08, None, 0.003),  # ensemble
    _Voice(0.9, 1.0, 0.03, None, 0.001),  # brass
    _Voice(1.0, 0.15, 0.02, None, 0.001),  # reed
    _Voice(2.6, 0.4, 0.04, None, 0.003),  # pipe
    _Voice(1.0, 0.0, 0.01, None),  # synth lead
    _Voice(1.5, 1.0, 0.15, None, 0.002),  # synth pad
    _Voice(1.4, 0.6, 0.1, 1.5),  # effects
    _Voice(1.1, 0.9, 0.003, 0.4),  # plucked instruments of many places
    _Voice(0.6, 0.9, 0.001, 0.12),  # percussive
    _Voice(0.4, 1.0, 0.05, 0.8),  # sounds
)
_PARTIALS = 12
_RELEASE = 0.06  # seconds
_TAIL = 0.5  # seconds after the last note


def find_fluidsynth(soundfont: str | Path | None = None) -> tuple[str, Path] | None:
    """The program and a General MIDI soundfont, or None where one of them is missing.

    Args:
        soundfont: a .sf2 or .sf3 file; None looks where systems keep them.

    Raises:
        DataError: the soundfont that was named is not there.
    """
    program = shutil.which("fluidsynth")
    if soundfont is not None:
        found = Path(soundfont).expanduser()
        if not found.is_file():
            raise DataError("no such soundfont", path=found, expected="a .sf2 or .sf3 file")
        return (program, found) if program else None
    files = [
        file
        for folder in _SOUNDFONTS
        for pattern in ("*.sf2", "*.sf3")
        for file in sorted(Path(folder).expanduser().glob(pattern))
    ]
    return (program, files[0]) if program and files else None


def render_midi(
    midi: bytes | str | Path,
    rate: int,
    program: int | None = None,
    *,
    synthesizer: Synthesizer = "auto",
    soundfont: str | Path | None = None,
    reverb: bool = False,
    tempo: float = 1.0,
) -> Wave:
    """The sound of a MIDI file; kept in the user's cache, so that it is computed once.

    Args:
        midi: the file, or its bytes.
        rate: samples a second.
        program: General MIDI instrument that plays everything but drums; None as the file says.
        synthesizer: `fluidsynth` with a soundfont; `additive`: sums of partials, without any other
            program; `auto`: fluidsynth where it is there.
        soundfont: of fluidsynth.
        reverb: with fluidsynth's room and chorus.
        tempo: factor of the speed.

    Returns:
        (n,) float32, mono, with its peak at 0.8, and at most half a second after the last note.

    Raises:
        DataError: the file is no MIDI, holds no note, or fluidsynth was asked for and is missing or
            fails.
    """
    content = midi if isinstance(midi, bytes) else _read(Path(midi))
    path = None if isinstance(midi, bytes) else Path(midi)
    found = None if synthesizer == "additive" else find_fluidsynth(soundfont)
    if synthesizer == "fluidsynth" and found is None:
        raise DataError("fluidsynth or a soundfont is missing on this machine", fix=INSTALL)
    font = "" if found is None else f"{found[1]} {found[1].stat().st_size}"
    key = f"{_VERSION} {sha256(content).hexdigest()} {rate} {program} {font} {reverb} {tempo}"

    def render() -> dict[str, torch.Tensor]:
        changed = _changed(content, path, program, tempo)
        if found is None:
            wave = synthesize(_notes(changed), rate)
        else:
            wave = _by_fluidsynth(*found, _written(changed), rate, reverb)
            # Fluidsynth goes on for seconds after the last note.
            end = max(note.start + note.seconds for note in _notes(changed)) + _TAIL
            wave = wave[: int(end * rate)]
        return {"wave": torch.from_numpy((wave * 32767).round().astype(np.int16))}

    return cached("renderings", key, render)[0]["wave"].numpy().astype(np.float32) / 32768


def notes_of_midi(midi: bytes | str | Path) -> list[Note]:
    """All notes of a MIDI file, without drums, by their start.

    Raises:
        DataError: the file is no MIDI or holds no note.
    """
    content = midi if isinstance(midi, bytes) else _read(Path(midi))
    path = None if isinstance(midi, bytes) else Path(midi)
    return _notes(_changed(content, path, None, 1.0))


def midi_of_notes(notes: Sequence[Note]) -> bytes:
    """A MIDI file that sounds the notes, one channel a program.

    Times are kept to a millisecond.

    Raises:
        DataError: there are more than 15 programs.
    """
    import mido

    programs = sorted({note.program for note in notes})
    channels = [channel for channel in range(16) if channel != _DRUMS]
    if len(programs) > len(channels):
        raise DataError(f"{len(programs)} programs", expected=f"at most {len(channels)}")
    channel_of = dict(zip(programs, channels, strict=False))
    file = mido.MidiFile(ticks_per_beat=1000)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=1_000_000))
    for program, channel in channel_of.items():
        track.append(mido.Message("program_change", channel=channel, program=program))
    events: list[tuple[int, int, str, Note]] = []
    for note in notes:
        start = round(1000 * note.start)
        end = max(round(1000 * (note.start + note.seconds)), start + 1)
        # A key that is struck again is let go first.
        events += [(start, 1, "note_on", note), (end, 0, "note_off", note)]
    now = 0
    for tick, _, kind, note in sorted(events, key=lambda event: event[:2]):
        channel, velocity = channel_of[note.program], note.velocity
        message = mido.Message(kind, note=note.pitch, channel=channel, velocity=velocity)
        track.append(message.copy(time=tick - now))
        now = tick
    return _written(file)


def synthesize(notes: Sequence[Note], rate: int) -> Wave:
    """Sums of decaying partials, by the family of the program; needs no other program.

    Returns:
        (n,) float32, mono, with its peak at 0.8.

    Raises:
        DataError: there is no note.
    """
    if not notes:
        raise DataError("there is no note to play")
    end = max(note.start + note.seconds for note in notes)
    wave = np.zeros(int((end + 4 * _RELEASE) * rate) + 1, np.float64)
    for note in notes:
        sound = _sound(note, rate)
        start = round(note.start * rate)
        sound = sound[: len(wave) - start]
        wave[start : start + len(sound)] += sound
    return _at_peak(wave)


def _sound(note: Note, rate: int) -> Wave:
    voice = _VOICES[note.program // 8]
    time = np.arange(int((note.seconds + 4 * _RELEASE) * rate)) / rate
    frequency = 440 * 2 ** ((note.pitch - 69) / 12)
    bend = voice.vibrato * np.cos(2 * np.pi * 5.5 * time) / (2 * np.pi * 5.5)
    phase = 2 * np.pi * frequency * (time - bend)
    # The programs of a family differ in how fast their partials fall.
    slope = voice.slope * (1 + 0.06 * (note.program % 8))
    sound = np.zeros_like(time)
    for partial in range(1, min(_PARTIALS, int(0.45 * rate / frequency)) + 1):
        amplitude = partial**-slope * (voice.even if partial % 2 == 0 else 1)
        if voice.decay is not None:  # of strings that are struck, high partials die first
            amplitude = amplitude * np.exp(-time * (1 + 0.3 * (partial - 1)) / voice.decay)
        sound += amplitude * np.sin(partial * phase)
    held = np.minimum(time / voice.attack, 1)
    released = np.exp(-np.maximum(time - note.seconds, 0) / (0.4 * _RELEASE))
    return sound * held * released * (note.velocity / 127) ** 1.5


def _by_fluidsynth(program: str, soundfont: Path, midi: bytes, rate: int, reverb: bool) -> Wave:
    from soundfile import LibsndfileError, read

    effects = "1" if reverb else "0"
    with tempfile.TemporaryDirectory() as folder:
        score, out = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        score.write_bytes(midi)
        command = [program, "-ni", "-q", "-R", effects, "-C", effects, "-g", "0.5", "-r", str(rate)]
        command += ["-T", "wav", "-O", "s16", "-F", str(out), str(soundfont), str(score)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            wave = read(out, dtype="float32", always_2d=True)[0].mean(1)
        except LibsndfileError:
            said = (run.stderr or run.stdout).strip().splitlines()
            raise DataError(
                f"fluidsynth wrote nothing ({said[-1][:200] if said else run.returncode})",
                path=soundfont,
                fix="try another soundfont, or synthesizer=additive",
            ) from None
    return _at_peak(wave.astype(np.float64))


def _at_peak(wave: Wave) -> Wave:
    peak = np.abs(wave).max(initial=0)
    return (wave * (_PEAK / peak if peak else 1)).astype(np.float32)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None


def _changed(content: bytes, path: Path | None, program: int | None, tempo: float) -> "MidiFile":
    """The file with another instrument and speed."""
    try:
        import mido
    except ImportError as error:
        fix = "pip install 'consilience[scores]'"
        raise DataError("MIDI files are read with mido, which is not installed", fix=fix) from error

    try:
        file = mido.MidiFile(file=io.BytesIO(content), clip=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot be read as MIDI ({reason})", path=path) from error
    if not any(m.type == "note_on" and m.velocity for track in file.tracks for m in track):
        raise DataError("holds no note", path=path, expected="a MIDI file with notes")
    has_tempo = any(m.type == "set_tempo" for track in file.tracks for m in track)
    if tempo != 1 and not has_tempo:
        file.tracks[0].insert(0, mido.MetaMessage("set_tempo", tempo=500_000))
    for track in file.tracks:
        for message in track:
            if message.type == "set_tempo":
                message.tempo = round(message.tempo / tempo)
            elif message.type == "program_change" and program is not None:
                message.program = program
    if program is not None:
        for channel in range(16):
            if channel != _DRUMS:
                first = mido.Message("program_change", channel=channel, program=program)
                file.tracks[0].insert(0, first)
    return file


def _written(file: "MidiFile") -> bytes:
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _notes(file: "MidiFile") -> list[Note]:
    programs = [0] * 16
    held: dict[tuple[int, int], list[tuple[float, int]]] = {}
    notes, now = [], 0.0
    for message in file:
        now += message.time
        if message.type == "program_change":
            programs[message.channel] = message.program
        if message.type not in ("note_on", "note_off") or message.channel == _DRUMS:
            continue
        key = (message.channel, message.note)
        if message.type == "note_on" and message.velocity:
            held.setdefault(key, []).append((now, message.velocity))
        elif held.get(key):
            start, velocity = held[key].pop(0)
            program = programs[message.channel]
            notes.append(Note(start, now - start, message.note, velocity, program))
    return sorted(notes)
