"""What tasks share in which a pre-trained VELVET-Med sees a volume and a text together."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from core.augment.draws import Draws
from core.checkpoints import find_checkpoint
from core.data.checks import DataError
from core.data.findings import few
from core.data.resident import ResidentLoader
from core.evaluation.evaluation import Evaluation
from core.evaluation.index import NeighbourIndex
from core.trainers.system import Batch, System
from medical.data.case_splits import keep_splits, kept_splits, read_splits
from medical.data.cases import Cases
from medical.data.report_tokens import read_vocabulary, train_vocabulary
from medical.systems.velvet_fused import pretrained_arguments


class FusedTask(ABC):
    """The sizes, the vocabulary and the weights of a pre-trained run, and batches of pairs.

    Args:
        pretrained: run of system=velvet_med to start from; None starts from random weights.
        model: constructor arguments of VELVET-Med, where there is no such run.
        vocabulary: `vocab.txt` or `tokenizer.json`, where there is no such run; None: word pieces
            of the training reports.
        vocabulary_size: of those, at most.
        monitor: the metric that chooses checkpoints and configurations.
    """

    def __init__(
        self,
        pretrained: str | None,
        model: dict[str, Any] | None,
        vocabulary: str | None,
        vocabulary_size: int,
        monitor: str,
    ) -> None:
        self.pretrained, self.model, self.monitor = pretrained, dict(model or {}), monitor
        self.vocabulary, self.vocabulary_size = vocabulary, vocabulary_size

    def system_arguments(self, data: Cases) -> dict[str, Any]:
        """Vocabulary, side of the cubes, and the model, of the run or as the config says.

        Raises:
            DataError: the run was made with cubes of another size.
        """
        if self.pretrained is not None:
            found = dict(pretrained_arguments(self.pretrained))
            pieces, size = found.pop("vocabulary"), found.pop("size")
            if size != data.size:
                raise DataError(
                    f"data.size={data.size}", expected=f"{size}, as in {self.pretrained}"
                )
            _warn_of_seen(self.pretrained, data)
            # Absolute, because the process that resumes may be started elsewhere.
            model, pretrained = found, str(Path(self.pretrained).resolve())
        else:
            if self.vocabulary is not None:
                pieces = read_vocabulary(self.vocabulary)
            else:
                texts = [data.reports[row] for row in data.splits["train"].tolist()]
                pieces = train_vocabulary(texts, self.vocabulary_size)
            model, pretrained = self.model, None
        return {
            "vocabulary": pieces,
            "size": data.size,
            "model": model,
            "pretrained": pretrained,
        }

    def loader(
        self,
        columns: dict[str, Tensor],
        complete: Callable[[Batch], Batch],
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> ResidentLoader:
        """Shuffled batches of the columns, completed with volumes and tokens."""

        def prepare(batch: Batch, draws: Draws) -> Batch:
            return complete(batch)

        return ResidentLoader(columns, batch_size, seed, rank, world_size, prepare=prepare)

    @abstractmethod
    def evaluate(self, system: System, data: Cases, split: str) -> Evaluation:
        """The task's protocol on a split."""

    def embed(self, system: System, data: Cases) -> pl.DataFrame:
        """Nothing: states of these systems belong to a text.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{type(system).__name__} has no embeddings of volumes",
            fix="embed with the pre-trained run of system=velvet_med",
        )

    def search(
        self,
        system: System,
        data: Cases,
        query: str,
        k: int,
        index: NeighbourIndex | None = None,
    ) -> list[dict[str, Any]]:
        """Nothing, for the same reason.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{type(system).__name__} does not search",
            fix="search with the pre-trained run of system=velvet_med",
        )

    def index_spaces(self, system: System, data: Cases) -> dict[str, tuple[Tensor, Tensor]]:
        """Nothing, for the same reason.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{type(system).__name__} does not search",
            fix="index the pre-trained run of system=velvet_med",
        )

    def keep_reading(self, data: Cases, run_dir: Path) -> None:
        """Writes who is in which split."""
        keep_splits(run_dir, data.patients, data.splits)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """The splits, so that nobody who was trained on is ever tested on."""
        return kept_splits(run_dir)


def _warn_of_seen(run: str, data: Cases) -> None:
    """Says whose reports the pre-training has learned who are to validate or test here."""
    folder = find_checkpoint(run).parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    splits = kept_splits(folder).get("splits")
    if splits is None:
        return
    held_out = torch.cat([data.splits["valid"], data.splits["test"]]).tolist()
    learned = {name for name, split in read_splits(Path(splits)).items() if split == "train"}
    seen = sorted({data.patients[row] for row in held_out} & learned)
    if seen:
        warnings.warn(
            f"{run} was trained on {len(seen)} patients of the validation and test splits here, "
            f"such as {few(seen)}; unless they are others of the same names, "
            f"data.splits={splits} keeps them apart",
            stacklevel=3,
        )


def on_device(numbers: list[int], data: Cases) -> Tensor:
    """Whole numbers where the volumes of a batch will be."""
    return torch.tensor(numbers, dtype=torch.int64, device=data.splits["train"].device)
