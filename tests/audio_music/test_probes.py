import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from audio_music.beats import beat_f1, pick_beats
from audio_music.data.labels import make_label
from audio_music.data.read_recordings import load_recordings
from audio_music.keys import parse_key, weighted_scores
from audio_music.probes import (
    Judged,
    beat_targets,
    clip_frames,
    judge_label,
    probe_beats,
    roc_auc,
)
from audio_music.systems.log_mel import LogMel
from audio_music.task import AudioProbing, _of_groups, clip_layers, clip_vectors, with_distractor
from core.data.checks import DataError
from tests.audio_music.recordings import RATE, tone


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("C major", (0, "major")),
        ("Eb minor", (3, "minor")),
        ("E- minor", (3, "minor")),
        ("f# min", (6, "minor")),
        ("Bb:maj", (10, "major")),
        ("a", (9, "minor")),
        ("A", (9, "major")),
        ("Cb major", (11, "major")),
        ("rock", None),
        ("H major", None),
        ("", None),
    ],
)
def test_names_of_keys(name: str, key: tuple[int, str] | None) -> None:
    assert parse_key(name) == key


def test_keys_that_are_near() -> None:
    names = ("C major", "G major", "F major", "A minor", "C minor", "E minor", "D major")
    worth = weighted_scores(names)
    # Said of a piece in C major; the fifth counts upwards only, as in mir_eval.
    assert worth[0].tolist() == [1.0, 0.5, 0.0, 0.3, 0.2, 0.0, 0.0]
    # Said of a piece in A minor.
    assert worth[3].tolist() == [0.3, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0]
    assert weighted_scores(("C major", "jazz")) is None


def test_beats_are_matched_once_within_the_tolerance() -> None:
    true = np.array([0.5, 1.0, 1.5, 2.0])
    assert beat_f1(true, true + 0.069) == 1.0
    assert beat_f1(true, true + 0.071) == 0.0
    # Two estimates near one beat: one is wrong. Precision 1 / 2, recall 1 / 4.
    assert beat_f1(true, np.array([0.97, 1.03])) == pytest.approx(2 / 6)
    # 0.93 must be matched to 0.9 for 1.0 to be left for 1.05.
    assert beat_f1(np.array([0.9, 1.0]), np.array([0.93, 1.05])) == 1.0
    assert beat_f1(true, np.array([])) == 0.0
    assert beat_f1(np.array([]), np.array([])) == 1.0


def test_peaks_are_apart() -> None:
    times = np.arange(100) / 50
    scores = np.zeros(100)
    scores[[10, 12, 40, 60, 61]] = [0.9, 0.8, 0.3, 0.5, 0.6]
    assert pick_beats(scores, times, 0.4).tolist() == [0.2, 1.22]
    assert pick_beats(scores, times, 0.2).tolist() == [0.2, 0.8, 1.22]


def test_targets_of_beats() -> None:
    target = beat_targets(np.arange(8) / 10, np.array([0.31, 0.7]))
    assert target.tolist() == [0, 0, 0.5, 1, 0.5, 0, 0.5, 1]
    assert not beat_targets(np.arange(8) / 10, np.array([0.9])).any()  # of no frame


