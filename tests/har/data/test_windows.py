"""Windows: cut, padded, standardised, split by subject, the same on every reading."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from scipy.signal import resample

from core.data.checks import DataError
from har.data.cut import Cut, cut_recordings, sliding_windows
from har.data.readers import read_recordings
from har.data.recordings import Recording, Recordings, Stream
from har.data.utd_mhad import read_utd_mhad
from har.data.windows import load_windows, scaled
from tests.har.data.layouts import write_utd

CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_utd(tmp_path_factory.mktemp("utd"))


def test_whole_clips_are_stretched_as_scipy_does_it(folder):
    data = load_windows(folder, **CPU)
    assert data.shapes == {"skeleton": [3, 50, 20], "imu": [6, 50]}
    assert (data.rate, data.ids[3], data.n_classes["subject"]) == (None, "a1_s2_t2", 4)
    raw = loadmat(folder / "Skeleton" / "a1_s2_t2_skeleton.mat")["d_skel"]
    raw = raw - raw[2, :, 0][None, :, None]
    raw = raw / np.linalg.norm(raw[1, :, 0] - raw[2, :, 0])
    expected = resample(raw, 50, axis=2).transpose(1, 2, 0)
    np.testing.assert_allclose(data.inputs["skeleton"][3], expected, atol=2e-5)
    raw = loadmat(folder / "Inertial" / "a1_s2_t2_inertial.mat")["d_iner"]
    np.testing.assert_allclose(data.inputs["imu"][3], resample(raw, 50).T, atol=2e-3)
    assert "mask" not in data.columns("train")


def test_rows_follow_their_subjects(folder):
    data = load_windows(folder, **CPU)
    names = data.classes["subject"]
    for split, expected in (("train", {"1"}), ("valid", {"3"}), ("test", {"2", "4"})):
        rows = data.splits[split]
        assert {names[n] for n in data.labels["subject"][rows].tolist()} == expected
        assert {data.ids[row].split("_")[1][1:] for row in rows.tolist()} == expected
    assert data.labels["label"].tolist() == [int(name[1]) - 1 for name in data.ids]
    assert len(data.classes["label"]) == 27
    kept = data.without_test()
    assert len(kept.lengths) == len(kept.ids) == 8
    assert kept.edges == data.edges


def clip(name: str, seconds: float, starts: tuple[float, float] = (0.0, 0.0)) -> Recording:
    """One motion of 1.3 Hz in both sensors: a joint's x is the sine, so is the first channel."""
    streams = {}
    for modality, rate, start in zip(("skeleton", "imu"), (30.0, 50.0), starts, strict=True):
        times = start + np.arange(round(seconds * rate)) / rate
        wave = np.sin(2 * math.pi * 1.3 * times)
        if modality == "imu":
            values = np.stack([wave, np.ones_like(wave)], 1)
        else:
            values = np.zeros((len(times), 3, 3))
            values[:, 1, 1], values[:, 2, 0] = 1, wave
        streams[modality] = Stream(values.astype(np.float32), rate, start)
    return Recording(name, name[0], 0, streams)


def recordings(*clips: Recording) -> Recordings:
    return Recordings(
        list(clips), ["a"], ["hip", "head", "hand"], [(0, 1)], ["x [g]", "y [g]"], 0, (0, 1)
    )


def test_streams_of_other_starts_are_in_step_on_one_clock():
    data = recordings(clip("b", 6.0, starts=(0.5, 0.1)))
    pieces = cut_recordings(data, Cut(seconds=2.0, overlap=0.75, rate=40.0), "cpu")
    assert pieces.ids[:2] == ["b@0.50", "b@1.00"]
    starts = torch.tensor([float(name[2:]) for name in pieces.ids])
    exact = torch.sin(2 * math.pi * 1.3 * (starts[:, None] + torch.arange(80) / 40))
    hand, wave = pieces.inputs["skeleton"][:, 0, :, 2], pieces.inputs["imu"][:, 0]
    assert len(exact) >= 6
    for values in (hand, wave):  # the first and the last window end where the recording does
        assert (values - exact)[1:-1].abs().max() < 5e-3
        assert (values - exact).abs().max() < 0.1


def test_streams_of_other_starts_are_in_step_when_stretched():
    data = recordings(clip("b", 6.0, starts=(0.5, 0.1)))
    pieces = cut_recordings(data, Cut(length=120), "cpu")
    shared = 6.1 - 0.5
    exact = torch.sin(2 * math.pi * 1.3 * (0.5 + torch.arange(120) * shared / 120))
    hand, wave = pieces.inputs["skeleton"][0, 0, :, 2], pieces.inputs["imu"][0, 0]
    inner = slice(15, -15)  # the Fourier coefficients take a clip for one period
    assert (hand - exact)[inner].abs().max() < 0.1
    assert (wave - exact)[inner].abs().max() < 0.1
    # What the IMU would be if its start were not heeded.
    late = torch.sin(2 * math.pi * 1.3 * (0.1 + torch.arange(120) * 6.0 / 120))
    assert (late - exact)[inner].abs().max() > 1


