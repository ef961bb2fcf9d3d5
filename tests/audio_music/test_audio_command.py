"""The commands on recordings: as a user types them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from audio_music.cli import main
from audio_music.data.music_demo import write_music_demo
from audio_music.data.synthesis import find_fluidsynth
from tests.audio_music.recordings import COMMAND
from tests.audio_music.scores import audio_music
from tests.command import Answer, refused

TRAIN = f"train data=audio_demo data.path=music {COMMAND}"
# 28 clips train, 4 validate, 8 test.
DEMO = {"source": "chords", "synthesizer": "additive", "pieces": 10, "clips": 4, "rate": 8000}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_music_demo(folder / "music", **DEMO)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        line = f"{TRAIN} trainer.max_epochs=3 task.distractor=0 hydra.run.dir=trained"
        patch.setattr(sys, "argv", ["audio-music", *line.split()])
        main()
    return home / "trained"


@pytest.fixture
def ask(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], Answer]:
    return lambda line: audio_music(line, home, capsys)


def test_labels_of_the_demo_are_those_of_its_score(home: Path) -> None:
    lines = [
        json.loads(line)
        for split in ("train", "valid", "test")
        for line in (home / "music" / f"{split}.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 40
    groups = {}
    for line in lines:
        info = soundfile.info(home / "music" / line["audio_path"])
        assert (info.samplerate, info.frames) == (line["sample_rate"], line["num_samples"])
        assert 1 <= len(line["pitch_classes"]) <= 12
        gaps = [b - a for a, b in zip(line["beats"], line["beats"][1:], strict=False)]
        assert all(gap == pytest.approx(60 / line["tempo"], abs=1e-3) for gap in gaps)
        groups.setdefault(line["group"], set()).add((line["key"], line["tempo"]))
    assert all(len(of) == 1 for of in groups.values())


@pytest.mark.skipif(find_fluidsynth() is None, reason="no fluidsynth")
def test_the_demo_with_sampled_instruments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))
    sizes = DEMO | {"pieces": 3, "clips": 1, "synthesizer": "auto"}
    write_music_demo(tmp_path / "sampled", **sizes)
    write_music_demo(tmp_path / "additive", **sizes | {"synthesizer": "additive"})
    (name,) = ["audio/piece000_00.wav"]
    one, other = (soundfile.read(tmp_path / of / name)[0] for of in ("sampled", "additive"))
    assert one.shape == other.shape and abs(one - other).max() > 0.05
    lines = [(tmp_path / of / "train.jsonl").read_text() for of in ("sampled", "additive")]
    assert lines[0] == lines[1]


def test_training_ends_with_metrics_and_pictures(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["chosen_by"] == "valid/map/pitch_classes"
    for name in ("map/pitch_classes", "key_score/key", "accuracy/instrument", "beat_f1/beats"):
        assert 0 <= metrics[f"test/{name}"] <= 1
    assert metrics["test/map/pitch_classes/noisy"] != metrics["test/map/pitch_classes"]
    assert "test/r2/tempo" in metrics
    for file in ("pictures/epoch_0003/cqt_valid.png", "cqt_valid.png", "cqt_test.png"):
        assert Image.open(run / file).size[0] > 500
    rows = pl.read_csv(run / "log.csv")
    assert {"train/loss", "train/codes", "train/cqt", "online/rankme"} <= set(rows.columns)


def test_pictures_are_in_tensorboard(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), {"images": 0})
    events.Reload()
    assert len(events.Images("cqt_valid")) == 1  # epoch 3 alone is validated


def test_evaluation_of_the_checkpoint_repeats_the_numbers(run: Path, ask) -> None:
    before = json.loads((run / "metrics.json").read_text())
    answer = ask("evaluate checkpoint=trained")
    assert answer.code == 0, answer
    after = json.loads((run / "metrics.json").read_text())
    for name in ("test/map/pitch_classes", "test/key_score/key", "test/beat_f1/beats"):
        assert after[name] == before[name]


def test_embeddings_have_the_ids_of_the_files(run: Path, ask, home: Path) -> None:
    assert ask("embed checkpoint=trained out=e.parquet").code == 0
    table = pl.read_parquet(home / "e.parquet")
    assert table.shape == (40, 3)
    assert set(table["kind"]) == {"audio"}
    assert all((home / "music" / name).is_file() for name in table["id"])
    assert table["embedding"].list.len().unique().to_list() == [16]


def test_frames_have_times_and_the_mean_of_the_embedding(run: Path, ask, home: Path) -> None:
    assert ask("embed checkpoint=trained out=clips.parquet").code == 0
    answer = ask("embed checkpoint=trained out=frames")
    assert answer.code == 0, answer
    assert len(list((home / "frames").rglob("*.npz"))) == 40
    for name, vector in pl.read_parquet(home / "clips.parquet")["id", "embedding"].iter_rows():
        with np.load(home / "frames" / f"{name}.npz") as file:
            frames, seconds = file["frames"], file["seconds"]
        assert frames.shape == (len(seconds), 3, 16)
        length = soundfile.info(home / "music" / name).duration
        assert 0 < seconds[0] < seconds[-1] < length
        assert np.diff(seconds) == pytest.approx(80 / 8000, abs=1e-6)
        assert frames.astype(float).mean((0, 1)) == pytest.approx(np.array(vector), abs=2e-3)


def test_search_gives_recordings_to_listen_to(run: Path, ask, home: Path) -> None:
    answer = ask("search checkpoint=trained query=clip:audio/piece000_00.wav k=3")
    assert answer.code == 0, answer
    title, _, table = answer.out.partition("rank")
    assert "clip:audio/piece000_00.wav" in title
    assert table.count(".wav") == 3 and "piece000_00.wav" not in table
    assert (run / "search.png").is_file()
    sound, rate = soundfile.read(run / "search.wav")
    assert rate == 8000
    assert len(sound) == 4 * 8000 + 3 * 4000
    query = soundfile.read(home / "music" / "audio/piece000_00.wav")[0]
    assert abs(sound[:8000] - query).max() < 1e-4
    refused(ask("search checkpoint=trained query=clip:none"), "clip:ID of one of 40 ids")


def test_search_in_an_index(run: Path, ask) -> None:
    query = "search checkpoint=trained query=clip:audio/piece000_00.wav k=3"
    exact = ask(query)
    assert ask("index checkpoint=trained out=index index_kind=exact").code == 0
    assert ask(f"{query} index=index").out == exact.out


def test_a_system_without_training(ask) -> None:
    line = "train system=log_mel data=audio_demo data.path=music data.rate=8000"
    answer = ask(f"{line} system.hop=80 system.window=256 system.n_mels=32 trainer.max_epochs=1")
    assert answer.code == 0, answer
    assert "map/pitch_classes" in answer.out


def test_slips_are_answered_in_words(run: Path, ask) -> None:
    refused(ask("evaluate checkpoint=trained task.labels=[genre]"), "task.labels names genre")
    refused(ask("train data=audio_demo data.path=music task.monitor=mrr"), "task.monitor=mrr")
    refused(ask("train data.path=nowhere"), "no such file or folder")
    refused(ask("data demo path=new demo.source=opera"), "demo.source=opera")
    refused(ask("data demo path=trained"), "already exists and holds other files")


def test_the_check_of_the_demo(ask) -> None:
    answer = ask("data check data=audio_demo data.path=music data.rate=8000")
    assert answer.code == 0, answer
    assert "the data are usable" in answer.out
