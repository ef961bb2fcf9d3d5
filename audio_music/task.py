"""Probing of recordings: how systems of audio learn from, are probed on, embed and search them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from audio_music.data.crop_loader import CropLoader
from audio_music.data.recordings import Recordings, Window
from audio_music.keys import weighted_scores
from audio_music.probes import Judged, clip_frames, judge_label, probe_beats
from core.augment.draws import Draws
from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.layer_probe import LayerProbe
from core.evaluation.rank import rankme
from core.trainers.system import Batch, System

_RANKME = "rankme"
_NOISY = "noisy"
_METRICS = {
    "classes": ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "key_score"),
    "tags": ("map", "roc_auc"),
    "value": ("r2",),
    "times": ("beat_f1",),
}


class AudioProbing:
    """What frozen features of recordings tell of their labels, by MARBLE's protocol.

    Features are the means over time of all layers (`System.layers`). A probe learns weights of the
    layers and a small network from the training recordings (`core.evaluation.layer_probe`); rate
    and epoch are chosen on validation. On the validation split itself nothing is chosen, and only
    the label of the monitor is probed. The metrics of a label NAME:

    - classes: `accuracy/NAME`, `balanced_accuracy/NAME`, `macro_f1/NAME`, `weighted_f1/NAME`; of
      keys also `key_score/NAME`, the weighted score of MIREX;
    - tags: `map/NAME`, the macro average precision, and `roc_auc/NAME`;
    - a value: `r2/NAME`;
    - times of beats: `beat_f1/NAME`, within 70 ms, by a probe of the frames (`System.frames`).

    With a distractor, every test recording is also heard with another one added, and the metrics
    of the same probes on it are called `map/NAME/noisy` and so on.

    Args:
        monitor: the metric that chooses checkpoints and configurations; `rankme` needs no label.
        labels: the labels to probe; None: all.
        distractor: of a second test of each recording together with another, how many dB that is
            below it; None: no such test.

    Raises:
        DataError: the monitor is none of these.
    """

    def __init__(
        self,
        monitor: str = _RANKME,
        labels: Sequence[str] | None = None,
        distractor: float | None = None,
    ) -> None:
        self.monitor, self.labels, self.distractor = monitor, labels, distractor
        known = [name for names in _METRICS.values() for name in names]
        metric, _, name = monitor.partition("/")
        if monitor != _RANKME and (metric not in known or not name or name.endswith(_NOISY)):
            raise DataError(
                f"task.monitor={monitor}",
                expected=f"{_RANKME}, or {', '.join(known)} of a label: map/pitch_classes",
            )

    def system_arguments(self, data: Recordings) -> dict[str, Any]:
        """The sizes that a system is built with."""
        return {"rate": data.rate}

    def train_loader(
        self,
        system: System,
        data: Recordings,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> CropLoader:
        """Random crops of the training recordings, with what the system draws for them.

        Raises:
            DataError: the data lack labels to be probed, or validation that of the monitor.
        """
        self._check_monitor(data)
        draw: Callable[..., Batch] | None = getattr(system, "draw", None)
        prepare = None if draw is None else lambda batch, draws: batch | draw(batch, draws)
        return CropLoader(data, batch_size, seed, rank, world_size, prepare)

    def _check_monitor(self, data: Recordings) -> None:
        """Refuses, before anything is trained, what validation could not measure."""
        labels = {name: data.labels[name] for name in self._names(data)}
        valid = data.splits["valid"]
        possible = [
            f"{metric}/{name}"
            for name, label in labels.items()
            for metric in _METRICS[label.kind]
            if not len(valid) or bool(label.known.cpu()[valid].any())
            if metric != "key_score" or weighted_scores(label.names) is not None
        ]
        if self.monitor not in (_RANKME, *possible):
            raise DataError(
                f"task.monitor={self.monitor}: validation has no such label",
                expected=f"one of {', '.join([_RANKME, *possible])}",
            )

    def has_split(self, data: Recordings, split: str) -> bool:
        """Whether the split has any recordings."""
        return len(data.splits[split]) > 0

    def evaluate(self, system: System, data: Recordings, split: str) -> Evaluation:
        """Metrics of a split; the test units are the groups of its recordings.

        Raises:
            DataError: the split is empty, or lacks the labels that the monitor needs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split is empty")
        _check_rate(system, data)
        rows = data.splits[split].tolist()
        features = clip_layers(system, data, sorted({*data.splits["train"].tolist(), *rows}))
        is_test = split == "test"
        valid = data.splits["valid"].tolist() if is_test else []
        features |= clip_layers(system, data, valid)
        noisy: dict[int, Tensor] = {}
        if is_test and self.distractor is not None:
            noisy = clip_layers(system, data, rows, self.distractor)
        found = Judged({}, {})
        table: list[dict[str, Any]] = []
        for name in self._probed(data, split):
            label = data.labels[name]
            if label.kind == "times":
                found.add(probe_beats(system, data, name, rows, valid), rows, name)
                continue
            heard = {"": features} | ({f"/{_NOISY}": noisy} if noisy else {})
            judged, probe = judge_label(label, features, heard, data, rows, valid)
            for ending, own in judged.items():
                found.add(own, rows, f"{name}{ending}")
            if probe is not None:
                table.append(_layer_row(name, probe))
        found.metrics[_RANKME] = float(rankme(torch.stack([features[r].mean(0) for r in rows])))
        metrics = {name: value for name, value in found.metrics.items() if np.isfinite(value)}
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: cannot be measured on the {split} split of these "
                "data",
                expected=f"one of {', '.join(metrics)}",
            )
        groups = np.array([data.clips[row].group for row in rows])
        per_unit = {
            name: _of_groups(values, found.metrics[name], groups)
            for name, values in found.per_row.items()
        }
        return Evaluation(metrics, "group", np.unique(groups), per_unit, table)

    def _probed(self, data: Recordings, split: str) -> list[str]:
        names = self._names(data)
        if split == "valid":
            return [name for name in names if name == self.monitor.partition("/")[2]]
        return names

    def _names(self, data: Recordings) -> list[str]:
        names = list(data.labels) if self.labels is None else list(self.labels)
        missing = [name for name in names if name not in data.labels]
        if missing:
            raise DataError(
                f"task.labels names {', '.join(missing)}",
                expected=f"some of {', '.join(data.labels) or 'none: the data have no labels'}",
            )
        return names

    def draw(self, system: System, data: Recordings, split: str, folder: Path) -> list[Path]:
        """Draws the spectrum that a system predicts where one recording of a split is hidden."""
        if not getattr(system, "cqt_weight", 0):
            return []
        from audio_music.pictures import draw_reconstruction

        window = data.windows_of(int(data.splits[split][0]))[0]
        batch = data.at_rate(data.raw([window]), data.crop, False)
        drawn = system.draw(batch, Draws(0, 1, slice(0, 1), data.device))  # type: ignore[operator]
        target, predicted, masked = system.reconstruct(batch | drawn)  # type: ignore[operator]
        file = folder / f"cqt_{split}.png"
        rate = data.rate / system.encoder.convolutions.hop  # type: ignore[union-attr]
        frequencies = system.cqt.frequencies  # type: ignore[union-attr]
        draw_reconstruction(target, predicted, masked, rate, frequencies, file)
        return [file]

    def embed(self, system: System, data: Recordings) -> pl.DataFrame:
        """One row a recording: `kind` audio, `id`, `embedding`."""
        vectors = clip_vectors(system, data)
        rows = {"kind": ["audio"] * len(data.clips), "id": data.ids}
        frame = pl.DataFrame(rows | {"embedding": vectors.cpu().tolist()})
        return frame.cast({"embedding": pl.List(pl.Float32)})

    def embed_into(self, system: System, data: Recordings, folder: Path) -> list[dict[str, Any]]:
        """Writes the frames of every recording, `NAME.npz`, into a folder; returns what there is.

        `frames` (time, layers, dim) float16, as a probe of frames takes them, and their centres in
        `seconds` (time,). A name with folders keeps them, without any that lead out of `folder`.
        """
        _check_rate(system, data)
        n_frames, shape = 0, (0, 0)
        for row, clip in enumerate(data.clips):
            frames, seconds = clip_frames(system, data, row)
            inside = [part for part in Path(clip.name).parts if part not in ("/", "..")]
            file = folder.joinpath(*inside[:-1], f"{inside[-1]}.npz")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, frames=frames.half().cpu().numpy(), seconds=seconds)
            n_frames, shape = n_frames + len(frames), (frames.shape[1], frames.shape[2])
        layers, width = shape
        written = {"files": len(data.clips), "frames": n_frames, "layers": layers, "width": width}
        return [written]

    def search(
        self,
        system: System,
        data: Recordings,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The recordings of largest cosine to `clip:ID`, itself left out.

        Raises:
            DataError: the query names no recording that is there.
        """
        kind, _, name = query.partition(":")
        if kind != "clip" or name not in data.ids:
            some = ", ".join(data.ids[:3])
            raise DataError(
                f"query={query}", expected=f"clip:ID of one of {len(data.ids)} ids such as {some}"
            )
        own = data.ids.index(name)
        unit = normalize(clip_vectors(system, data), dim=1)
        wanted = min(k + 1, len(unit))
        if index is None:
            scores, rows = (unit @ unit[own]).topk(wanted)
            found = list(zip(rows.tolist(), scores.tolist(), strict=True))
        else:
            near, numbers = index.search("audio", unit[own : own + 1].cpu().numpy(), wanted)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        # An approximate index gives -1 where it found fewer.
        found = [(row, score) for row, score in found if row not in (own, -1)][:k]
        return [
            {"rank": rank, "clip": data.ids[row], "cosine": score}
            | {label: of.describe(row) for label, of in data.labels.items()}
            for rank, (row, score) in enumerate(found, 1)
        ]

    def draw_search(
        self, data: Recordings, query: str, rows: list[dict[str, Any]], file: Path
    ) -> None:
        """Writes the spectra of the query and of what was found, and a WAV of them in turn."""
        from audio_music.pictures import draw_clips, write_sequence

        names = [query.partition(":")[2], *(row["clip"] for row in rows)]
        numbers = [data.ids.index(name) for name in names]
        waves = []
        for number in numbers:
            raw = data.raw([data.windows_of(number)[0]])
            waves.append(data.at_rate(raw, data.crop, False)["wave"][0].cpu())
        titles = [f"query: {names[0]}"]
        titles += [f"{row['rank']}: {row['clip']}, cosine {row['cosine']:.3f}" for row in rows]
        draw_clips(waves, titles, data.rate, file)
        write_sequence(waves, data.rate, file.with_suffix(".wav"))

    def index_spaces(self, system: System, data: Recordings) -> dict[str, tuple[Tensor, Tensor]]:
        """`audio` -> unit vectors, which are also the queries."""
        unit = normalize(clip_vectors(system, data), dim=1)
        return {"audio": (unit, unit)}

    def keep_reading(self, data: Recordings, run_dir: Path) -> None:
        """Notes the rate that the run was trained at."""
        content = {"rate": data.rate, "unit": "float32 in [-1, 1], mono"}
        (run_dir / "audio.json").write_text(json.dumps(content) + "\n")

    def reading(self, run_dir: Path) -> dict[str, Any]:
        """The rate of the run, whatever the files have."""
        file = run_dir / "audio.json"
        return {"rate": json.loads(file.read_text())["rate"]} if file.is_file() else {}


@torch.no_grad()
def clip_layers(
    system: System, data: Recordings, rows: Sequence[int], distractor: float | None = None
) -> dict[int, Float[Tensor, "layers dim"]]:
    """Row -> its layers, the mean over its windows by their length.

    Args:
        system: with `layers(batch)`, (B, layers, dim).
        data: the recordings.
        rows: which of them.
        distractor: if given, another one of them is added to each recording, so many dB below.

    Raises:
        DataError: there is no other one.
    """
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for windows, batch in data.window_batches(rows):
        if distractor is not None:
            others = _others(data, rows, windows, batch["wave"])
            batch["wave"] = with_distractor(batch["wave"], others, distractor)
        layers = system.layers(batch)  # type: ignore[operator]
        for window, of in zip(windows, layers, strict=True):
            sums[window.row] = sums.get(window.row, 0) + of * window.count
            counts[window.row] = counts.get(window.row, 0) + window.count
    return {row: total / counts[row] for row, total in sums.items()}


def _others(
    data: Recordings, rows: Sequence[int], windows: Sequence[Window], wave: Tensor
) -> Float[Tensor, "batch samples"]:
    """For each window of a batch one of another recording: half a batch on, or else its first."""
    half = max(len(windows) // 2, 1)
    other = wave.roll(half, 0)
    for place, window in enumerate(windows):
        if windows[place - half].row == window.row:
            if len(rows) < 2:
                raise DataError("task.distractor with one recording", expected="two or more")
            row = rows[(rows.index(window.row) + len(rows) // 2) % len(rows)]
            first = data.raw([data.windows_of(row)[0]])
            heard = data.at_rate(first, wave.shape[1], False)["wave"][0]
            other[place] = nn.functional.pad(heard, (0, wave.shape[1] - len(heard)))
    return other


def with_distractor(
    wave: Float[Tensor, "batch samples"], other: Float[Tensor, "batch samples"], decibels: float
) -> Float[Tensor, "batch samples"]:
    """Each clip with another one, whose power is so many dB below."""
    power, power_of_other = (
        x.square().mean(1, keepdim=True).clamp_min(1e-10) for x in (wave, other)
    )
    factor = (power / power_of_other).sqrt() * 10 ** (-decibels / 20)
    return wave + factor * other


@torch.no_grad()
def clip_vectors(system: System, data: Recordings) -> Float[Tensor, "n dim"]:
    """`System.embed` of all recordings, the mean over their windows by their length."""
    _check_rate(system, data)
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    for windows, batch in data.window_batches(range(len(data.clips))):
        for window, of in zip(windows, system.embed(batch)["audio"], strict=True):
            sums[window.row] = sums.get(window.row, 0) + of * window.count
            counts[window.row] = counts.get(window.row, 0) + window.count
    return torch.stack([sums[row] / counts[row] for row in range(len(data.clips))])


def _check_rate(system: System, data: Recordings) -> None:
    rate = getattr(system, "rate", data.rate)
    if rate != data.rate:
        raise DataError(
            f"recordings at {data.rate} Hz for a system of {rate} Hz", fix=f"data.rate={rate}"
        )


def _layer_row(name: str, probe: LayerProbe) -> dict[str, Any]:
    """What the probe of a label weighs, for the table."""
    weights = probe.layer_weights
    return {"layer weights of": name} | {str(n): weight for n, weight in enumerate(weights)}


def _of_groups(
    values: Float[np.ndarray, " rows"], metric: float, groups: np.ndarray
) -> Float[np.ndarray, " groups"]:
    """Values of recordings, whose mean is the metric, as values of groups with the same mean."""
    names, number = np.unique(groups, return_inverse=True)
    known = np.isfinite(values)
    moves = np.where(known, values - metric, 0) / max(known.sum(), 1)
    return metric + len(names) * np.bincount(number, weights=moves, minlength=len(names))