def test_what_fills_no_window_is_dropped_and_what_is_short_is_padded():
    data = recordings(clip("l", 5.3), clip("s", 1.5))
    cut = Cut(seconds=2.0, overlap=0.5, rate=50.0)
    pieces = cut_recordings(data, cut, "cpu")
    assert pieces.ids == ["l@0.00", "l@1.00", "l@2.00", "l@3.00", "s"]
    assert pieces.recording == [0, 0, 0, 0, 1]
    assert pieces.lengths[:4].tolist() == [100] * 4
    short = int(pieces.lengths[4])
    assert 70 <= short <= 75
    assert pieces.inputs["imu"][4, 1, :short].min() > 0.99
    for values in (pieces.inputs["imu"][4, :, short:], pieces.inputs["skeleton"][4, :, short:]):
        assert values.abs().max() == 0


def test_padding_is_masked_and_stays_zero(folder):
    data = load_windows(folder, seconds=2.5, rate=40.0, standardize=True, **CPU)
    assert data.rate == 40.0
    columns = data.columns("train")
    mask = columns["mask"]
    assert mask.shape == (len(data.splits["train"]), 100)
    assert 0 < int((~mask).sum()) < mask.numel() / 2
    torch.testing.assert_close(mask.sum(1), data.lengths[data.splits["train"]])
    assert columns["imu"].transpose(1, 2)[~mask].abs().max() == 0
    assert columns["skeleton"].permute(0, 2, 1, 3)[~mask].abs().max() == 0
    real = columns["imu"].transpose(1, 2)[mask]
    torch.testing.assert_close(real.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std(0, unbiased=False), torch.ones(6), atol=1e-4, rtol=0)


def test_statistics_are_of_the_training_rows_alone(folder):
    plain = load_windows(folder, **CPU)
    data = load_windows(folder, standardize=True, **CPU)
    train = plain.splits["train"]
    mean, deviation = data.scaling["skeleton"]
    assert mean.shape == deviation.shape == (3, 1, 20)
    torch.testing.assert_close(mean[:, 0], plain.inputs["skeleton"][train].mean((0, 2)))
    assert data.inputs["skeleton"][train].mean().abs() < 1e-4
    assert data.inputs["imu"][data.splits["test"]].mean((0, 2)).abs().max() > 1e-3
    again = scaled(plain.inputs, data.scaling, plain.lengths)
    torch.testing.assert_close(again["imu"], data.inputs["imu"])
    assert not plain.scaling


def test_labels_can_be_hidden_by_subject(folder):
    plain, data = load_windows(folder, **CPU), load_windows(folder, unlabelled_subjects=[1], **CPU)
    hidden = data.labels["subject"] == 0
    assert int(hidden.sum()) == 4
    assert data.labels["label"][hidden].tolist() == [-1] * 4
    assert torch.equal(data.labels["label"][~hidden], plain.labels["label"][~hidden])
    assert torch.equal(data.splits["train"], plain.splits["train"])
    with pytest.raises(DataError, match="unlabelled_subjects names 7"):
        load_windows(folder, unlabelled_subjects=[7], **CPU)


def test_the_digest_tells_readings_apart(folder):
    base = load_windows(folder, **CPU).digest()
    assert load_windows(folder, **CPU).digest() == base
    others = [
        {"length": 40},
        {"standardize": True},
        {"seconds": 2.0},
        {"seconds": 2.0, "overlap": 0.25},
        {"split": "leave_out"},
        {"modalities": ("imu",)},
        {"unlabelled_subjects": ["1"]},
    ]
    digests = {load_windows(folder, **CPU, **other).digest() for other in others}
    assert len(digests | {base}) == len(others) + 1


def test_one_modality_alone(folder):
    data = load_windows(folder, modalities=["imu"], **CPU)
    assert list(data.inputs) == ["imu"]
    assert data.joints == []
    assert load_windows(folder, modalities=["skeleton"], **CPU).channels == []
    with pytest.raises(DataError, match=r"data.modalities="):
        load_windows(folder, modalities=["video"], **CPU)


@pytest.mark.parametrize(
    "wrong", [{"length": 1}, {"overlap": 1.0}, {"rate": 0.0}, {"seconds": 0.01}]
)
def test_a_cut_out_of_range_is_refused(folder, wrong):
    with pytest.raises(DataError, match=f"data.{next(iter(wrong))}="):
        load_windows(folder, **CPU, **wrong)


def test_recordings_that_cannot_be_cut_are_named():
    with pytest.raises(DataError, match=r"b: its streams share 0\.00 s"):
        cut_recordings(recordings(clip("b", 2.0, starts=(0.0, 5.0))), Cut(), "cpu")
    with pytest.raises(DataError, match=r"b: its streams share"):
        cut_recordings(recordings(clip("b", 2.0, starts=(0.0, 5.0))), Cut(seconds=1.0), "cpu")
    flat = clip("b", 2.0)
    flat.streams["skeleton"].values[0] = 0
    with pytest.raises(DataError, match="b: hip and head are at one place in the first frame"):
        cut_recordings(recordings(flat), Cut(), "cpu")


