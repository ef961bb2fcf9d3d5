from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.io import wavfile
from scipy.signal import find_peaks, stft

from audio_music.data import engraving, plain_engraving, scores_demo
from audio_music.data.engraving import Engraving, Notehead
from audio_music.data.log_filterbank import FPS, RATE
from audio_music.data.score_files import read_piece
from audio_music.data.scores_demo import (
    Played,
    _engraved,
    in_a_room,
    play,
    prepared,
    scan,
    write_scores,
)
from audio_music.data.synthesis import find_fluidsynth
from core.data.checks import DataError
from tests.audio_music.scores import SIZES

needs_verovio = pytest.mark.skipif(not engraving.is_installed(), reason="music21 or verovio absent")
needs_fluidsynth = pytest.mark.skipif(find_fluidsynth() is None, reason="fluidsynth is absent")


@pytest.fixture(scope="module")
def plain() -> Engraving:
    return plain_engraving.engrave_random("random", 3)


@pytest.fixture(scope="module")
def chorale() -> Engraving:
    return engraving.engrave(engraving.parse("bwv66.6"), "bwv66.6")


def darkness(image: np.ndarray, x: float, y: float) -> float:
    """Of the middle of a notehead."""
    x, y = round(x), round(y)
    return 1 - image[y - 2 : y + 3, x - 3 : x + 4].mean() / 255


def assert_noteheads_are_where_they_are_said_to_be(piece: Engraving) -> None:
    filled = [head for head in piece.noteheads if 0 < head.seconds < 1]
    assert len(filled) > 40
    on_system = [darkness(piece.unrolled, head.x, head.y) for head in filled]
    on_pages = [darkness(piece.pages[h.page], h.page_x, h.page_y) for h in filled]
    beside = [darkness(piece.unrolled, head.x + 14, head.y + 9) for head in filled]
    assert min(on_system) > 0.5 and min(on_pages) > 0.5
    assert np.median(beside) < 0.5


def test_the_built_in_engraver_draws_noteheads_where_it_says(plain: Engraving):
    assert_noteheads_are_where_they_are_said_to_be(plain)


@needs_verovio
def test_verovio_draws_noteheads_where_their_ids_say(chorale: Engraving):
    assert_noteheads_are_where_they_are_said_to_be(chorale)
    assert len(chorale.noteheads) == 178


@needs_verovio
def test_pitches_and_times_are_those_of_the_score(chorale: Engraving):
    beat, expected = 60 / 96, set()
    for part in engraving.parse("bwv66.6").parts:
        for note in part.flatten().notes:
            if note.tie is None or note.tie.type == "start":
                expected.add((float(note.offset), note.pitch.midi))
    struck = [head for head in chorale.noteheads if head.seconds > 0]
    found = {(round(head.onset / beat * 4) / 4, head.pitch) for head in struck}
    assert found == expected
    assert max(abs(h.onset / beat - round(h.onset / beat * 4) / 4) for h in struck) < 0.005


def onset_errors(played: Played, times: np.ndarray) -> np.ndarray:
    """Seconds from each onset to the nearest peak of the spectral flux of 46 ms frames."""
    hop = RATE // 200  # 5 ms
    _, _, spectrum = stft(played.wave, RATE, nperseg=1024, noverlap=1024 - hop)
    loudness = np.log1p(1000 * np.abs(spectrum))
    flux = np.maximum(np.diff(loudness, axis=1), 0).sum(0)
    peaks, _ = find_peaks(flux, height=2 * np.median(flux), distance=8)
    at = (peaks + 1) * hop / RATE
    return np.array([np.abs(at - time).min() for time in times])


def assert_sound_begins_when_it_is_said_to(played: Played, piece: Engraving) -> None:
    struck = np.array([head.seconds > 0 for head in piece.noteheads])
    times = np.unique(played.onsets[struck])
    # Notes that end are heard too, so some wrong times have a peak beside them.
    late = onset_errors(played, times + 0.08)
    errors = onset_errors(played, times)
    assert np.mean(errors <= 0.03) > 0.97, errors
    assert np.mean(late <= 0.03) < 0.6, late


