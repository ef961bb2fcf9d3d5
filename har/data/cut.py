"""Cuts recordings into windows of one length, on any device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.data.findings import Findings
from har.data.recordings import IMU, SKELETON, Recording, Recordings
from har.data.resample import bone_length, common_clock, fourier_resample_all, normalise_skeleton

_SMALLEST_BONE = 1e-6


@dataclass(frozen=True)
class Cut:
    """How recordings become windows.

    Attributes:
        modalities: `skeleton`, `imu`, or both.
        length: steps that a whole recording is stretched to.
        seconds: length of a window on the common clock; None takes whole recordings.
        overlap: of consecutive windows, as a share of their length.
        rate: steps a second of the common clock.

    Raises:
        DataError: one of them is out of its range.
    """

    modalities: tuple[str, ...] = (SKELETON, IMU)
    length: int = 50
    seconds: float | None = None
    overlap: float = 0.5
    rate: float = 50.0

    def __post_init__(self) -> None:
        wrong = {
            "length, at least 2": self.length < 2,
            "overlap, at least 0 and below 1": not 0 <= self.overlap < 1,
            "rate, above 0": not self.rate > 0,
            "seconds, at least two steps": self.seconds is not None and self.steps < 2,
        }
        for what, is_wrong in wrong.items():
            if is_wrong:
                name, expected = what.split(", ")
                raise DataError(f"data.{name}={getattr(self, name)}", expected=expected)

    @property
    def steps(self) -> int:
        """Steps of a window."""
        return self.length if self.seconds is None else round(self.seconds * self.rate)

    @property
    def hop(self) -> int:
        """Steps from one window of `seconds` to the next."""
        return max(1, round(self.steps * (1 - self.overlap)))


@dataclass(frozen=True)
class Pieces:
    """Windows of some recordings.

    Attributes:
        inputs: `skeleton` (n, 3, time, joints), `imu` (n, channels, time), float32.
        lengths: (n,) steps that are not padding.
        recording: (n) number of the recording that each is of.
        ids: (n) its name, with `@SECONDS` where it gives several.
    """

    inputs: dict[str, Float[Tensor, "n ..."]]
    lengths: Int64[Tensor, " n"]
    recording: list[int]
    ids: list[str]


def cut_recordings(
    data: Recordings,
    cut: Cut,
    device: str | torch.device | None = None,
    findings: Findings | None = None,
) -> Pieces:
    """Windows of all recordings, in their order.

    Args:
        data: the recordings; each has all modalities of the cut.
        cut: how to cut them.
        device: where; None takes the GPU where there is one.
        findings: collects problems where it is not strict.

    Raises:
        DataError: no recordings, streams that share no time, or a skeleton of no size.
    """
    findings = findings or Findings()
    if not data.recordings:
        raise DataError("no recordings")
    streams = {name: _on_device(data.recordings, name, device) for name in cut.modalities}
    return (_whole if cut.seconds is None else _on_clock)(data, streams, cut, findings)


def sliding_windows(
    data: Recordings,
    cut: Cut,
    seconds: float,
    step: float,
    device: str | torch.device | None = None,
) -> tuple[dict[str, Float[Tensor, "n ..."]], list[float]]:
    """Windows of one long recording, for a model trained on windows of `cut`.

    A model of whole clips gets windows of `seconds` stretched to its length; one of windows in
    seconds gets windows as long as those.

    Args:
        data: one recording.
        cut: that of the training.
        seconds: length of a window, where the model was trained on whole clips.
        step: seconds from one window to the next, rounded to the clock of the windows.
        device: see `cut_recordings`.

    Returns:
        Inputs as in training, before any scaling, and each window's start in seconds on the
        recording's own clock.

    Raises:
        DataError: not one recording, or one shorter than a window.
    """
    if len(data.recordings) != 1:
        raise DataError(f"{len(data.recordings)} recordings", expected="one")
    if any(not isinstance(value, int | float) or not value > 0 for value in (seconds, step)):
        raise DataError(f"windows of {seconds} s every {step} s", expected="both above 0")
    whole = cut.seconds is None
    if whole:
        # On this clock a window has as many steps as the model was trained on.
        cut = Cut(cut.modalities, cut.length, seconds, 0.0, cut.length / seconds)
    only = data.recordings[0]
    streams = {name: _on_device(data.recordings, name, device)[0] for name in cut.modalities}
    clocked, start = common_clock(_timed(only, streams), cut.rate)
    n_steps = len(next(iter(clocked.values())))
    if n_steps < cut.steps:
        own = [only.streams[name] for name in cut.modalities]
        lasts = max(0.0, min(stream.start + stream.seconds for stream in own) - start)
        # The last step of a window lies one step before its end, that of a stream one sample.
        last = min(stream.start + (len(stream.values) - 1) / stream.rate for stream in own) - start
        shorter = math.floor(10 * last * cut.steps / (cut.steps - 1)) / 10
        raise DataError(
            f"{only.name} lasts {lasts:.2f} s",
            expected=f"at least one window of {cut.steps / cut.rate:.2f} s",
            fix=f"predict.seconds={shorter:.1f}" if whole and shorter > 0 else "a longer recording",
        )
    hop = max(1, round(step * cut.rate))
    inputs = {name: _windows(values, cut.steps, hop) for name, values in clocked.items()}
    starts = [start + first / cut.rate for first in range(0, n_steps - cut.steps + 1, hop)]
    if SKELETON in inputs:
        names = [f"{only.name}@{at:.2f}" for at in starts]
        inputs[SKELETON] = _normalised(inputs[SKELETON], data, names, Findings())
    return inputs, starts


def _whole(
    data: Recordings, streams: dict[str, list[Tensor]], cut: Cut, findings: Findings
) -> Pieces:
    """Every recording as one window: the time that its streams share, stretched."""
    clips: dict[str, list[Tensor]] = {name: [] for name in cut.modalities}
    rows = []
    for number, recording in enumerate(data.recordings):
        own = [recording.streams[name] for name in cut.modalities]
        start = max(stream.start for stream in own)
        end = min(stream.start + stream.seconds for stream in own)
        firsts = [round((start - stream.start) * stream.rate) for stream in own]
        counts = [round((end - start) * stream.rate) for stream in own]
        if min(counts) < 2:
            findings.problem(_apart(recording, start, end))
            continue
        rows.append(number)
        for name, first, count in zip(cut.modalities, firsts, counts, strict=True):
            clips[name].append(streams[name][number][first : first + count])
    if not rows:
        raise DataError("no recording can be cut")
    ids = [data.recordings[number].name for number in rows]
    inputs = {}
    for name, parts in clips.items():
        stretched = fourier_resample_all(parts, cut.length)
        if name == IMU:
            inputs[name] = stretched.transpose(1, 2).contiguous()
        else:
            frames = torch.stack([part[0] for part in parts]).transpose(1, 2)
            moved = stretched.permute(0, 3, 1, 2)
            inputs[name] = _normalised(moved, data, ids, findings, frames)
    lengths = torch.full((len(rows),), cut.length, device=next(iter(inputs.values())).device)
    return Pieces(inputs, lengths, rows, ids)


def _on_clock(
    data: Recordings, streams: dict[str, list[Tensor]], cut: Cut, findings: Findings
) -> Pieces:
    """Windows of `seconds` on the common clock."""
    parts: dict[str, list[Tensor]] = {name: [] for name in cut.modalities}
    rows: list[int] = []
    ids: list[str] = []
    lengths: list[int] = []
    for number, recording in enumerate(data.recordings):
        own = {name: values[number] for name, values in streams.items()}
        clocked, start = common_clock(_timed(recording, own), cut.rate)
        n_steps = len(next(iter(clocked.values())))
        if n_steps < 2:
            end = min(stream.start + stream.seconds for stream in recording.streams.values())
            findings.problem(_apart(recording, start, end))
            continue
        for name, values in clocked.items():
            parts[name].append(_windows(values, cut.steps, cut.hop))
        firsts = range(0, max(1, n_steps - cut.steps + 1), cut.hop)
        rows += [number] * len(firsts)
        lengths += [min(n_steps, cut.steps)] * len(firsts)
        several = len(firsts) > 1
        ids += [
            f"{recording.name}@{start + first / cut.rate:.2f}" if several else recording.name
            for first in firsts
        ]
    if not rows:
        raise DataError("no recording can be cut")
    inputs = {name: torch.cat(windows) for name, windows in parts.items()}
    real = torch.tensor(lengths, device=next(iter(inputs.values())).device)
    if SKELETON in inputs:
        moved = _normalised(inputs[SKELETON], data, ids, findings)
        mask = torch.arange(cut.steps, device=real.device) < real[:, None]
        inputs[SKELETON] = moved * mask[:, None, :, None]
    return Pieces(inputs, real, rows, ids)


def _apart(recording: Recording, start: float, end: float) -> DataError:
    return DataError(
        f"{recording.name}: its streams share {max(0.0, end - start):.2f} s",
        expected="streams that overlap in time",
        fix="check their rates and starts",
    )


def _timed(
    recording: Recording, streams: dict[str, Tensor]
) -> dict[str, tuple[Tensor, float, float]]:
    own = recording.streams
    return {name: (values, own[name].rate, own[name].start) for name, values in streams.items()}


def _windows(values: Float[Tensor, "time ..."], steps: int, hop: int) -> Float[Tensor, "n ..."]:
    """Windows with the channels before the time; a short series is one, padded with zeros."""
    if len(values) < steps:
        values = torch.cat([values, values.new_zeros(steps - len(values), *values.shape[1:])])
    cut = values.unfold(0, steps, hop)  # (n, channels, time) or (n, joints, 3, time)
    return (cut.permute(0, 2, 3, 1) if cut.ndim == 4 else cut).contiguous()


def _normalised(
    skeleton: Float[Tensor, "n 3 time joints"],
    data: Recordings,
    names: Sequence[str],
    findings: Findings,
    first: Float[Tensor, "n 3 joints"] | None = None,
) -> Float[Tensor, "n 3 time joints"]:
    bone = (data.bone[0], data.bone[1])
    first = skeleton[:, :, 0] if first is None else first
    flat = bone_length(first, bone) < _SMALLEST_BONE
    if bool(flat.any()):
        for row in flat.nonzero().flatten().tolist():
            findings.problem(
                DataError(
                    f"{names[row]}: {data.joints[bone[0]]} and {data.joints[bone[1]]} are at one "
                    "place in the first frame, so that the skeleton has no scale",
                    fix="leave it out, or declare a bone that is always tracked",
                )
            )
    return normalise_skeleton(skeleton, data.root, bone, first).contiguous()


def _on_device(
    recordings: list[Recording], name: str, device: str | torch.device | None
) -> list[Tensor]:
    """All recordings' values of a modality, sent to the device at once."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = [recording.streams[name].values for recording in recordings]
    together = torch.from_numpy(np.concatenate(arrays)).to(device)
    return list(together.split([len(array) for array in arrays]))
