"""Volumes with reports: how systems learn from, are evaluated on, embed and search them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.evaluation.retrieval import retrieval_of_scores
from core.trainers.system import Batch
from core.trainers.task import Loader
from medical.data.case_loader import case_loader
from medical.data.case_splits import keep_splits, kept_splits
from medical.data.cases import Cases
from medical.data.report_tokens import (
    ReportTokenizer,
    ReportTokens,
    read_vocabulary,
    train_vocabulary,
)
from medical.finding_attention import attention_hits, draw_attention, mentions
from medical.report_retrieval import SIMILARITIES, both_directions, level_scores, levels_of
from medical.systems.velvet_med import LOCAL, VELVETMed

TOPK = (1, 5, 10)
_KINDS = ("volume", "report", "sentence")
_ROWS = 16  # cases that are embedded at a time


class VolumesAndReports:
    """Retrieval of reports by volumes and of volumes by reports.

    `r@k` is the share of queries with their own counterpart among the k best, of both directions
    together; `r@k/volume_to_report` and so on are those of one. Cases whose reports are equal to
    the letter belong together: no system could tell them apart. `similarity` is that of reports
    (t), or has those of sentences (m) and words (b) added; on the test split, where a query has no
    more candidates than it is given, all similarities of the system stand in a table, with and
    without the matching logit.

    Of generated cases `attention_hit/word` is the share of findings for which the word of their
    kind, in a sentence that names the site too, attends most to the region that holds them;
    `attention_lift/word` is that share over the one of regions drawn at random.

    Args:
        similarity: t, tm, tb or tmb.
        matching: whether the matching logit is added for the candidates.
        n_candidates: of a query, the best by the similarity of reports.
        monitor: the metric that chooses checkpoints and configurations.
        vocabulary: `vocab.txt` or `tokenizer.json`; None: word pieces of the training reports.
        vocabulary_size: of those, at most.

    Raises:
        DataError: the similarity or the monitor is not known.
    """

    def __init__(
        self,
        similarity: str = "t",
        matching: bool = False,
        n_candidates: int = 256,
        monitor: str = "mrr",
        vocabulary: str | None = None,
        vocabulary_size: int = 8192,
    ) -> None:
        if similarity not in SIMILARITIES:
            raise DataError(
                f"task.similarity={similarity}", expected=f"one of {', '.join(SIMILARITIES)}"
            )
        known = [f"r@{k}" for k in TOPK] + ["mrr"]
        if monitor.partition("/")[0] not in known:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(known)}")
        self.similarity, self.matching, self.n_candidates = similarity, matching, n_candidates
        self.monitor = monitor
        self.vocabulary, self.vocabulary_size = vocabulary, vocabulary_size

    def system_arguments(self, data: Cases) -> dict[str, Any]:
        """The word pieces and the side of the cubes."""
        if self.vocabulary is not None:
            pieces = read_vocabulary(self.vocabulary)
        else:
            texts = [data.reports[row] for row in data.splits["train"].tolist()]
            pieces = train_vocabulary(texts, self.vocabulary_size)
        return {"vocabulary": pieces, "size": data.size}

    def train_loader(
        self,
        system: VELVETMed,
        data: Cases,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of `volume`, `crop` and the tokens of the reports, and what the system draws.

        Raises:
            DataError: the system learns no report contrast, by which it will be evaluated.
        """
        if "report" not in system.objectives:
            raise DataError(
                f"system.objectives={sorted(system.objectives)}",
                expected="report among them: validation ranks reports by it",
            )
        tokens = tokenize(system, data)[1]

        def prepare(batch: Batch, draws: Draws) -> Batch:
            batch = batch | tokens.rows(batch["row"]) | {"index": batch["row"]}
            return batch | system.draw(batch, draws)

        # A last batch of one pair would hold no wrong one.
        return case_loader(
            data, "train", batch_size, seed, rank, world_size, prepare, drop_last=True
        )

    def has_split(self, data: Cases, split: str) -> bool:
        """Whether the split has two cases, of which one can be found."""
        return len(data.splits[split]) > 1

    def evaluate(self, system: VELVETMed, data: Cases, split: str) -> Evaluation:
        """Retrieval within a split, with the outcome of every case.

        Raises:
            DataError: the split has fewer than two cases, or cubes are of another size.
        """
        if not self.has_split(data, split):
            raise DataError(
                f"{len(data.splits[split])} cases in the {split} split", expected="two or more"
            )
        data.refuse_other_size(system.size)
        tokenizer, tokens = tokenize(system, data)
        rows = data.splits[split]
        trained = [letter for letter in "tmb" if levels_of(letter)[0] in system.objectives]
        is_test = split == "test" and len(rows) <= self.n_candidates
        letters = "".join(trained) if is_test else self.similarity
        scores = level_scores(system, data, tokens, rows, levels_of(letters))
        groups = _equal_reports(data, rows)

        def of(similarity: str, matching: bool) -> tuple[dict[str, float], dict[str, np.ndarray]]:
            added = {level: scores[level] for level in levels_of(similarity)}
            both = both_directions(system, data, tokens, rows, added, self.n_candidates, matching)
            return _outcomes(both, groups)

        metrics, per_unit = of(self.similarity, self.matching)
        table = []
        if is_test:
            can_match = [False, True] if "multimodal" in system.objectives else [False]
            for similarity in (s for s in SIMILARITIES if set(s) <= set(trained)):
                for matching in can_match:
                    found = of(similarity, matching)[0]
                    named = {"similarity": similarity + (" + matching" if matching else "")}
                    table.append(named | {name: found[name] for name in _SHOWN})
        if split == "test":
            named = mentions(data, tokenizer, tokens, rows)
            for level in (level for level in LOCAL if level in system.objectives and named):
                hits, chance = attention_hits(system, data, tokens, named, level)
                metrics[f"attention_hit/{level}"] = float(hits.mean())
                metrics[f"attention_lift/{level}"] = float(hits.mean()) / chance
        ids = np.array([data.ids[row] for row in rows.tolist()])
        return Evaluation(metrics, "case", ids, per_unit, table)

    def draw(self, system: VELVETMed, data: Cases, split: str, folder: Path) -> list[Path]:
        """Draws what words, else sentences, of some reports of a split attend to."""
        levels = [level for level in reversed(LOCAL) if level in system.objectives]
        if not levels:
            return []
        file = folder / f"attention_{split}.png"
        draw_attention(system, data, *tokenize(system, data), data.splits[split], levels[0], file)
        return [file] if file.is_file() else []

    def embed(self, system: VELVETMed, data: Cases) -> pl.DataFrame:
        """One row a volume and a report: `kind`, `id`, `embedding` of unit length."""
        frames = []
        for kind, vectors in embed_cases(system, data).items():
            rows = {"kind": [kind] * len(data.ids), "id": data.ids}
            frames.append(pl.DataFrame(rows | {"embedding": vectors.cpu().tolist()}))
        return pl.concat(frames).cast({"embedding": pl.List(pl.Float32)})

    def search(
        self,
        system: VELVETMed,
        data: Cases,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """The reports nearest to `volume:ID`, the volumes nearest to `report:ID`.

        `sentence:TEXT` is a report that is written here. What belongs to the query is among the
        candidates.

        Raises:
            DataError: the query names no case that is there, or says nothing.
        """
        kind, _, text = query.partition(":")
        if kind not in _KINDS or not text.strip():
            raise DataError(
                f"query={query}", expected="volume:ID, report:ID or 'sentence:what to look for'"
            )
        vectors = embed_cases(system, data)
        if kind == "sentence":
            tokenizer = ReportTokenizer(system.vocabulary, system.max_tokens, system.max_sentences)
            tokens = tokenizer([text]).to(next(iter(vectors.values())).device)
            vector = system.embed(tokens.rows(tokens.ids.new_zeros(1)))["report"]
        elif text in data.ids:
            own = data.ids.index(text)
            vector = vectors[kind][own : own + 1]
        else:
            raise DataError(
                f"query={query}: no such id in the data",
                expected=f"one of {len(data.ids)} ids such as {', '.join(data.ids[:3])}",
            )
        target = "report" if kind == "volume" else "volume"
        wanted = min(k, len(data.ids))
        if index is None:
            scores, rows = (vectors[target] @ vector[0]).topk(wanted)
            found = list(zip(rows.tolist(), scores.tolist(), strict=True))
        else:
            near, numbers = index.search(target, vector.cpu().numpy(), wanted)
            found = list(zip(numbers[0].tolist(), near[0].tolist(), strict=True))
        return [
            {"rank": rank, "id": data.ids[row], "cosine": score, "report": _begin(data, row)}
            for rank, (row, score) in enumerate((pair for pair in found if pair[0] >= 0), 1)
        ]

    def draw_search(self, data: Cases, query: str, rows: list[dict[str, Any]], file: Path) -> None:
        """Writes a gallery: slices of what was found, each with its report."""
        from medical.report_gallery import draw_gallery

        kind, _, text = query.partition(":")
        asked = None if kind == "sentence" else data.ids.index(text)
        found = [(data.ids.index(row["id"]), row["cosine"]) for row in rows]
        draw_gallery(data, text if asked is None else asked, found, file)

    def index_spaces(self, system: VELVETMed, data: Cases) -> dict[str, tuple[Tensor, Tensor]]:
        """Kind -> its unit vectors, and those of the other kind, which ask for them."""
        vectors = embed_cases(system, data)
        volumes, reports = vectors["volume"], vectors["report"]
        return {"volume": (volumes, reports), "report": (reports, volumes)}

    def keep_reading(self, data: Cases, run_dir: Path) -> None:
        """Writes who is in which split; what reports are read with lies in the checkpoint."""
        keep_splits(run_dir, data.patients, data.splits)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The splits, so that nobody who was trained on is ever tested on."""
        return kept_splits(run_dir)


_SHOWN = [*(f"r@{k}" for k in TOPK), "mrr"]


def tokenize(system: VELVETMed, data: Cases) -> tuple[ReportTokenizer, ReportTokens]:
    """The tokenizer of a system, and all reports of the data on their device."""
    tokenizer = ReportTokenizer(system.vocabulary, system.max_tokens, system.max_sentences)
    return tokenizer, tokenizer(data.reports).to(data.splits["train"].device)


def embed_cases(system: VELVETMed, data: Cases) -> dict[str, Float[Tensor, "n dim"]]:
    """`volume` and `report`: unit vectors of all cases.

    Raises:
        DataError: the system was trained on cubes of another size.
    """
    data.refuse_other_size(system.size)
    tokens = tokenize(system, data)[1]
    rows = torch.arange(len(data.ids), device=tokens.ids.device)
    parts: dict[str, list[Tensor]] = {}
    for some in rows.split(_ROWS):
        batch = tokens.rows(some) | {"volume": data.whole(some)}
        for name, vectors in system.embed(batch).items():
            parts.setdefault(name, []).append(vectors)
    return {name: torch.cat(vectors) for name, vectors in parts.items()}


def _equal_reports(data: Cases, rows: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    numbers: dict[str, int] = {}
    own = [numbers.setdefault(data.reports[row].strip(), len(numbers)) for row in rows.tolist()]
    return torch.tensor(own, device=rows.device)


def _outcomes(
    both: dict[str, Float[Tensor, "n n"]], groups: Int64[Tensor, " n"]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of each direction and of both together, with the outcome of every case."""
    found = {way: retrieval_of_scores(scores, groups, groups, TOPK) for way, scores in both.items()}
    names = list(next(iter(found.values())).per_unit)
    per_unit = {
        name: np.mean([of.per_unit[name] for of in found.values()], axis=0)
        for name in names
        if name != "map"
    }
    metrics = {name: float(values.mean()) for name, values in per_unit.items()}
    for way, of in found.items():
        metrics |= {f"{name}/{way}": value for name, value in of.metrics.items() if name != "map"}
        per_unit |= {f"{name}/{way}": values for name, values in of.per_unit.items()}
    return metrics, per_unit


def _begin(data: Cases, row: int) -> str:
    text = " ".join(data.reports[row].split())
    return text if len(text) <= 90 else text[:87] + "..."
