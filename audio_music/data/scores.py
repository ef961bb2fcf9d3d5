"""Scores and performances on the device: pairs of snippets, and what pre-training sees."""

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from audio_music.data.lines import Lines
from audio_music.data.log_filterbank import BANDS, FPS
from audio_music.data.patterns import compiled
from audio_music.data.score_files import Piece, read_piece, read_splits
from audio_music.data.snippets import (
    AUDIO,
    MARGIN,
    SHEET,
    SHEET_MARGIN,
    WINDOW,
    halved,
    strip,
)
from audio_music.data.sound_files import SoundFiles
from audio_music.data.unpaired import read_unpaired
from core.data.checks import DataError
from core.data.findings import Findings, few


@dataclass(frozen=True)
class SheetMusic:
    """A data set on one device. A pair is an onset: a place in a score and in its performances.

    Attributes:
        pieces: names.
        scores: systems of the pieces, `STRIP` rows of uint8 around their vertical middle.
        performances: names.
        spectrograms: of the performances, `BANDS` rows of float32.
        piece: (n,) piece of each pair.
        column: (n,) pixel column of its notehead within the piece.
        performance: (n, most) performances of it; the first is repeated where there are fewer.
        frame: (n, most) frame of the onset in each of them.
        splits: train, valid, test -> pairs.
        unpaired: modality -> scores, or waves at 22,050 Hz as one row of int16, of pre-training;
            recordings that are too many to be held stay in their files.
        held_out: modality -> (items,) bool, those that judge the pre-training.
        frames: frames of a snippet of audio.
        folder: where the files lie.
    """

    pieces: list[str]
    scores: Lines
    performances: list[str]
    spectrograms: Lines
    piece: Int64[Tensor, " n"]
    column: Int64[Tensor, " n"]
    performance: Int64[Tensor, "n most"]
    frame: Int64[Tensor, "n most"]
    splits: dict[str, Int64[Tensor, " rows"]]
    unpaired: dict[str, Lines | SoundFiles]
    held_out: dict[str, Tensor]
    frames: int
    folder: Path

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Modality -> shape of one snippet."""
        return {SHEET: [1, WINDOW[0] // 2, WINDOW[1] // 2], AUDIO: [1, BANDS, self.frames]}

    @property
    def ids(self) -> list[str]:
        """PIECE@SECONDS of every pair, by its first performance."""
        at = zip(self.piece.tolist(), self.frame[:, 0].tolist(), strict=True)
        return [f"{self.pieces[piece]}@{frame / FPS:.2f}" for piece, frame in at]

    def sheet(
        self, piece: Int64[Tensor, " batch"], column: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch 1 80 100"]:
        """Snippets around columns, 0 black to 1 white, at half the size."""
        first = column - WINDOW[1] // 2
        cut = self.scores.windows(piece, first, WINDOW[1], 255)[:, MARGIN:-MARGIN]
        return halved(cut[:, None].float() / 255)

    def audio(
        self, performance: Int64[Tensor, " batch"], frame: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch 1 bands frames"]:
        """Snippets around frames."""
        first = frame - self.frames // 2
        return self.spectrograms.windows(performance, first, self.frames, 0)[:, None]

    def pairs(self, rows: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """Snippets of both modalities, of the first performance, as they are."""
        performance, frame = self.performance[rows, 0], self.frame[rows, 0]
        return {
            SHEET: self.sheet(self.piece[rows], self.column[rows]),
            AUDIO: self.audio(performance, frame),
        }

    def to(self, device: torch.device) -> Self:
        """The same data on a device."""
        names = ("scores", "spectrograms", "piece", "column", "performance", "frame")
        moved = {name: getattr(self, name).to(device) for name in names}
        for name in ("splits", "unpaired", "held_out"):
            moved[name] = {key: value.to(device) for key, value in getattr(self, name).items()}
        return replace(self, **moved)

    def without_test(self) -> Self:
        """The same data without the pieces and performances of the test split."""
        test = self.splits["test"]
        is_test = torch.zeros(len(self.piece), dtype=torch.bool, device=test.device)
        is_test[test] = True
        kept = (~is_test).nonzero()[:, 0]
        pieces = self.piece[kept].unique()
        performances = self.performance[kept].unique()
        row, piece, performance = (
            _renumbered(items, n)
            for items, n in (
                (kept, len(self.piece)),
                (pieces, len(self.pieces)),
                (performances, len(self.performances)),
            )
        )
        return replace(
            self,
            pieces=[self.pieces[number] for number in pieces.tolist()],
            scores=self.scores.only(pieces),
            performances=[self.performances[number] for number in performances.tolist()],
            spectrograms=self.spectrograms.only(performances),
            piece=piece[self.piece[kept]],
            column=self.column[kept],
            performance=performance[self.performance[kept]],
            frame=self.frame[kept],
            splits={s: row[self.splits[s]] for s in ("train", "valid")} | {"test": test[:0]},
        )

    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all that was read."""
        total = sha256(f"{self.pieces} {self.performances} {self.frames}".encode())
        lines = {"scores": self.scores, "spectrograms": self.spectrograms} | self.unpaired
        for of in lines.values():
            total.update(of.identity())
        tensors = [self.piece, self.column, self.performance, self.frame, *self.splits.values()]
        for tensor in tensors:
            total.update(f"{list(tensor.shape)}".encode())
            total.update(tensor.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]