def test_beats_are_learnt_from_recordings_of_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from those that stand first, which may be of one genre."""
    read: list[int] = []

    def framed(system: object, data: object, row: int) -> tuple[torch.Tensor, np.ndarray]:
        read.append(row)
        return torch.randn(10, 2, 4), np.arange(10) / 10

    monkeypatch.setattr("audio_music.probes.clip_frames", framed)
    monkeypatch.setattr("audio_music.probes._MOST_FRAMES", 100)
    beats = make_label("beats", [[0.2, 0.7]] * 62, "")
    data = SimpleNamespace(splits=_Data.splits, labels={"beats": beats})
    found = probe_beats(SimpleNamespace(), data, "beats", [60], [61])
    assert 0 <= found.metrics["beat_f1"] <= 1
    learnt = [row for row in read if row < 60]
    assert 10 <= len(learnt) <= 12
    assert min(learnt) < 20 and max(learnt) > 40


def test_frames_reach_to_the_end_of_a_recording(tmp_path: Path) -> None:
    """0.1 s of windows of 0.5 s is no window of its own."""
    soundfile.write(tmp_path / "a.wav", tone(1.1, 300), RATE, subtype="PCM_16")
    data = load_recordings(tmp_path, rate=RATE, seconds=0.5, ratios=(1, 0, 0), device="cpu")

    def frames(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["wave"].unflatten(1, (-1, 80))[:, :, None]

    system = SimpleNamespace(frames=frames, frame_times=lambda n: (torch.arange(n) + 0.5) / 100)
    found, times = clip_frames(system, data, 0)
    assert times == pytest.approx((np.arange(110) + 0.5) / 100)
    np.testing.assert_allclose(found.flatten(), tone(1.1, 300), atol=1e-4)


class _Data:
    splits: ClassVar = {"train": torch.arange(0, 60)}


def _known_by(label_of_row: np.ndarray) -> dict[int, torch.Tensor]:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(label_of_row), 2, 4)).astype("f4")
    noise[:, 1] += 20 * label_of_row[:, None]
    return {row: torch.from_numpy(of) for row, of in enumerate(noise)}


def test_keys_are_judged_by_their_weighted_score() -> None:
    numbers = np.arange(100) % 2
    label = make_label("key", [["C major", "G major"][n] for n in numbers], "")
    features = _known_by(numbers)
    wrong = {row: features[(row + 1) % 100] for row in features}  # the other key of each
    rows, valid = list(range(80, 100)), list(range(60, 80))
    found, probe = judge_label(label, features, {"": features, "/noisy": wrong}, _Data, rows, valid)
    assert found[""].metrics["accuracy"] >= 0.9
    assert found[""].metrics["key_score"] == found[""].per_row["key_score"].mean()
    assert probe.layer_weights[1] > probe.layer_weights[0]
    # G for C is a fifth above, half right; C for G is worth nothing.
    noisy = found["/noisy"]
    assert noisy.metrics["accuracy"] <= 0.1
    assert noisy.metrics["key_score"] == pytest.approx(0.25, abs=0.06)
    assert 0.5 in noisy.per_row["key_score"]


def test_unknown_labels_are_left_out() -> None:
    said = [None if row % 10 == 0 else float(row % 2) + 0.5 for row in range(100)]
    label = make_label("tempo", said, "")
    features = _known_by(np.arange(100) % 2)
    found, _ = judge_label(label, features, {"": features}, _Data, list(range(60, 100)), [])
    values = found[""].per_row["r2"]
    assert np.isnan(values).nonzero()[0].tolist() == [0, 10, 20, 30]
    assert np.nanmean(values) == pytest.approx(found[""].metrics["r2"])
    assert found[""].metrics["r2"] > 0.5
    artists = make_label("artist", [f"artist {row // 10}" for row in range(100)], "")
    assert judge_label(artists, features, {"": features}, _Data, [60, 70], []) == ({}, None)
    nothing = make_label("tempo", [None] * 60 + [1.5] * 40, "")
    assert judge_label(nothing, features, {"": features}, _Data, [60], []) == ({}, None)


def test_a_probe_of_values_is_chosen_where_all_validation_has_one() -> None:
    """R2 is not defined there."""
    said = [float(row % 2) + 0.5 for row in range(100)]
    said[60:70] = [1.5] * 10
    features = _known_by(np.array(said) - 0.5)
    label = make_label("tempo", said, "")
    found, _ = judge_label(
        label, features, {"": features}, _Data, list(range(70, 100)), list(range(60, 70))
    )
    assert found[""].metrics["r2"] > 0.5


def test_area_under_the_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((50, 3)) < 0.3
    present[:, 2] = True  # a tag that all have says nothing
    scores = rng.standard_normal((50, 3))
    expected = np.mean([roc_auc_score(present[:, n], scores[:, n]) for n in range(2)])
    assert roc_auc(torch.tensor(scores), torch.tensor(present)) == pytest.approx(expected)
    tags = make_label(
        "tags", [[n for n, on in zip("abc", row, strict=True) if on] for row in present], ""
    )
    features = {row: torch.zeros(1, 2) for row in range(60)} | {
        row: torch.tensor(of)[None].float() for row, of in enumerate(scores)
    }
    data = type("D", (), {"splits": {"train": torch.arange(50)}})
    found, probe = judge_label(tags, features, {"": features}, data, list(range(50)), [])
    said = probe.scores(torch.stack([features[row] for row in range(50)]))
    macro = np.mean([average_precision_score(present[:, n], said[:, n]) for n in range(3)])
    assert found[""].metrics["map"] == pytest.approx(macro)


def test_values_of_groups_have_the_mean_of_the_recordings() -> None:
    values = np.array([1.0, 0.0, 0.0, np.nan, 1.0])
    groups = np.array(["a", "a", "a", "a", "b"])
    metric = float(np.nanmean(values))
    of = _of_groups(values, metric, groups)
    assert of.mean() == pytest.approx(metric)
    assert of[1] > of[0]


def test_a_distractor_is_as_loud_as_said() -> None:
    wave = torch.randn(6, 4000) * torch.tensor([1.0, 0.1, 0.01, 1, 2, 3])[:, None]
    added = with_distractor(wave, wave.roll(3, 0), 0.0) - wave
    torch.testing.assert_close(added.square().mean(1), wave.square().mean(1))
    quiet = with_distractor(wave, wave.roll(3, 0), 20.0) - wave
    torch.testing.assert_close(quiet, added / 10, rtol=1e-3, atol=1e-5)


def test_a_distractor_is_another_recording(tmp_path: Path, monkeypatch) -> None:
    """Also of long ones, of which every batch holds windows of one alone."""
    for number, pitch in enumerate((300, 500)):
        soundfile.write(tmp_path / f"{number}.wav", tone(1.5, pitch), RATE, subtype="PCM_16")
    monkeypatch.setattr("audio_music.data.recordings._BATCH_SECONDS", 1)
    data = load_recordings(tmp_path, rate=RATE, seconds=0.5, ratios=(1, 0, 0), device="cpu")

    def layers(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.fft.rfft(batch["wave"]).abs()[:, None, [150, 250]]  # 300 and 500 Hz

    system = SimpleNamespace(layers=layers)
    for row, alone in clip_layers(system, data, [0, 1]).items():
        assert alone[0, row] > 20 * alone[0, 1 - row]
    for both in clip_layers(system, data, [0, 1], 0.0).values():
        assert both.min() > 0.5 * both.max()
    with pytest.raises(DataError, match="with one recording"):
        clip_layers(system, data, [0], 0.0)


def test_metrics_that_nobody_measures() -> None:
    for monitor in ("accuracy", "map/", "mrr/x", "map/tags/noisy"):
        with pytest.raises(DataError, match=r"task\.monitor="):
            AudioProbing(monitor)
    assert AudioProbing("key_score/key").monitor == "key_score/key"


def test_a_monitor_that_is_no_number_on_validation_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        wave = tone(0.3, 300 + 100 * number)
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, subtype="PCM_16")
    lines = [
        {"audio_path": f"{n}.wav", "split": ("train", "valid")[n // 2], "tempo": tempo}
        for n, tempo in enumerate((1.5, 2.5, 2.5, 2.5))
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = load_recordings(tmp_path, rate=RATE, seconds=0.3, device="cpu")
    system = LogMel(RATE, n_mels=8, window=256, hop=80)
    with pytest.raises(DataError, match=r"r2/tempo: cannot be measured(?s:.*)one of rankme"):
        AudioProbing("r2/tempo").evaluate(system, data, "valid")


def test_a_monitor_of_a_label_that_is_not_there_is_refused_before_training() -> None:
    labels = {
        "genre": make_label("genre", ["rock", "jazz"], ""),
        "tempo": make_label("tempo", [99.5, None], ""),
    }
    data = SimpleNamespace(labels=labels, splits={"valid": torch.tensor([1])})
    for monitor in ("accuracy/gender", "map/genre", "key_score/genre", "r2/tempo"):
        with pytest.raises(DataError, match=r"no such label(?s:.*)rankme, accuracy/genre"):
            AudioProbing(monitor).train_loader(SimpleNamespace(), data, 4, 0)
    with pytest.raises(DataError, match="no such label"):
        AudioProbing("accuracy/genre", ["tempo"]).train_loader(SimpleNamespace(), data, 4, 0)


def test_recordings_at_another_rate_than_the_system_was_trained_at() -> None:
    system, data = SimpleNamespace(rate=24000), SimpleNamespace(rate=16000)
    with pytest.raises(DataError, match=r"at 16000 Hz for a system of 24000 Hz(?s:.*)rate=24000"):
        clip_vectors(system, data)


def test_metrics_are_collected_under_their_names() -> None:
    all_of = Judged({}, {})
    all_of.add(Judged({"map": 0.5}, {"map": np.array([0.4, 0.6])}), [3, 4], "tags/noisy")
    assert all_of.metrics == {"map/tags/noisy": 0.5}
    assert all_of.per_row["map/tags/noisy"].tolist() == [0.4, 0.6]
