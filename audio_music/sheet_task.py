"""Retrieval between recordings and scores: snippets both ways, and whole pieces."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from audio_music.data.log_filterbank import FPS
from audio_music.data.scores import SheetMusic
from audio_music.data.snippet_views import PairViews
from audio_music.data.snippets import AUDIO, SHEET
from audio_music.piece_identification import rank_of_piece, votes_for_pieces
from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.resident import ResidentLoader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.retrieval import retrieval_both_ways
from core.trainers.system import Batch, System

_ROWS = 512  # snippets that are embedded at a time
_TOPK = (1, 5, 10, 25)
_DIRECTIONS = (f"{AUDIO}_to_{SHEET}", f"{SHEET}_to_{AUDIO}")
_PIXELS, _FRAMES = 50, 10  # from one snippet of a piece to the next, in identification


class SheetRetrieval:
    """Finds the score of a recording, and the recording of a score.

    Snippets: up to `n_pairs` pairs of the split at equal spacing, ranked by cosine both ways:
    `mrr/audio_to_sheet`, `r@k`, `median_rank`; `mrr` is the mean of both ways, `mrr_by_chance` what
    a random ranking has. Pieces: the candidates are all snippets of all pieces of the split, 50
    pixels or 10 frames apart; `n_queries` snippets of a piece each vote for the pieces of their
    `n_candidates` nearest: `piece_r@1`, `piece_mrr` of the true piece's rank, and `votes`, its
    share of the votes.

    Before anything is evaluated, embedded or searched, a system that has statistics of pairs
    (`System.refine`) takes them from `n_refine` training pairs.

    Args:
        monitor: the metric that chooses checkpoints and configurations.
        augment: makes training's pairs; None: the published augmentation.
        n_pairs: candidates of a snippet, at most.
        n_queries: snippets of a piece that is to be identified.
        n_candidates: nearest snippets that vote.
        n_refine: training pairs, at equal spacing.

    Raises:
        DataError: the monitor is unknown.
    """

    def __init__(
        self,
        monitor: str = "mrr",
        augment: PairViews | None = None,
        n_pairs: int = 10_000,
        n_queries: int = 100,
        n_candidates: int = 25,
        n_refine: int = 25_000,
    ) -> None:
        self.monitor, self.augment = monitor, augment or PairViews()
        self.n_pairs, self.n_queries, self.n_candidates = n_pairs, n_queries, n_candidates
        self.n_refine = n_refine
        known = ["mrr", *(f"r@{k}" for k in _TOPK), "piece_r@1", "piece_mrr"]
        if monitor.partition("/")[0] not in known or "/" in monitor.removesuffix(
            f"/{_DIRECTIONS[0]}"
        ).removesuffix(f"/{_DIRECTIONS[1]}"):
            raise DataError(
                f"task.monitor={monitor}",
                expected=f"one of {', '.join(known)}, or of one way: mrr/{_DIRECTIONS[0]}",
            )

    def system_arguments(self, data: SheetMusic) -> dict[str, Any]:
        """The sizes of the snippets."""
        return {"shapes": data.shapes}

    def train_loader(
        self,
        system: System,
        data: SheetMusic,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> ResidentLoader:
        """Batches of augmented training pairs, made on the device of the data."""
        rows = data.splits["train"]
        columns = {"row": rows, "index": torch.arange(len(rows), device=rows.device)}

        def prepare(batch: Batch, draws: Draws) -> Batch:
            return {"index": batch["index"]} | self.augment(data, batch["row"], draws)

        # As published; batch norm and CCA would take statistics of a few rows.
        return ResidentLoader(
            columns, batch_size, seed, rank, world_size, prepare=prepare, drop_last=True
        )

    def has_split(self, data: SheetMusic, split: str) -> bool:
        """Whether the split has pairs to tell apart."""
        return len(data.splits[split]) > 1

    def evaluate(self, system: System, data: SheetMusic, split: str) -> Evaluation:
        """Metrics of a split; the test units are its pieces.

        Raises:
            DataError: the split has fewer than two pairs.
        """
        if not self.has_split(data, split):
            raise DataError(f"the {split} split has fewer than two pairs")
        self.refine(system, data)
        rows = spaced(data.splits[split], self.n_pairs)
        vectors = embed_pairs(system, data, rows)
        found = retrieval_both_ways(
            vectors[AUDIO], vectors[SHEET], rows, rows, (AUDIO, SHEET), _TOPK
        )
        metrics: dict[str, float] = {}
        per_snippet: dict[str, list[np.ndarray]] = {}
        for way, one in found.items():
            for name, value in one.metrics.items():
                if name != "map":  # there is one positive: it is the MRR
                    metrics[f"{name}/{way}"] = value
            for name in ("mrr", *(f"r@{k}" for k in _TOPK)):
                per_snippet.setdefault(name, []).append(one.per_unit[name])
                per_snippet[f"{name}/{way}"] = [one.per_unit[name]]
        values = {name: np.mean(of, axis=0) for name, of in per_snippet.items()}
        means = {name: float(values[name].mean()) for name in ("mrr", *(f"r@{k}" for k in _TOPK))}
        by_chance = float((1 / np.arange(1, len(rows) + 1)).mean())
        metrics = means | {"mrr_by_chance": by_chance} | metrics
        numbers, unit = np.unique(data.piece[rows].cpu().numpy(), return_inverse=True)
        share = len(numbers) / len(rows)
        per_unit = {name: share * np.bincount(unit, weights=of) for name, of in values.items()}
        identified, of_pieces = self._identify(system, data, torch.from_numpy(numbers).to(rows))
        names = np.array([data.pieces[number] for number in numbers])
        table = [
            {"piece": name, "snippets": int((unit == place).sum())}
            | {"mrr": float(values["mrr"][unit == place].mean())}
            | {f"rank, {way}": round(1 / of[place]) for way, of in of_pieces["mrr"].items()}
            for place, name in enumerate(names)
        ]
        for name, of in of_pieces.items():
            per_unit |= {f"piece_{name}/{way}": value for way, value in of.items()}
            per_unit[f"piece_{name}"] = np.mean(list(of.values()), axis=0)
        return Evaluation(metrics | identified, "piece", names, per_unit, table)

    def _identify(
        self, system: System, data: SheetMusic, pieces: Int64[Tensor, " pieces"]
    ) -> tuple[dict[str, float], dict[str, dict[str, np.ndarray]]]:
        """Metrics of whole pieces, and of each piece `r@1` and `mrr` both ways."""
        cut = {
            SHEET: snippets_of(data, SHEET, pieces, _PIXELS),
            AUDIO: snippets_of(data, AUDIO, pieces, _FRAMES),
        }
        vectors = {name: embed_at(system, data, name, *places) for name, places in cut.items()}
        # Numbered from 0 on, without the pieces of other splits.
        numbers = torch.full((len(data.pieces),), -1, device=pieces.device)
        numbers[pieces] = torch.arange(len(pieces), device=pieces.device)
        of = {name: numbers[piece_of(data, name, places[0])] for name, places in cut.items()}
        metrics: dict[str, float] = {}
        each: dict[str, dict[str, np.ndarray]] = {"r@1": {}, "mrr": {}}
        for way, (query, answer) in zip(_DIRECTIONS, ((AUDIO, SHEET), (SHEET, AUDIO)), strict=True):
            asked = torch.cat(
                [
                    spaced((of[query] == number).nonzero()[:, 0], self.n_queries)
                    for number in range(len(pieces))
                ]
            )
            votes = votes_for_pieces(
                vectors[query][asked],
                of[query][asked],
                vectors[answer],
                of[answer],
                self.n_candidates,
            )
            rank = rank_of_piece(votes).double()
            each["r@1"][way] = (rank == 1).double().cpu().numpy()
            each["mrr"][way] = (1 / rank).cpu().numpy()
            share = votes.diagonal() / votes.sum(1).clamp_min(1)
            metrics[f"votes/{way}"] = float(share.mean())
        for name, of_way in each.items():
            ways = {f"piece_{name}/{way}": float(value.mean()) for way, value in of_way.items()}
            metrics |= {f"piece_{name}": sum(ways.values()) / len(ways)} | ways
        return metrics, each

    def refine(self, system: System, data: SheetMusic) -> None:
        """Gives the system statistics of training pairs, where it asks for them.

        Raises:
            DataError: the system was trained on snippets of other shapes.
        """
        shapes = getattr(system, "shapes", data.shapes)
        if shapes != data.shapes:
            raise DataError(
                f"snippets of {data.shapes}", expected=f"those of the training, {shapes}"
            )
        if not hasattr(system, "refine"):
            return
        take: Callable[[Iterator[Batch]], None] = system.refine
        rows = spaced(data.splits["train"], self.n_refine)
        if len(rows) > 1:
            take(data.pairs(some) for some in rows.split(_ROWS))

    def embed(self, system: System, data: SheetMusic) -> pl.DataFrame:
        """One row a pair and modality: `kind`, `id` PIECE@SECONDS, `embedding`."""
        self.refine(system, data)
        vectors = embed_pairs(system, data, torch.arange(len(data.piece)).to(data.piece))
        frames = [
            pl.DataFrame({"kind": [kind] * len(of), "id": data.ids, "embedding": of.cpu().tolist()})
            for kind, of in vectors.items()
        ]
        return pl.concat(frames).cast({"embedding": pl.List(pl.Float32)})

    def search(
        self,
        system: System,
        data: SheetMusic,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The snippets of scores nearest to a recording, or of recordings nearest to a score.

        `audio:PIECE@SECONDS` and `sheet:PIECE@SECONDS` are onsets of the data; `audio:FILE.wav` is
        the middle of a recording, `audio:FILE.wav@SECONDS` a place in it, and `sheet:FILE.png`,
        `sheet:FILE.png@PIXEL` the same of an unrolled system. The candidates are all onsets of the
        data, an onset's own counterpart among them.

        Raises:
            DataError: the query names nothing that is there.
        """
        from audio_music.data.queries import asked_snippet

        self.refine(system, data)
        kind, snippet = asked_snippet(data, query)
        with torch.no_grad():
            vector = normalize(system.embed({kind: snippet})[kind], dim=1)
        target = SHEET if kind == AUDIO else AUDIO
        if index is None:
            rows = torch.arange(len(data.piece)).to(data.piece)
            vectors = normalize(embed_pairs(system, data, rows)[target], dim=1)
            cosines = vectors @ vector[0]
            near, numbers = (x.tolist() for x in cosines.topk(min(k, len(cosines))))
        else:
            near, numbers = (x[0].tolist() for x in index.search(target, vector.cpu().numpy(), k))
        ids = data.ids
        # An approximate index gives -1 where it found fewer.
        found = [(row, cosine) for row, cosine in zip(numbers, near, strict=True) if row >= 0]
        return [
            {
                "rank": rank,
                target: ids[row],
                "cosine": cosine,
                "seconds": int(data.frame[row, 0]) / FPS,
                "pixel": int(data.column[row]),
                "performance": data.performances[int(data.performance[row, 0])],
            }
            for rank, (row, cosine) in enumerate(found, 1)
        ]

    def draw_search(
        self, data: SheetMusic, query: str, rows: list[dict[str, Any]], file: Path
    ) -> None:
        """A gallery of what was found, and the sound of it as WAV files beside it."""
        from audio_music.data.score_pictures import draw_gallery

        draw_gallery(data, query, rows, file)

    def index_spaces(self, system: System, data: SheetMusic) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> its unit vectors, and those of the other that will be the queries."""
        self.refine(system, data)
        found = embed_pairs(system, data, torch.arange(len(data.piece)).to(data.piece))
        vectors = {name: normalize(of, dim=1) for name, of in found.items()}
        return {
            SHEET: (vectors[SHEET], vectors[AUDIO]),
            AUDIO: (vectors[AUDIO], vectors[SHEET]),
        }

    def keep_reading(self, data: SheetMusic, run_dir: Path) -> None:
        """Nothing: every reading of the files gives the same pairs."""

    def reading(self, run_dir: Path) -> dict[str, str]:
        """No argument of the reader follows from the run."""
        return {}


def spaced(rows: Int64[Tensor, " n"], at_most: int) -> Int64[Tensor, " kept"]:
    """So many rows at equal distances, the first among them; all, where there are no more."""
    if len(rows) <= at_most:
        return rows
    places = torch.arange(at_most, device=rows.device) * len(rows) // at_most
    return rows[places]


def snippets_of(
    data: SheetMusic, kind: str, pieces: Int64[Tensor, " pieces"], step: int
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Places at equal distances in the scores of pieces, or in their first performances.

    Returns:
        Number of the score or performance, and the middle of the snippet in it.
    """
    if kind == SHEET:
        items, lines, width = pieces, data.scores, 2 * data.shapes[SHEET][2]
    else:
        first = torch.full((len(data.pieces),), len(data.performances), device=pieces.device)
        first = first.scatter_reduce(0, data.piece, data.performance[:, 0], "amin")
        items, lines, width = first[pieces], data.spectrograms, data.frames
    counts = ((lines.lengths[items] - width) // step + 1).clamp_min(1)
    number = torch.arange(int(counts.sum()), device=items.device)
    number = number - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return items.repeat_interleave(counts), width // 2 + number * step


def piece_of(data: SheetMusic, kind: str, items: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Pieces of scores, which are numbered alike, or of performances."""
    if kind == SHEET:
        return items
    of = torch.full((len(data.performances),), -1, device=items.device)
    of.scatter_(0, data.performance.flatten(), data.piece.repeat_interleave(data.frame.shape[1]))
    return of[items]


@torch.no_grad()
def embed_at(
    system: System,
    data: SheetMusic,
    kind: str,
    items: Int64[Tensor, " n"],
    places: Int64[Tensor, " n"],
) -> Float[Tensor, "n dim"]:
    """`System.embed` of snippets of one modality."""
    cut = data.sheet if kind == SHEET else data.audio
    some = zip(items.split(_ROWS), places.split(_ROWS), strict=True)
    return torch.cat([system.embed({kind: cut(*part)})[kind] for part in some])


@torch.no_grad()
def embed_pairs(
    system: System, data: SheetMusic, rows: Int64[Tensor, " n"]
) -> dict[str, Float[Tensor, "n dim"]]:
    """`System.embed` of both snippets of pairs."""
    parts: dict[str, list[Tensor]] = {}
    for some in rows.split(_ROWS):
        for name, vectors in system.embed(data.pairs(some)).items():
            parts.setdefault(name, []).append(vectors)
    return {name: torch.cat(of) for name, of in parts.items()}
