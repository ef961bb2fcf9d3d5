"""Reports written from volumes, compared with those that were written by people."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.trainers.system import Batch
from core.trainers.task import Loader
from medical.data.cases import Cases
from medical.data.report_tokens import ReportTokenizer
from medical.fused_task import FusedTask
from medical.report_gallery import draw_written
from medical.systems.velvet_reports import VelvetReports

_MEASURES = ("rouge_l", "bleu_1", "bleu_4")
_ROWS = 16  # cases at a time
_SHOWN = 4


class ReportWriting(FusedTask):
    """BLEU of up to 1 and 4 words and the F-measure of ROUGE-L, means over cases.

    `rouge_l/other_case` compares each text with the report of another case of the split: reports
    are much alike, and only what is above it was said of the volume.

    Args:
        instruction: the text that sees the volume.
        pretrained: run of system=velvet_med to start from; None starts from random weights.
        model: constructor arguments of VELVET-Med, where there is no such run.
        vocabulary: where there is no such run, see `medical.volume_task.VolumesAndReports`.
        vocabulary_size: likewise.
        monitor: rouge_l, bleu_1 or bleu_4.

    Raises:
        DataError: the monitor is not known.
    """

    def __init__(
        self,
        instruction: str = "Describe the findings.",
        pretrained: str | None = None,
        model: dict[str, Any] | None = None,
        vocabulary: str | None = None,
        vocabulary_size: int = 8192,
        monitor: str = "rouge_l",
    ) -> None:
        super().__init__(pretrained, model, vocabulary, vocabulary_size, monitor)
        if monitor not in _MEASURES:
            raise DataError(f"task.monitor={monitor}", expected=f"one of {', '.join(_MEASURES)}")
        self.instruction = instruction

    def train_loader(
        self,
        system: VelvetReports,
        data: Cases,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of `volume`, tokens of the instruction, and `target`, tokens of the report."""
        rows = data.splits["train"]
        texts = [data.reports[row] for row in rows.tolist()]
        columns = {"row": rows, "target": system.targets(texts).to(rows.device)}

        def complete(batch: Batch) -> Batch:
            return batch | self._given(system, data, batch["row"])

        return self.loader(columns, complete, batch_size, seed, rank, world_size)

    def has_split(self, data: Cases, split: str) -> bool:
        """Whether the split has any cases."""
        return len(data.splits[split]) > 0

    def evaluate(self, system: VelvetReports, data: Cases, split: str) -> Evaluation:  # type: ignore[override]
        """Scores of the reports that are written for a split.

        Raises:
            DataError: the split is empty, or cubes are of another size.
        """
        data.refuse_other_size(system.size)
        if not self.has_split(data, split):
            raise DataError(f"the {split} split is empty")
        rows = data.splits[split].tolist()
        written = self._write(system, data, data.splits[split])
        true = [_plain(data.reports[row]) for row in rows]
        per_unit = _measures(written, true)
        metrics = {name: float(values.mean()) for name, values in per_unit.items()}
        if split == "test" and len(rows) > 1:
            others = [*true[1:], true[0]]
            metrics["rouge_l/other_case"] = float(_measures(written, others)["rouge_l"].mean())
        return Evaluation(metrics, "case", np.array([data.ids[row] for row in rows]), per_unit)

    def draw(self, system: VelvetReports, data: Cases, split: str, folder: Path) -> list[Path]:
        """Draws some cases with what was written and what a person wrote."""
        rows = data.splits[split][:_SHOWN]
        file = folder / f"reports_{split}.png"
        draw_written(data, rows.tolist(), self._write(system, data, rows), file)
        return [file]

    def _given(self, system: VelvetReports, data: Cases, rows: Tensor) -> Batch:
        tokenizer = ReportTokenizer(system.vocabulary, system.max_tokens, system.max_sentences)
        tokens = tokenizer([self.instruction]).to(rows.device)
        return tokens.rows(torch.zeros_like(rows)) | {"volume": data.whole(rows)}

    def _write(self, system: VelvetReports, data: Cases, rows: Tensor) -> list[str]:
        return [
            _plain(text)
            for some in rows.split(_ROWS)
            for text in system.write(self._given(system, data, some))
        ]


def _plain(text: str) -> str:
    """Lower case, words and marks apart, as word pieces are put together again."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return " ".join(word for word, _ in BertPreTokenizer().pre_tokenize_str(text.lower()))


def _measures(written: list[str], true: list[str]) -> dict[str, np.ndarray]:
    from torchmetrics.functional.text import bleu_score, rouge_score

    found: dict[str, list[float]] = {name: [] for name in _MEASURES}
    for text, report in zip(written, true, strict=True):
        rouge = rouge_score(text, report, rouge_keys="rougeL")["rougeL_fmeasure"]
        found["rouge_l"].append(float(rouge))
        for n in (1, 4):
            found[f"bleu_{n}"].append(float(bleu_score([text], [[report]], n_gram=n, smooth=True)))
    return {name: np.array(values) for name, values in found.items()}
