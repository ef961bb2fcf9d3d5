"""The commands on scores: as a user types them."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy.io import wavfile

from audio_music.cli import main
from audio_music.data.score_files import Performance, Piece, read_piece, write_piece
from audio_music.data.scores import load_scores
from tests.audio_music.scores import SMALL, audio_music
from tests.command import Answer, assert_equal, checkpoint, refused

TRAIN = f"train system=audio_sheet data.path=scores {SMALL} trainer.validate_every=1"


@pytest.fixture(scope="module")
def home(tmp_path_factory, scores: Path) -> Path:
    folder = tmp_path_factory.mktemp("home")
    (folder / "scores").symlink_to(scores, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        line = f"{TRAIN} trainer.max_epochs=2 hydra.run.dir=trained"
        patch.setattr(sys, "argv", ["audio-music", *line.split()])
        main()
    return home / "trained"


@pytest.fixture
def ask(home: Path, capsys) -> Callable[[str], Answer]:
    return lambda line: audio_music(line, home, capsys)


def test_training_ends_with_metrics_of_both_splits(run: Path):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["chosen_by"] == "valid/mrr"
    for split in ("valid", "test"):
        assert 0 < metrics[f"{split}/mrr"] <= 1
        assert metrics[f"{split}/piece_r@1/audio_to_sheet"] in (0.0, 0.5, 1.0)


def test_evaluation_of_the_checkpoint_repeats_the_numbers(run: Path, ask):
    before = json.loads((run / "metrics.json").read_text())
    answer = ask("evaluate checkpoint=trained")
    assert answer.code == 0, answer
    assert json.loads((run / "metrics.json").read_text())["test/mrr"] == before["test/mrr"]


def test_a_run_that_was_cut_off_goes_on_exactly(run: Path, ask):
    assert ask(f"{TRAIN} trainer.max_epochs=1 hydra.run.dir=cut").code == 0
    answer = ask("train resume=cut trainer.max_epochs=2")
    assert answer.code == 0, answer
    whole, resumed = (checkpoint(run.parent / name) for name in ("trained", "cut"))
    for part in ("state_dict", "optimizer_states"):
        assert_equal(whole[part], resumed[part])


def test_embeddings_have_ids(run: Path, ask):
    assert ask("embed checkpoint=trained out=vectors.parquet").code == 0
    table = pl.read_parquet(run.parent / "vectors.parquet")
    assert set(table["kind"]) == {"sheet", "audio"}
    assert table["embedding"].list.len().unique().to_list() == [8]
    assert table["id"][0].startswith("random-0-000@")


def test_a_recording_is_searched_for_in_scores(run: Path, ask, scores: Path):
    recording = sorted((scores / "recordings").glob("*.wav"))[-1]
    answer = ask(f"search checkpoint=trained query=audio:{recording}@9.5 k=3")
    assert answer.code == 0, answer
    picture = Image.open(run / "search.png")
    assert picture.size[1] > picture.size[0]
    assert np.asarray(picture.convert("L")).std() > 30
    # The query has a sound, and so have the pieces of which the data hold recordings.
    rate, sound = wavfile.read(run / "search" / "query.wav")
    assert rate == 22_050 and len(sound) == pytest.approx(4.2 * rate, rel=0.01)
    _, whole = wavfile.read(recording)
    start = round((9.5 - 2.1) * rate)
    assert np.abs(sound - whole[start : start + len(sound)]).max() <= 1
    assert len(list((run / "search").glob("[123].wav"))) == 3


def test_a_score_is_searched_for_in_recordings(run: Path, ask, tmp_path: Path, scores: Path):
    page = next((scores / "pretraining/scores").glob("*.png"))
    answer = ask(f"search checkpoint=trained query=sheet:{page}@500 k=2 out={tmp_path / 's.png'}")
    assert answer.code == 0, answer
    assert "audio" in answer.out and "random-0-" in answer.out
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == ["1.wav", "2.wav"]


def test_an_index_finds_what_exact_search_finds(run: Path, ask, scores: Path):
    assert ask("index checkpoint=trained out=near index_kind=exact k=5").code == 0
    name = load_scores(scores).ids[-3]
    found = [
        ask(f"search checkpoint=trained query=sheet:{name} k=5 {index}").out.partition("wrote")[0]
        for index in ("", "index=near")
    ]
    assert found[0] == found[1] and "cosine" in found[0]


def test_a_wrong_query_is_one_message(run: Path, ask):
    refused(ask("search checkpoint=trained query=audio:absent"), "no such onset", "random-0-000@")


# -- data check ------------------------------------------------------------------------------------


def test_clean_data_are_usable(ask):
    answer = ask("data check data=scores data.path=scores")
    assert answer.code == 0
    assert "the data are usable" in answer.out
    assert "2 pieces" in answer.out and "unpaired audio" in answer.out


def _performance(folder: Path, **changes: object) -> None:
    piece = read_piece(folder / "random-0-002.npz")
    (one,) = piece.performances
    values = {"spectrogram": one.spectrogram, "onsets": one.onsets} | changes
    write_piece(folder, Piece(piece.name, piece.score, [Performance("x", **values)]))


def _spectrogram(folder: Path) -> np.ndarray:
    return read_piece(folder / "random-0-002.npz").performances[0].spectrogram


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "unreadable": (
        lambda d: (d / "random-0-002.npz").write_bytes(b"PK"),
        "random-0-002.npz: cannot be read",
    ),
    "bands": (
        lambda d: _performance(d, spectrogram=_spectrogram(d)[:80]),
        "random-0-002.npz: performance x: 80 bands",
    ),
    "page": (
        lambda d: _performance(d, onsets=np.array([[60, 99_999]])),
        "notehead 99999 lies outside of the 1780 columns of the score",
    ),
    "recording": (
        lambda d: _performance(d, spectrogram=_spectrogram(d)[:, :100]),
        "lies outside of the 100 frames of the recording",
    ),
    "silence": (
        lambda d: _performance(d, spectrogram=0 * _spectrogram(d)),
        "random-0-002.npz: performance x: silence",
    ),
    "splits": (
        lambda d: (d / "all_split.yaml").write_text(
            "train: [random-0-000, random-0-001]\nvalid: [random-0-002]\ntest: [random-0-001]\n"
        ),
        "all_split.yaml: random-0-001 is in train and in test",
    ),
    "missing": (
        lambda d: (d / "random-0-002.npz").unlink(),
        "random-0-002.npz: no such file",
    ),
    "silent recording": (
        lambda d: wavfile.write(
            d / "pretraining/audio/silent.wav", 22_050, np.zeros(30_000, np.int16)
        ),
        "silent.wav: silence",
    ),
    "truncated recording": (
        lambda d: (d / "pretraining/audio/cut.wav").write_bytes(b"RIFF"),
        "cut.wav: cannot be read",
    ),
    "empty page": (
        lambda d: Image.new("L", (900, 200), 255).save(d / "pretraining/scores/white.png"),
        "white.png: an empty page",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(
    name: str, scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(scores, tmp_path / "data", ignore=shutil.ignore_patterns("recordings", "pages"))
    change, reason = BROKEN[name]
    change(tmp_path / "data")
    answer = audio_music("data check data=scores data.path=data", tmp_path, capsys)
    assert answer.code == 1, answer
    assert reason in answer.out
    assert "1 problem" in answer.out
    # The rest was read.
    assert "onsets with both snippets" in answer.out
    assert answer.err == ""


def test_training_on_broken_data_is_refused(
    scores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(scores, tmp_path / "data", ignore=shutil.ignore_patterns("recordings", "pages"))
    (tmp_path / "data/random-0-000.npz").write_bytes(b"PK")
    line = f"train system=audio_sheet data.path=data {SMALL}"
    refused(audio_music(line, tmp_path, capsys), "random-0-000.npz", "cannot be read")
