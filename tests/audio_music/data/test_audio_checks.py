import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_music.data.audio_checks import check_recordings
from core.data.checks import CheckReport
from tests.audio_music.recordings import RATE, tone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = []
    for number in range(8):
        wave = tone(0.5, 300 + 10 * number)
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, subtype="PCM_16")
        line = {"audio_path": f"{number}.wav", "sample_rate": RATE, "num_samples": 4000}
        line |= {"beats": [0.1, 0.4], "key": "C major", "group": f"g{number}"}
        lines.append(line | {"split": ("train", "valid", "test")[max(number - 5, 0)]})
    _write(tmp_path, lines)
    return tmp_path


def _write(folder: Path, lines: list[dict[str, object]]) -> None:
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _change(folder: Path, number: int, **changes: object) -> None:
    lines = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    lines[number] |= changes
    _write(folder, lines)


def _check(folder: Path) -> CheckReport:
    return check_recordings(folder, rate=RATE, seconds=0.5, workers=1)


def _problem(folder: Path) -> str:
    (problem,) = _check(folder).problems
    return str(problem)


def test_nothing_is_wrong(folder: Path) -> None:
    report = _check(folder)
    assert not report.problems and not report.warnings
    assert report.facts["recordings"] == 8
    assert report.facts["train recordings"] == 6
    assert report.facts["beats"] == "times, known of 8"


def test_a_file_of_no_bytes(folder: Path) -> None:
    (folder / "3.wav").write_bytes(b"")
    assert "3.wav: an empty file" in _problem(folder)


def test_a_truncated_file(folder: Path) -> None:
    content = (folder / "3.wav").read_bytes()
    (folder / "3.wav").write_bytes(content[:4000])
    said = _problem(folder)
    assert "3.wav: " in said and "samples" in said and "4000" in said


def test_a_truncated_flac(folder: Path) -> None:
    soundfile.write(folder / "3.flac", tone(0.5, 333), RATE)
    content = (folder / "3.flac").read_bytes()
    (folder / "3.flac").write_bytes(content[: len(content) // 2])
    _change(folder, 3, audio_path="3.flac")
    assert "3.flac: " in _problem(folder)


def test_another_rate(folder: Path) -> None:
    soundfile.write(folder / "3.wav", tone(0.25, 333, 2 * RATE), 2 * RATE, subtype="PCM_16")
    said = _problem(folder)
    assert "3.wav: 16000 samples a second" in said and "all.jsonl:4 says" in said


def test_clipping(folder: Path) -> None:
    wave = np.clip(4 * tone(0.5, 330), -1, 1)
    soundfile.write(folder / "3.wav", wave, RATE, subtype="PCM_16")
    assert "3.wav: clipped: " in _problem(folder)
    # A single peak at full scale is none.
    wave = tone(0.5, 330)
    wave[1000] = 1.0
    soundfile.write(folder / "3.wav", wave, RATE, subtype="PCM_16")
    assert not _check(folder).problems


def test_silence(folder: Path) -> None:
    soundfile.write(folder / "3.wav", np.zeros(4000), RATE, subtype="PCM_16")
    assert "3.wav: silent" in _problem(folder)


def test_not_a_number(folder: Path) -> None:
    wave = tone(0.5, 330)
    wave[7:9] = np.nan
    soundfile.write(folder / "3.wav", wave, RATE, subtype="FLOAT")
    assert "3.wav: 2 of 4000 samples are NaN" in _problem(folder)


def test_stereo(folder: Path) -> None:
    stereo = np.stack([tone(0.5, 330)] * 2, 1)
    soundfile.write(folder / "3.wav", stereo, RATE, subtype="PCM_16")
    said = _problem(folder)
    assert "3.wav: 2 channels" in said and "data.channels=downmix" in said


def test_times_beyond_the_recording(folder: Path) -> None:
    _change(folder, 3, beats=[0.1, 0.9])
    assert "3.wav: beats from 0.10 to 0.90 s" in _problem(folder)


def test_the_same_recording_in_two_splits(folder: Path) -> None:
    (folder / "6.wav").write_bytes((folder / "3.wav").read_bytes())
    assert "6.wav: the same samples as 3.wav, which is in train" in _problem(folder)


def test_all_problems_are_listed_at_once(folder: Path) -> None:
    (folder / "1.wav").write_bytes(b"")
    soundfile.write(folder / "2.wav", np.zeros(4000), RATE, subtype="PCM_16")
    (folder / "5.wav").unlink()
    report = _check(folder)
    assert len(report.problems) == 3
    assert report.facts["recordings"] == 6


def test_what_is_unlikely_to_be_meant(folder: Path) -> None:
    _change(folder, 6, group="g0")
    (folder / "2.wav").write_bytes((folder / "3.wav").read_bytes())
    warnings = _check(folder).warnings
    assert any("1 groups are in several splits: g0" in warning for warning in warnings)
    assert any("the same samples as 2.wav" in warning for warning in warnings)
    report = check_recordings(folder, rate=2 * RATE, seconds=0.5, workers=1)
    assert any("hold nothing above half" in warning for warning in report.warnings)
