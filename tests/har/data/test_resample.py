"""Resampling against scipy, and streams of different rates and starts on one clock."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import resample

from har.data.resample import (
    common_clock,
    fourier_resample,
    fourier_resample_all,
    normalise_skeleton,
    resample_at,
)


@pytest.mark.parametrize("n", [7, 8, 49, 50, 51, 107, 326])
@pytest.mark.parametrize("length", [8, 49, 50, 51])
def test_fourier_resampling_is_scipys(n, length):
    x = np.random.default_rng(n).standard_normal((3, n, 2))
    ours = fourier_resample(torch.from_numpy(x), length, dim=1).numpy()
    np.testing.assert_allclose(ours, resample(x, length, axis=1), rtol=1e-9, atol=1e-12)


def test_clips_of_all_lengths_keep_their_order():
    draw = np.random.default_rng(0)
    clips = [draw.standard_normal((n, 2, 3)) for n in (9, 5, 9, 12, 5, 10)]
    ours = fourier_resample_all([torch.from_numpy(clip) for clip in clips], 10).numpy()
    for row, clip in zip(ours, clips, strict=True):
        np.testing.assert_allclose(row, resample(clip, 10, axis=0), rtol=1e-9, atol=1e-12)


def test_a_skeleton_does_not_depend_on_place_and_unit():
    x = torch.randn(4, 3, 6, 5, dtype=torch.float64)
    own = normalise_skeleton(x, root=0, bone=(1, 3))
    assert own[:, :, 0, 0].abs().max() < 1e-12
    lengths = (own[:, :, 0, 1] - own[:, :, 0, 3]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4, dtype=torch.float64))
    moved = 1000 * x + torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(normalise_skeleton(moved, root=0, bone=(1, 3)), own)
    assert not torch.allclose(normalise_skeleton(x, root=1, bone=(1, 3)), own)


def sine(rate: float, start: float, seconds: float, hertz: float = 3.0) -> torch.Tensor:
    times = start + torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * times)[:, None]


def test_a_sine_coincides_whatever_its_rate_and_start():
    streams = {"a": (sine(30, 0.4, 8.0), 30.0, 0.4), "b": (sine(50, 0.113, 9.0), 50.0, 0.113)}
    out, start = common_clock(streams, 50.0)
    assert start == 0.4
    assert len(out["a"]) == len(out["b"]) == math.floor(7.0 * 50 + 29 * 50 / 30) + 1
    times = 0.4 + torch.arange(len(out["a"]), dtype=torch.float64) / 50
    exact = torch.sin(2 * math.pi * 3 * times)[:, None]
    inner = slice(50, -50)
    for values in out.values():
        assert (values - exact)[inner].abs().max() < 1e-3
    # By length the two would be out of step by a third of a second.
    assert (fourier_resample(streams["a"][0], 400, 0) - exact[:1]).abs().max() > 0.1


def test_the_ends_do_not_ring():
    ramp = torch.linspace(0, 10, 200, dtype=torch.float64)[:, None]
    out, _ = common_clock({"x": (ramp, 50.0, 0.0)}, 33.0)
    exact = torch.arange(len(out["x"]), dtype=torch.float64)[:, None] / 33 * 50 * 10 / 199
    assert (out["x"] - exact).abs().max() < 1e-3
    assert (fourier_resample(ramp, 132, 0) - exact).abs().max() > 1  # periodic: it jumps


def test_what_the_slower_clock_cannot_hold_is_removed():
    fast = sine(200, 0.0, 4.0, hertz=40.0)
    times = torch.arange(100, dtype=torch.float64) / 50 + 1
    assert resample_at(fast, 200.0, 0.0, 50.0, 1.0, 100).abs().max() < 1e-3
    slow = sine(200, 0.0, 4.0, hertz=15.0)
    exact = torch.sin(2 * math.pi * 15 * times)[:, None]
    assert (resample_at(slow, 200.0, 0.0, 50.0, 1.0, 100) - exact).abs().max() < 1e-2


def test_the_same_clock_changes_nothing():
    x = torch.randn(30, 2, 3)
    out, _ = common_clock({"x": (x, 25.0, 1.0)}, 25.0)
    torch.testing.assert_close(out["x"], x, atol=1e-5, rtol=0)


def test_streams_that_do_not_overlap_give_nothing():
    out, _ = common_clock(
        {"a": (sine(30, 0, 2), 30.0, 0.0), "b": (sine(30, 5, 2), 30.0, 5.0)}, 30.0
    )
    assert [len(values) for values in out.values()] == [0, 0]


def test_a_series_shorter_than_the_kernel_stays_finite():
    out, _ = common_clock({"x": (torch.tensor([[1.0], [2.0], [3.0]]), 10.0, 0.0)}, 40.0)
    assert len(out["x"]) == 9
    torch.testing.assert_close(out["x"][:, 0], torch.linspace(1, 3, 9), atol=0.2, rtol=0)