def load_scores(
    path: str | Path,
    split: str | None = None,
    frames: int = 84,
    train_performances: str | None = None,
    test_performances: str | None = None,
    pretraining_audio: str | None = None,
    pretraining_scores: str | None = None,
    resident_mib: int = 1024,
    workers: int = 4,
    findings: Findings | None = None,
) -> SheetMusic:
    """Reads the prepared pieces of MSMD, and what there is for pre-training.

    A pair is kept where both windows lie inside the score and all of its performances. Onsets at
    the same frame count once: their snippets would be the same. A column that is played twice, in a
    repeat, is a pair each time.

    Args:
        path: folder of `<piece>.npz`.
        split: the YAML file in it that names the pieces of train, valid and test; None takes the
            one `*split*.yaml`.
        frames: of a snippet of audio, 20 a second: 42, 84 or 168 were published.
        train_performances: regular expression of the names of performances that train; None: all.
        test_performances: of those that validate and test, of which the first counts; None: all.
        pretraining_audio: folder of recordings; None is `pretraining/audio` where it is there.
        pretraining_scores: folder of unrolled systems; None is `pretraining/scores`, likewise.
        resident_mib: recordings of pre-training of at most so many MiB lie on the device; of more,
            snippets are read from the files.
        workers: threads that read them.
        findings: collects problems where it is not strict; None: the first one is raised.

    Raises:
        DataError: a file cannot be used; see `audio-music data check`.
    """
    path, findings = Path(path), findings or Findings()
    if not path.is_dir():
        raise DataError("no such folder", path=path, expected="a folder of .npz files")
    if frames < 16 or frames % 2:
        raise DataError(f"data.frames={frames}", expected="an even number from 16: 84 is 4.2 s")
    file, names = read_splits(path, split)
    names = _distinct(file, names, findings)
    read: list[Piece] = []
    split_of: list[str] = []
    for part, members in names.items():
        pattern = train_performances if part == "train" else test_performances
        for name in members:
            with findings.going_on():
                piece = read_piece(path / f"{name}.npz", findings)
                read.append(_with_performances(piece, pattern, path, part))
                split_of.append(part)
    if not read:
        raise DataError("no piece can be used", path=path)
    unpaired, held_out = read_unpaired(
        path, pretraining_audio, pretraining_scores, frames, findings, resident_mib, workers
    )
    pairs = [_pairs(piece, frames) for piece in read]
    for piece, rows in zip(read, pairs, strict=True):
        if len(rows) == 0:
            findings.warn(f"{piece.name}: no onset has both windows inside score and recording")
    first = np.cumsum([0, *(len(piece.performances) for piece in read)])
    most = max(len(piece.performances) for piece in read)
    performance = [np.resize(np.arange(first[i], first[i + 1]), most) for i in range(len(read))]
    frame = [
        rows[:, 1 + np.resize(np.arange(len(piece.performances)), most)]
        for piece, rows in zip(read, pairs, strict=True)
    ]
    piece_of = np.repeat(np.arange(len(read)), [len(rows) for rows in pairs])
    parts = np.array(split_of)[piece_of]
    everything = [one for piece in read for one in piece.performances]
    spectra = [one.spectrogram for one in everything]
    return SheetMusic(
        [piece.name for piece in read],
        Lines.of([strip(piece.score) for piece in read], torch.uint8, SHEET_MARGIN),
        [one.name for one in everything],
        Lines.of(spectra, torch.float32, 2 * frames),
        torch.from_numpy(piece_of),
        torch.from_numpy(np.concatenate([rows[:, 0] for rows in pairs])),
        torch.from_numpy(np.stack(performance)[piece_of]),
        torch.from_numpy(np.concatenate(frame)),
        {s: torch.from_numpy(np.flatnonzero(parts == s)) for s in ("train", "valid", "test")},
        unpaired,
        held_out,
        frames,
        path,
    )


