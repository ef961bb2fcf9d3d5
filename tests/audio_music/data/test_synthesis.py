from pathlib import Path

import numpy as np
import pytest

from audio_music.data import synthesis
from audio_music.data.synthesis import (
    Note,
    find_fluidsynth,
    midi_of_notes,
    notes_of_midi,
    render_midi,
    synthesize,
)
from core.data.checks import DataError

RATE = 16000
SCALE = [Note(0.4 * i, 0.38, 60 + i, 90, program) for i, program in enumerate((0, 24, 48, 73))]
SYNTHESIZERS = [
    "additive",
    pytest.param(
        "fluidsynth", marks=pytest.mark.skipif(find_fluidsynth() is None, reason="no fluidsynth")
    ),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


def _pitch_class(wave: np.ndarray) -> int:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 65536))
    return round(69 + 12 * np.log2(spectrum.argmax() * RATE / 65536 / 440)) % 12


@pytest.mark.parametrize("synthesizer", SYNTHESIZERS)
def test_notes_sound_when_and_as_high_as_they_are_written(synthesizer: str) -> None:
    wave = render_midi(midi_of_notes(SCALE), RATE, synthesizer=synthesizer)
    assert wave.dtype == np.float32
    assert np.abs(wave).max() == pytest.approx(0.8, abs=1e-3)
    assert 1.58 * RATE < len(wave) < 2.1 * RATE
    for note in SCALE:
        start = int((note.start + 0.05) * RATE)
        assert _pitch_class(wave[start : start + int(0.3 * RATE)]) == note.pitch % 12


@pytest.mark.parametrize("synthesizer", SYNTHESIZERS)
def test_another_program_and_another_speed(synthesizer: str) -> None:
    midi = midi_of_notes(SCALE)
    flute = render_midi(midi, RATE, program=73, synthesizer=synthesizer)
    assert not np.allclose(flute, render_midi(midi, RATE, synthesizer=synthesizer)[: len(flute)])
    fast = render_midi(midi, RATE, program=73, synthesizer=synthesizer, tempo=2)
    assert len(flute) - len(fast) == pytest.approx(0.79 * RATE, abs=0.03 * RATE)
    assert _pitch_class(fast[int(0.7 * RATE) : int(0.79 * RATE)]) == 3


def test_midi_keeps_the_notes() -> None:
    chord = [Note(0.1, 0.5, 64, 70, 40), Note(0.1, 0.25, 67, 71, 40), Note(0.35, 0.1, 67, 72, 0)]
    again = notes_of_midi(midi_of_notes(chord))
    assert sorted(again) == [pytest.approx(note, abs=1e-3) for note in sorted(chord)]


def test_a_rendering_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    midi = midi_of_notes(SCALE)
    first = render_midi(midi, RATE, synthesizer="additive")
    monkeypatch.setattr(synthesis, "synthesize", lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(render_midi(midi, RATE, synthesizer="additive"), first)


def test_without_fluidsynth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis.shutil, "which", lambda _: None)
    midi = midi_of_notes(SCALE)
    additive = render_midi(midi, RATE, synthesizer="additive")
    np.testing.assert_array_equal(render_midi(midi, RATE), additive)
    with pytest.raises(DataError, match="apt-get install fluidsynth fluid-soundfont-gm"):
        render_midi(midi, RATE, synthesizer="fluidsynth")


def test_what_cannot_be_rendered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as MIDI"):
        render_midi(b"RIFF", RATE)
    with pytest.raises(DataError, match=r"none\.mid: cannot be read"):
        render_midi(tmp_path / "none.mid", RATE)
    with pytest.raises(DataError, match="holds no note"):
        render_midi(midi_of_notes([]), RATE)
    with pytest.raises(DataError, match="no note to play"):
        synthesize([], RATE)
    with pytest.raises(DataError, match="no such soundfont"):
        find_fluidsynth(tmp_path / "none.sf2")
