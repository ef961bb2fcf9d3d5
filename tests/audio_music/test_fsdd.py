"""Real recordings of spoken digits, where the folder is there."""

import os
from pathlib import Path

import pytest
import torch

from audio_music.data.audio_checks import check_recordings
from audio_music.data.read_recordings import load_recordings
from audio_music.systems.log_mel import LogMel
from audio_music.task import AudioProbing

DEFAULT = Path(__file__).parents[3] / "shared" / "data"
FSDD = Path(os.environ.get("CONSILIENCE_REAL_DATA", DEFAULT)) / "fsdd"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FSDD.is_dir(), reason="the recordings are not there"),
]
HOW = {"rate": 8000, "seconds": 0.5, "device": "cpu"}


def test_nothing_is_wrong_with_the_recordings() -> None:
    report = check_recordings(FSDD, **HOW)
    assert not report.problems
    assert report.facts["recordings"] == 3000
    assert [report.facts[f"{s} recordings"] for s in ("train", "valid", "test")] == [2400, 300, 300]


def test_log_mel_features_tell_digits_and_speakers() -> None:
    data = load_recordings(FSDD, **HOW)
    assert data.rates == [8000] and data.whole and data.pads
    torch.manual_seed(0)
    features = LogMel(8000, n_mels=64, window=256, hop=80)
    found = AudioProbing("accuracy/digit").evaluate(features, data, "test").metrics
    assert found["accuracy/digit"] > 0.9
    assert found["accuracy/speaker"] > 0.95
