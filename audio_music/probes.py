"""Probes of the labels of recordings, and how their predictions are judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audio_music.beats import TOLERANCE, beat_f1, pick_beats
from audio_music.data.labels import Label
from audio_music.data.recordings import Recordings, Window
from audio_music.keys import weighted_scores
from core.data.checks import DataError
from core.evaluation.average_precision import mean_average_precision
from core.evaluation.classification import classification
from core.evaluation.layer_probe import LayerProbe, fit_layer_probe
from core.trainers.system import System

Layers = Mapping[int, Float[Tensor, "layers dim"]]
# Frames of a recording, their seconds, and the seconds of its beats.
Framed = tuple[Float[Tensor, "time layers dim"], np.ndarray, np.ndarray]
_FIXED_EPOCHS = 30  # of a probe that validation must not choose
_MOST_FRAMES = 40_000  # that a probe of beats learns from, and is chosen by
_THRESHOLDS = np.linspace(0.05, 0.95, 19)
_FIXED_THRESHOLD = 0.4


@dataclass
class Judged:
    """Metrics, and the values of recordings whose mean they are, NaN where one has no label.

    Attributes:
        metrics: name -> value.
        per_row: name -> (n,).
    """

    metrics: dict[str, float]
    per_row: dict[str, Float[np.ndarray, " n"]]

    def add(self, other: "Judged", rows: Sequence[int], ending: str) -> None:
        """Takes over metrics under the names `METRIC/ending`."""
        for name, value in other.metrics.items():
            self.metrics[f"{name}/{ending}"] = value
        for name, values in other.per_row.items():
            assert len(values) == len(rows)
            self.per_row[f"{name}/{ending}"] = values


def judge_label(
    label: Label,
    features: Layers,
    heard: Mapping[str, Layers],
    data: Recordings,
    rows: Sequence[int],
    valid: Sequence[int],
) -> tuple[dict[str, Judged], LayerProbe | None]:
    """Fits a probe of one label, and judges it on some recordings.

    Args:
        label: classes, tags or a value.
        features: of the training and validation recordings.
        heard: ending -> features of the recordings to judge by, such as noisy ones.
        data: the recordings.
        rows: which of them are judged.
        valid: those that choose rate and epoch; none: nothing is chosen.

    Returns:
        Ending -> what was found, and the probe; nothing where the label is not known in training
        and in the judged recordings, or no class is in both.
    """
    train = _known(label, data.splits["train"].tolist())
    chooses, judged = _known(label, valid), _known(label, rows)
    if not train or not judged or (valid and not chooses):
        return {}, None
    if label.numbers is not None:
        learnt, asked = (set(label.numbers.cpu()[of].tolist()) for of in (train, judged))
        # Titles, and artists of whom each is in one split, are not to be told from training.
        if len(learnt) < 2 or not learnt & asked:
            return {}, None
    targets, scale = _targets(label, train)
    n_outputs = {"classes": len(label.names), "tags": len(label.names)}.get(label.kind, 1)

    def choose(scores: Tensor) -> float:
        if label.values is not None:  # ordered as R2 is, which one value alone does not have
            told = label.values[torch.tensor(chooses).to(label.values.device)]
            return -float((scores[:, 0] * scale[1] + scale[0] - told).square().mean())
        return next(iter(_metrics(label, scores, chooses, scale).metrics.values()))

    probe = fit_layer_probe(
        _stacked(features, train),
        targets,
        _stacked(features, chooses) if chooses else None,
        choose,
        label.kind,  # type: ignore[arg-type]
        n_outputs,
        max_epochs=100 if chooses else _FIXED_EPOCHS,
    )
    found = {}
    for ending, of in heard.items():
        own = _metrics(label, probe.scores(_stacked(of, judged)), judged, scale)
        known = set(judged)
        places = [place for place, row in enumerate(rows) if row in known]
        for name, values in own.per_row.items():
            spread = np.full(len(rows), np.nan)
            spread[places] = values
            own.per_row[name] = spread
        found[ending] = own
    return found, probe


def _known(label: Label, rows: Sequence[int]) -> list[int]:
    known = label.known.tolist()
    return [row for row in rows if known[row]]


def _stacked(features: Layers, rows: Sequence[int]) -> Float[Tensor, "n layers dim"]:
    return torch.stack([features[row] for row in rows])


def _targets(label: Label, train: Sequence[int]) -> tuple[Tensor, tuple[float, float]]:
    """What a probe learns, and mean and deviation of a value."""
    chosen = torch.tensor(train)
    if label.numbers is not None:
        return label.numbers[chosen.to(label.numbers.device)], (0.0, 1.0)
    if label.present is not None:
        return label.present[chosen.to(label.present.device)], (0.0, 1.0)
    assert label.values is not None
    values = label.values[chosen.to(label.values.device)]
    mean, deviation = float(values.mean()), max(float(values.std(correction=0)), 1e-12)
    return (values - mean) / deviation, (mean, deviation)


def _metrics(
    label: Label, scores: Tensor, rows: Sequence[int], scale: tuple[float, float]
) -> Judged:
    """The metrics of a label; the first is what a probe is chosen by."""
    chosen = torch.tensor(rows)
    if label.numbers is not None:
        truth = label.numbers[chosen.to(label.numbers.device)]
        # A row is its own unit, in the order of the rows.
        found = classification(scores, truth, range(len(rows)), "recording")
        judged = Judged(dict(found.metrics), dict(found.per_unit))
        worth = weighted_scores(label.names)
        if worth is not None:
            values = worth[truth.cpu().numpy(), scores.argmax(1).cpu().numpy()]
            judged.metrics = {"key_score": float(values.mean())} | judged.metrics
            judged.per_row["key_score"] = values
        return judged
    if label.present is not None:
        present = label.present[chosen.to(label.present.device)]
        total, values, _ = mean_average_precision(scores, present)
        return Judged({"map": total, "roc_auc": roc_auc(scores, present)}, {"map": values})
    assert label.values is not None
    truth = label.values[chosen.to(label.values.device)].cpu().numpy().astype(np.float64)
    said = scores[:, 0].cpu().numpy() * scale[1] + scale[0]
    squared, spread = (said - truth) ** 2, (truth - truth.mean()) ** 2
    if not spread.sum():
        return Judged({"r2": float("nan")}, {})
    r2 = float(1 - squared.sum() / spread.sum())
    # Linearised: the mean over recordings is R2.
    return Judged({"r2": r2}, {"r2": r2 - (squared - (1 - r2) * spread) / spread.mean()})


def roc_auc(scores: Float[Tensor, "n tags"], present: Tensor) -> float:
    """Mean area under the ROC curve of the tags that some rows have and some have not."""
    from sklearn.metrics import roc_auc_score

    truth, said = present.cpu().numpy(), scores.cpu().numpy()
    mixed = truth.any(0) & ~truth.all(0)
    if not mixed.any():
        return float("nan")
    return float(np.mean([roc_auc_score(truth[:, n], said[:, n]) for n in np.flatnonzero(mixed)]))


def probe_beats(
    system: System, data: Recordings, name: str, rows: Sequence[int], valid: Sequence[int]
) -> Judged:
    """A probe of the frames that hold a beat, and F1 of the beats that it picks.

    It learns from random training recordings of 40,000 frames together, and as many of validation
    choose the threshold, rate and epoch; nothing is chosen where validation is judged.
    """
    label = data.labels[name]
    train, chooses = _known(label, data.splits["train"].tolist()), _known(label, valid)
    if not train or not _known(label, rows) or (valid and not chooses):
        return Judged({}, {})
    learnt, valid_frames = (_framed(system, data, label, of) for of in (train, chooses))
    targets = [beat_targets(times, beats) for _, times, beats in learnt]

    def judge(scores: Tensor) -> float:
        truth = torch.cat([beat_targets(times, beats) == 1 for _, times, beats in valid_frames])
        return mean_average_precision(scores.cpu(), truth[:, None])[0]

    probe = fit_layer_probe(
        torch.cat([frames for frames, _, _ in learnt]),
        torch.cat(targets)[:, None].to(learnt[0][0].device),
        torch.cat([frames for frames, _, _ in valid_frames]) if chooses else None,
        judge,
        "tags",
        1,
        max_epochs=20 if chooses else 5,
        patience=4,
        batch_size=512,
    )

    def f1_of(frames: Tensor, times: np.ndarray, beats: np.ndarray, threshold: float) -> float:
        scores = probe.scores(frames)[:, 0].sigmoid().cpu().numpy()
        return beat_f1(beats, pick_beats(scores, times, threshold))

    threshold = _FIXED_THRESHOLD
    if chooses:
        means = [np.mean([f1_of(*of, each) for of in valid_frames]) for each in _THRESHOLDS]
        threshold = float(_THRESHOLDS[int(np.argmax(means))])
    values = np.full(len(rows), np.nan)
    for place, row in enumerate(rows):
        if (beats := label.times[row]) is not None:
            values[place] = f1_of(*clip_frames(system, data, row), beats, threshold)
    return Judged({"beat_f1": float(np.nanmean(values))}, {"beat_f1": values})


def _framed(system: System, data: Recordings, label: Label, rows: Sequence[int]) -> list[Framed]:
    """Of random recordings that have beats, until there are enough frames; in half precision."""
    found: list[Framed] = []
    n_frames = 0
    for row in np.random.default_rng(0).permutation(rows).tolist():
        beats = label.times[row]
        if beats is None or n_frames > _MOST_FRAMES:
            continue
        frames, times = clip_frames(system, data, row)
        found.append((frames.half(), times, beats))
        n_frames += len(times)
    return found


@torch.no_grad()
def clip_frames(
    system: System, data: Recordings, row: int
) -> tuple[Float[Tensor, "time layers dim"], Float[np.ndarray, " time"]]:
    """All frames of a recording, window after window, and their times in seconds.

    What the windows of the recording leave out at its end is heard in one more that ends there.
    """
    frames, times = [], []
    clip = data.clips[row]
    windows = data.windows_of(row)
    end = windows[-1].start + windows[-1].count
    if end < clip.frames:
        size = windows[0].count
        windows.append(Window(row, clip.frames - size, size))
    for some, batch in data.batches_of(windows):
        found = system.frames(batch)  # type: ignore[operator]
        for window, of in zip(some, found, strict=True):
            own = system.frame_times(of.shape[0]).numpy()  # type: ignore[operator]
            inside = own < window.count / clip.rate
            if window.start < end < window.start + window.count:
                inside &= own >= (end - window.start) / clip.rate
            frames.append((window.start, of[torch.from_numpy(inside).to(of.device)]))
            times.append((window.start, own[inside] + window.start / clip.rate))
    ordered = [of for _, of in sorted(frames, key=lambda part: part[0])]
    return torch.cat(ordered), np.concatenate([of for _, of in sorted(times, key=lambda p: p[0])])


def beat_targets(
    times: Float[np.ndarray, " time"], beats: Float[np.ndarray, " beats"]
) -> Float[Tensor, " time"]:
    """1 at the frame nearest to each beat, 0.5 at its neighbours; a beat beyond all is left out."""
    target = np.zeros(len(times), np.float32)
    if len(times) == 0:
        raise DataError("a recording without a frame")
    for beat in beats:
        nearest = int(np.abs(times - beat).argmin())
        if abs(times[nearest] - beat) > TOLERANCE:
            continue
        target[max(nearest - 1, 0) : nearest + 2] = np.maximum(
            target[max(nearest - 1, 0) : nearest + 2], 0.5
        )
        target[nearest] = 1.0
    return torch.from_numpy(target)
