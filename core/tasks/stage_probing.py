"""Probing of every stage alone, beside all of them together."""

from core.data.samples import Samples
from core.evaluation.evaluation import Evaluation
from core.tasks.probing import Probing
from core.trainers.system import System


class StageProbing(Probing):
    """Probing, and on the test split also of the parts of a system that has stages.

    `linear_accuracy/stage_1` is of stage 1 alone, `linear_accuracy/stages_0_1` of the first two
    together; those of a further label NAME are called `linear_accuracy/NAME/stage_1`.
    """

    def evaluate(self, system: System, data: Samples, split: str) -> Evaluation:
        """Accuracies and RankMe of a split; the metric of every sample is of the whole system.

        Raises:
            DataError: the split is empty, or has no labels that the monitor needs.
        """
        whole = super().evaluate(system, data, split)
        n_stages = int(getattr(system, "stage", 0)) + 1
        if split != "test" or n_stages == 1:
            return whole
        parts = {f"stage_{number}": [number] for number in range(n_stages)}
        for last in range(1, n_stages - 1):
            together = list(range(last + 1))
            parts[f"stages_{'_'.join(map(str, together))}"] = together
        metrics = dict(whole.metrics)
        for name, stages in parts.items():
            found = super().evaluate(system.part(stages), data, split).metrics  # type: ignore[operator]
            metrics |= {f"{metric}/{name}": value for metric, value in found.items()}
        return Evaluation(metrics, whole.unit, whole.unit_ids, whole.per_unit)