def test_sliding_windows_of_one_recording():
    data = recordings(clip("b", 10.0, starts=(0.0, 0.2)))
    inputs, starts = sliding_windows(data, Cut(seconds=2.0, rate=25.0), 2.0, 1.0, "cpu")
    assert starts == pytest.approx([0.2 + n for n in range(len(starts))])
    assert inputs["skeleton"].shape == (len(starts), 3, 50, 3)
    assert inputs["skeleton"][:, :, 0, 0].abs().max() == 0
    whole = cut_recordings(data, Cut(seconds=2.0, rate=25.0, overlap=0.5), "cpu")
    torch.testing.assert_close(inputs["imu"], whole.inputs["imu"])
    torch.testing.assert_close(inputs["skeleton"], whole.inputs["skeleton"])
    # A model of clips that are stretched to 40 steps.
    inputs, starts = sliding_windows(data, Cut(length=40), 2.5, 0.5, "cpu")
    assert starts == pytest.approx([0.2 + n / 2 for n in range(len(starts))])
    assert inputs["imu"].shape == (len(starts), 2, 40)
    times = torch.tensor(starts)[:, None] + torch.arange(40) * 2.5 / 40
    exact = torch.sin(2 * math.pi * 1.3 * times)
    assert (inputs["imu"][1:-1, 0] - exact[1:-1]).abs().max() < 0.01
    assert (inputs["skeleton"][1:-1, 0, :, 2] - exact[1:-1]).abs().max() < 0.01
    with pytest.raises(DataError, match=r"b lasts 9\.80 s") as refused:
        sliding_windows(data, Cut(), 11.0, 1.0, "cpu")
    fits = float(str(refused.value).rpartition("predict.seconds=")[2])
    assert 9.7 < fits < 9.91
    assert len(sliding_windows(data, Cut(), fits, 1.0, "cpu")[1]) == 1


@pytest.mark.parametrize("seconds", [0.95, 2.0, 2.75, 3.31, 4.17])
def test_a_window_that_is_too_long_is_told_what_would_fit(seconds):
    data = recordings(clip("b", seconds))
    with pytest.raises(DataError, match="b lasts ") as refused:
        sliding_windows(data, Cut(), seconds + 0.5, 0.5, "cpu")
    fits = float(str(refused.value).rpartition("predict.seconds=")[2])
    assert seconds - 0.15 < fits < seconds + 0.05
    assert len(sliding_windows(data, Cut(), fits, 9.0, "cpu")[1]) == 1


@pytest.mark.parametrize(("seconds", "step"), [(0, 1.0), (2.0, -1), ("long", 1.0), (2.0, None)])
def test_windows_that_slide_nowhere(seconds, step):
    with pytest.raises(DataError, match=f"windows of {seconds} s every {step} s"):
        sliding_windows(recordings(clip("b", 4.0)), Cut(), seconds, step, "cpu")


def test_streams_that_share_nothing_have_no_window_that_fits():
    data = recordings(clip("b", 2.0, starts=(0.0, 5.0)))
    with pytest.raises(DataError, match=r"(?s)b lasts 0\.00 s.*a longer recording"):
        sliding_windows(data, Cut(), 1.0, 0.5, "cpu")


@pytest.mark.real
def test_the_real_utd_mhad(real_data):
    path = real_data / "utd_mhad"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    data = load_windows(path, **CPU)
    assert len(data.ids) == 861
    assert {s: len(rows) for s, rows in data.splits.items()} == {
        "train": 323,
        "valid": 108,
        "test": 430,
    }
    assert data.labels["label"].unique().tolist() == list(range(27))
    assert data.classes["subject"] == [str(n) for n in range(1, 9)]
    assert not {"a8_s1_t4", "a23_s6_t4", "a27_s8_t4"} & set(data.ids)
    assert all(bool(values.isfinite().all()) for values in data.inputs.values())
    assert sorted(read_recordings(path).recordings[0].streams) == ["imu", "skeleton"]


@pytest.mark.real
def test_the_real_streams_are_in_step_as_they_are_read(real_data):
    """The forearm turns when the gyroscope at the wrist says so: not if 30 Hz were believed."""
    path = real_data / "utd_mhad"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    found = {}
    for rate in (None, 30.0):
        data = read_utd_mhad(path, skeleton_rate=rate)
        arms = [r for r in data.recordings if r.label < 21][::10]
        pieces = cut_recordings(
            replace(data, recordings=arms),
            Cut(length=100),
            "cpu",
        )
        forearm = pieces.inputs["skeleton"][..., 10] - pieces.inputs["skeleton"][..., 9]
        turning = torch.nn.functional.normalize(forearm, dim=1).diff(dim=2).norm(dim=1)
        gyro = pieces.inputs["imu"][:, 3:, 1:].norm(dim=1)
        both = torch.stack([turning, gyro]) - torch.stack([turning, gyro]).mean(2, keepdim=True)
        found[rate] = float(torch.cosine_similarity(both[0], both[1], dim=1).mean())
    assert found[None] > 0.55
    assert found[30.0] < 0.3