def test_the_additive_synthesiser_begins_notes_in_time(plain: Engraving):
    played = play(plain, 0.93, False, np.random.default_rng(0), "additive")
    assert_sound_begins_when_it_is_said_to(played, plain)


@needs_fluidsynth
@needs_verovio
def test_fluidsynth_begins_notes_in_time(chorale: Engraving):
    played = play(chorale, 1.07, False, np.random.default_rng(0), "fluidsynth")
    assert_sound_begins_when_it_is_said_to(played, chorale)


def test_alignment_holds_a_notehead_and_an_onset_in_every_row(plain: Engraving):
    played = play(plain, 1.1, False, np.random.default_rng(1), "additive")
    piece = prepared(plain, plain.unrolled, [played])
    (performance,) = piece.performances
    heads = {round(head.x): head for head in plain.noteheads}
    times = np.unique(played.onsets)
    assert len(performance.onsets) == len(times)
    flux = np.maximum(np.diff(performance.spectrogram, axis=1), 0).sum(0)
    rises = []
    for (frame, column), at in zip(performance.onsets, times, strict=True):
        assert abs(frame / FPS - at) <= 0.5 / FPS + 1e-9
        assert heads[column].onset == pytest.approx((at - 0.5) * 1.1, abs=1e-6)
        rises.append(flux[frame - 3 : frame + 1].max() / np.median(flux))
    # Frames are 93 ms long, so that the frames that reach into a note rise.
    assert np.mean(np.array(rises) > 2) > 0.95


def test_notes_that_a_tie_continues_begin_nothing():
    heads = [Notehead(0.0, 1.0, 60, 50, 90), Notehead(0.5, 0.0, 60, 70, 90)]
    heads.append(Notehead(1.0, 0.5, 62, 90, 90))
    piece = Engraving("tied", np.full((180, 300), 255, np.uint8), heads)
    played = play(piece, 1.0, False, np.random.default_rng(0), "additive")
    assert prepared(piece, piece.unrolled, [played]).performances[0].onsets.tolist() == [
        [10, 50],
        [30, 90],
    ]


def test_performances_differ_in_tempo_and_loudness(plain: Engraving):
    random = np.random.default_rng(0)
    slow, fast = (play(plain, tempo, False, random, "additive") for tempo in (0.9, 1.1))
    assert slow.name == "random_tempo-900_program-0"
    np.testing.assert_allclose((slow.onsets - 0.5) * 0.9, (fast.onsets - 0.5) * 1.1)
    again = play(plain, 0.9, False, random, "additive")
    assert again.wave.shape == slow.wave.shape
    assert np.abs(again.wave - slow.wave).max() > 0.01


