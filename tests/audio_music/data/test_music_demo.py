import numpy as np
import pytest

from audio_music.data import music_demo
from audio_music.data.music_demo import Piece
from core.data.checks import DataError

pytest.importorskip("music21")


def chorale(name: str, melody: np.ndarray) -> Piece:
    """A melody in quarters over a voice that is held."""
    starts = np.arange(len(melody), dtype=float)
    upper = np.stack([starts, np.ones_like(starts), melody], 1)
    return Piece(name, np.concatenate([[[0.0, 99.0, 40.0]], upper]), 0, "major")


def test_no_two_chorales_have_the_same_melody(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(60, 80, (2, 40))
    # Set anew in another key, with an upbeat, and with two notes changed.
    again = np.concatenate([[66], first + 5])
    again[[4, 9]] += 2
    given = iter([chorale("one", first), chorale("again", again), None, chorale("two", second)])
    monkeypatch.setattr(music_demo, "_chorale", lambda path: next(given, None))
    found = music_demo._chorales(2, np.random.default_rng(0))
    assert [piece.name for piece in found] == ["one", "two"]


def test_more_melodies_than_there_are_cannot_be_asked_for(monkeypatch) -> None:
    melody = np.arange(60, 84)
    monkeypatch.setattr(music_demo, "_chorale", lambda path: chorale("same", melody))
    with pytest.raises(DataError, match="at most 1: "):
        list(music_demo._chorales(2, np.random.default_rng(0)))
