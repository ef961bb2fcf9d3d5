"""What a model knows of all tasks of a sequence, and what it has forgotten of the earlier ones."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.tasks.probing import Probing
from core.tasks.samples import Augment, as_float
from core.trainers.system import System

_SEED = 20_250_304  # of the masks, always the same


class Continual(Probing):
    """Probing of all classes, and the objective on held-out rows of every task.

    The label `task` of the data numbers the tasks from 0, in their order. `masked_loss` is the
    objective on a task's rows, averaged over tasks and over fixed draws of the masks; of one task
    it is `masked_loss/task_0`. `forgetting` is that loss minus the same by the model as it was when
    the task ended, averaged over the tasks before the last that have ended, 0 where none has; lower
    is better for both. `linear_accuracy/task_0` is the part of task 0 in the probe of all classes.

    Args:
        augment: not used by methods that reconstruct.
        monitor: a metric of which higher is better, see `Probing`.
        k: neighbours that vote.
        draws: of the masks, for `masked_loss` and `forgetting`.
    """

    def __init__(
        self,
        augment: Augment | None = None,
        monitor: str = "linear_accuracy",
        k: int = 20,
        draws: int = 4,
    ) -> None:
        super().__init__(augment, monitor, k)
        self.draws = draws

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """Accuracies, losses and forgetting of a split.

        Raises:
            DataError: the split is empty, or the data have no tasks.
        """
        if "task" not in data.labels:
            raise DataError(
                "the data are no sequence of tasks",
                expected="a label_task beside label: numbers from 0 in the order of the training",
            )
        labels = {name: of for name, of in data.labels.items() if name != "task"}
        probed = super().evaluate(system, replace(data, labels=labels), split)
        metrics = dict(probed.metrics)
        task = data.labels["task"][data.splits[split]]
        present = [
            number for number in range(data.n_classes["task"]) if bool((task == number).any())
        ]
        for name in ("linear_accuracy", "knn_accuracy"):
            if name in probed.per_unit:
                hits = torch.from_numpy(probed.per_unit[name]).to(task.device)
                for number in present:
                    metrics[f"{name}/task_{number}"] = float(hits[task == number].nanmean())
        if hasattr(system, "errors"):
            metrics |= self._losses(system, data, split, task, present)
        return Evaluation(metrics, probed.unit, probed.unit_ids, probed.per_unit)

    def _losses(
        self, system: System, data: Samples, split: str, task: Tensor, present: list[int]
    ) -> dict[str, float]:
        errors = self._errors(system, data, split)
        now = {number: float(errors[0, task == number].mean()) for number in present}
        n_learned = int(system.n_learned)  # type: ignore[arg-type]
        learned = [number for number in present if number < min(n_learned, len(errors) - 1)]
        forgotten = [now[n] - float(errors[n + 1, task == n].mean()) for n in learned]
        return {
            "masked_loss": sum(now.values()) / len(now),
            "forgetting": sum(forgotten) / len(forgotten) if forgotten else 0.0,
        } | {f"masked_loss/task_{number}": loss for number, loss in now.items()}

    @torch.no_grad()
    def _errors(self, system: System, data: Samples, split: str) -> Float[Tensor, "models rows"]:
        rows = data.splits[split]
        whole = {k: v.index_select(0, rows) for k, v in (data.inputs | data.labels).items()}
        columns = as_float(whole, data)
        n_rows = len(rows)
        total = 0.0
        for number in range(self.draws):
            # Drawn on the CPU: the same masks on every device.
            draws = Draws(_SEED + number, n_rows, slice(0, n_rows), torch.device("cpu"))
            drawn = system.draw(columns, draws)  # type: ignore[operator]
            noise = {name: values.to(rows.device) for name, values in drawn.items()}
            total = total + system.errors(columns | noise)  # type: ignore[operator]
        mean: Tensor = total / self.draws  # type: ignore[assignment]
        return mean
