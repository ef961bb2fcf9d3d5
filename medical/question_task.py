"""Questions about volumes: answered by yes or no, and how often rightly."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.trainers.system import Batch
from core.trainers.task import Loader
from medical.data.cases import Cases
from medical.data.questions import Question, questions_from_findings, read_questions
from medical.data.report_tokens import ReportTokenizer, ReportTokens
from medical.fused_task import FusedTask, on_device
from medical.systems.velvet_vqa import VelvetVQA

_ROWS = 32  # questions at a time


class ClosedQuestions(FusedTask):
    """Accuracy, area under the ROC curve, and F1 of yes.

    `accuracy/other_volume` is with the volume of another case of the split in place of the own one:
    what the questions alone give away.

    Args:
        questions: CSV with the columns case, question, answer; None: from the findings of generated
            cases.
        pretrained: run of system=velvet_med to start from; None starts from random weights.
        model: constructor arguments of VELVET-Med, where there is no such run.
        vocabulary: where there is no such run, see `medical.volume_task.VolumesAndReports`.
        vocabulary_size: likewise.
        monitor: accuracy, the one that is a mean over questions.

    Raises:
        DataError: the monitor is another one.
    """

    def __init__(
        self,
        questions: str | None = None,
        pretrained: str | None = None,
        model: dict[str, Any] | None = None,
        vocabulary: str | None = None,
        vocabulary_size: int = 8192,
        monitor: str = "accuracy",
    ) -> None:
        super().__init__(pretrained, model, vocabulary, vocabulary_size, monitor)
        if monitor != "accuracy":
            raise DataError(f"task.monitor={monitor}", expected="accuracy")
        self.questions = questions

    def train_loader(
        self,
        system: VelvetVQA,
        data: Cases,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Loader:
        """Batches of `volume`, tokens of the question, and `answer`."""
        asked = self._asked(data, "train")
        tokens = _tokenize(system, asked, data)
        columns = {
            "question": torch.arange(len(asked), device=tokens.ids.device),
            "row": on_device([one.row for one in asked], data),
            "answer": on_device([one.answer for one in asked], data),
        }

        def complete(batch: Batch) -> Batch:
            return batch | tokens.rows(batch["question"]) | {"volume": data.whole(batch["row"])}

        return self.loader(columns, complete, batch_size, seed, rank, world_size)

    def has_split(self, data: Cases, split: str) -> bool:
        """Whether there are questions about cases of the split."""
        return len(data.splits[split]) > 0 and bool(self._asked(data, split))

    def evaluate(self, system: VelvetVQA, data: Cases, split: str) -> Evaluation:  # type: ignore[override]
        """Answers to the questions about a split's cases; the test units are the questions.

        Raises:
            DataError: there is no question about them, or cubes are of another size.
        """
        from sklearn.metrics import f1_score, roc_auc_score

        data.refuse_other_size(system.size)
        asked = self._asked(data, split)
        if not asked:
            raise DataError(f"no question about the cases of the {split} split")
        rows = on_device([one.row for one in asked], data)
        truth = np.array([one.answer for one in asked])
        scores = _scores(system, data, asked, rows)
        right = ((scores > 0) == truth).astype(float)
        metrics = {"accuracy": float(right.mean()), "f1": float(f1_score(truth, scores > 0))}
        # Without both answers no order can be judged.
        both = 0 < truth.sum() < len(truth)
        metrics["auroc"] = float(roc_auc_score(truth, scores)) if both else 0.5
        if split == "test":
            other = _scores(system, data, asked, _others(rows, data.splits[split]))
            metrics["accuracy/other_volume"] = float(((other > 0) == truth).mean())
        ids = np.array([f"{data.ids[one.row]}: {one.text}" for one in asked])
        return Evaluation(metrics, "question", ids, {"accuracy": right})

    def _asked(self, data: Cases, split: str) -> list[Question]:
        if self.questions is not None:
            asked = read_questions(self.questions, data)
        else:
            asked = questions_from_findings(data)
        rows = set(data.splits[split].tolist())
        return [one for one in asked if one.row in rows]


def _tokenize(system: VelvetVQA, asked: list[Question], data: Cases) -> ReportTokens:
    tokenizer = ReportTokenizer(system.vocabulary, system.max_tokens, system.max_sentences)
    return tokenizer([one.text for one in asked]).to(data.splits["train"].device)


def _scores(
    system: VelvetVQA, data: Cases, asked: list[Question], rows: Int64[Tensor, " questions"]
) -> Float[np.ndarray, " questions"]:
    tokens = _tokenize(system, asked, data)
    parts = []
    for some in torch.arange(len(asked), device=rows.device).split(_ROWS):
        batch = tokens.rows(some) | {"volume": data.whole(rows[some])}
        parts.append(system.scores(batch))
    return torch.cat(parts).cpu().numpy()


def _others(
    rows: Int64[Tensor, " questions"], split: Int64[Tensor, " cases"]
) -> Int64[Tensor, " questions"]:
    """For each row that of the next case of the split."""
    is_own: Bool[Tensor, "questions cases"] = split == rows[:, None]
    return split[(is_own.long().argmax(1) + 1) % len(split)]