def _distinct(file: Path, names: dict[str, list[str]], findings: Findings) -> dict[str, list[str]]:
    """The same lists, in which every piece is once."""
    seen: dict[str, str] = {}
    kept: dict[str, list[str]] = {part: [] for part in names}
    for part, members in names.items():
        for name in members:
            if name in seen:
                findings.problem(
                    DataError(
                        f"{name} is in {seen[name]} and in {part}",
                        path=file,
                        expected="every piece in one split: its snippets are alike",
                        fix="leave it in one",
                    )
                )
                continue
            seen[name] = part
            kept[part].append(name)
    return kept


def _with_performances(piece: Piece, pattern: str | None, path: Path, part: str) -> Piece:
    key = "train_performances" if part == "train" else "test_performances"
    rule = None if pattern is None else compiled(f"data.{key}", pattern)
    kept = [p for p in piece.performances if rule is None or rule.search(p.name)]
    if not kept:
        names = few([one.name for one in piece.performances])
        raise DataError(
            f"no performance matches data.{key}={pattern}",
            path=path / f"{piece.name}.npz",
            expected=f"a part of one of {names}",
        )
    return replace(piece, performances=kept if part == "train" else kept[:1])


def _pairs(piece: Piece, frames: int) -> Int64[np.ndarray, "n columns"]:
    """Rows (column, frame in each performance) of the onsets that all performances have."""
    keyed = []
    for one in piece.performances:
        _, first = np.unique(one.onsets[:, 0], return_index=True)
        onsets = one.onsets[first]
        # A column that is played twice, in a repeat, is another onset each time.
        order = np.argsort(onsets[:, 1], kind="stable")
        column = onsets[order, 1]
        time = np.arange(len(column)) - np.searchsorted(column, column)
        keyed.append(dict(zip(zip(column, time, strict=True), onsets[order, 0], strict=True)))
    common = sorted(set.intersection(*(set(of) for of in keyed)))
    rows = np.array([[key[0], *(of[key] for of in keyed)] for key in common], np.int64)
    rows = rows.reshape(-1, 1 + len(keyed))
    half = WINDOW[1] // 2
    inside = (rows[:, 0] >= half) & (rows[:, 0] + half <= piece.score.shape[1])
    for number, one in enumerate(piece.performances, start=1):
        inside &= rows[:, number] >= frames // 2
        inside &= rows[:, number] + frames // 2 <= one.spectrogram.shape[1]
    return rows[inside]


def _renumbered(kept: Int64[Tensor, " kept"], n: int) -> Int64[Tensor, " n"]:
    new = torch.full((n,), -1, dtype=torch.int64, device=kept.device)
    new[kept] = torch.arange(len(kept), device=kept.device)
    return new