def test_the_real_domain_is_noisier(plain: Engraving):
    random = np.random.default_rng(0)
    scanned = scan(plain.unrolled, random)
    assert scanned.shape == plain.unrolled.shape
    assert 190 < np.median(scanned) < 240 and scanned.std() > 10
    even = [scan(np.full((200, 300), 255, np.uint8), random, True) for _ in range(8)]
    varied = [scan(np.full((200, 300), 255, np.uint8), random) for _ in range(8)]
    assert np.std([page.mean() for page in even]) < 2 < np.std([page.mean() for page in varied])
    silence_after = np.zeros(RATE, np.float32)
    silence_after[:100] = 0.5
    assert np.abs(in_a_room(silence_after, random)[RATE // 4 :]).max() > 0.005


def test_the_demo_is_in_the_files_of_msmd(scores: Path):
    splits = yaml.safe_load((scores / "all_split.yaml").read_text())
    names = [name for part in ("train", "valid", "test") for name in splits[part]]
    assert sorted(names) == sorted(file.stem for file in scores.glob("*.npz"))
    for name in names:
        piece = read_piece(scores / f"{name}.npz")
        assert len(piece.performances) == (2 if name in splits["train"] else 1)
        recording = scores / "recordings" / f"{piece.performances[0].name}.wav"
        rate, wave = wavfile.read(recording)
        assert rate == RATE
        assert len(wave) / RATE == pytest.approx(
            piece.performances[0].spectrogram.shape[1] / FPS, abs=0.06
        )
        assert Image.open(scores / "pages" / f"{name}-1.png").size[0] > 300
    unpaired = {file.name.partition("-unrolled")[0] for file in scores.glob("pretraining/scores/*")}
    assert len(unpaired) == 2 and not unpaired & set(names)
    sounds = {file.name.partition("_")[0] for file in scores.glob("pretraining/audio/*.wav")}
    assert sounds == unpaired


def test_a_seed_gives_the_same_files(tmp_path: Path, scores: Path):
    small = {"n_train": 1, "n_valid": 0, "n_test": 0, "n_unpaired": 0, "n_performances": 1}
    for name in ("a", "b"):
        write_scores(tmp_path / name, **small, engraver="plain", synthesizer="additive")
    one, other = (read_piece(tmp_path / name / "random-0-000.npz") for name in ("a", "b"))
    assert np.array_equal(one.score, other.score)
    assert np.array_equal(one.performances[0].spectrogram, other.performances[0].spectrogram)


@needs_verovio
def test_no_two_pieces_share_a_melody():
    sizes = {"train": 2, "valid": 1, "test": 2, "unpaired": 1}
    pieces = list(_engraved("verovio", sizes, 0, np.random.default_rng(0)))
    assert [split for split, _ in pieces] == [s for s, n in sizes.items() for _ in range(n)]
    names = [piece.name for _, piece in pieces]
    assert len(set(names)) == 6
    melodies = [engraving.melody(engraving.parse(name)) for name in names]
    for place, one in enumerate(melodies):
        for other in melodies[place + 1 :]:
            assert not engraving.same_melody(one, other)


@needs_verovio
def test_melodies_that_bach_used_again_are_recognised():
    # "O Haupt voll Blut und Wunden" in five keys, and another chorale.
    passion = [engraving.melody(engraving.parse(name)) for name in ("bwv244.54", "bwv244.44")]
    other = engraving.melody(engraving.parse("bwv66.6"))
    assert engraving.same_melody(*passion)
    assert not any(engraving.same_melody(one, other) for one in passion)


def test_without_the_programs_it_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engraving, "is_installed", lambda: False)
    with pytest.raises(DataError, match=r"pip install 'consilience\[scores\]'"):
        write_scores(tmp_path / "a", engraver="verovio", **SIZES)
    assert not (tmp_path / "a").exists()
    none = dict.fromkeys(SIZES, 0) | {"n_train": 1, "n_performances": 1}
    with pytest.warns(UserWarning, match=r"built-in engraver.*\n?.*consilience\[scores\]"):
        write_scores(tmp_path / "b", synthesizer="additive", **none)
    assert [file.stem for file in (tmp_path / "b").glob("*.npz")] == ["random-0-000"]


def test_without_fluidsynth_the_built_in_synthesiser_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scores_demo, "find_fluidsynth", lambda: None)
    one = dict.fromkeys(SIZES, 0) | {"n_train": 1, "n_performances": 1}
    with pytest.warns(UserWarning, match="built-in synthesiser plays; for sampled instruments"):
        write_scores(tmp_path / "a", engraver="plain", **one)
    write_scores(tmp_path / "b", engraver="plain", synthesizer="additive", **one)
    found = [read_piece(tmp_path / name / "random-0-000.npz").performances[0] for name in "ab"]
    assert np.array_equal(found[0].spectrogram, found[1].spectrogram)


@needs_verovio
def test_more_pieces_than_the_corpus_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engraving, "chorales", lambda: ["bwv66.6"])
    with pytest.raises(DataError, match="1 chorales"):
        write_scores(tmp_path / "a", 0, 2, 0, 0, 0, 1, engraver="verovio")


def test_a_chord_takes_the_column_of_one_of_its_noteheads():
    heads = [Notehead(0.0, 1.0, 60 + n, x, 90) for n, x in enumerate((50, 62))]
    piece = Engraving("second", np.full((180, 300), 255, np.uint8), heads)
    played = play(piece, 1.0, False, np.random.default_rng(0), "additive")
    later = replace(played, onsets=played.onsets)
    assert prepared(piece, piece.unrolled, [later]).performances[0].onsets[0, 1] in (50, 62)
