"""Sensors that predict alone: how systems that learned from several are judged with one."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.tasks.samples import SampleTask
from core.trainers.system import Batch, System
from remote_sensing.data.series import Kind, Series, write_scaling
from remote_sensing.evaluation import Judged, judge_classes, judge_labels, judge_values

_TARGETS: dict[Kind, str] = {
    "classes": "remote_sensing.systems.targets.Classes",
    "labels": "remote_sensing.systems.targets.Labels",
    "values": "remote_sensing.systems.targets.Values",
}
_JUDGES = {"labels": judge_labels, "values": judge_values}
# Of these less is more, or neither is.
_NOT_TO_CHOOSE_BY = ("rmse", "mae", "mape", "bias", "rmse_over_root_mean")
_LOSS = "minus_loss"
_ROWS = 1024  # that are predicted at a time
_LOSS_ROWS = 128  # of a batch of the loss, whose contrast depends on how many there are


@runtime_checkable
class PredictsEach(Protocol):
    """A system of which every sensor predicts by itself."""

    shapes: dict[str, list[int]]

    def predict_each(self, batch: Batch) -> dict[str, Float[Tensor, "batch outputs"]]:
        """Modality -> logits or values, of those modalities that the batch has."""
        ...


class OneSensor(SampleTask):
    """Training with all sensors, and the metrics of each of them alone.

    A metric `accuracy/S1` is that of the sensor S1, to which no other was shown; `accuracy` is the
    mean over the sensors. Of classes: accuracy, balanced accuracy, macro-F1, Cohen's kappa; of
    labels: F1, macro and weighted; of values: R2, RMSE, MAE, MAPE, bias, and what the authors call
    rRMSE, sqrt(mean((y - p)^2 / mean(y))), as `rmse_over_root_mean`.

    Args:
        monitor: the metric that chooses checkpoints and configurations: one of the above of which
            more is better, or `minus_loss`, the objective on the split in evaluation mode with its
            sign turned, by which the published training stops.

    Raises:
        DataError: nothing can be chosen by the monitor.
    """

    drop_last = True  # all encoders have batch norm

    def __init__(self, monitor: str = "accuracy") -> None:
        super().__init__(None, monitor)
        if monitor.partition("/")[0] in _NOT_TO_CHOOSE_BY:
            raise DataError(
                f"task.monitor={monitor}, of which more is not better", expected=f"r2 or {_LOSS}"
            )

    def system_arguments(self, data: Series) -> dict[str, Any]:  # type: ignore[override]
        """The sizes that a system is built with, and what it is to predict."""
        target = {"_target_": _TARGETS[data.kind], "n_outputs": data.n_outputs}
        return super().system_arguments(data) | {"target": target}

    def evaluate(self, system: System, data: Series, split: str) -> Evaluation:  # type: ignore[override]
        """Metrics of a split, with the value of every sample that has a target.

        Raises:
            DataError: the split has no such sample, the system predicts nothing for these data, or
                the monitor was not measured.
        """
        rows = data.splits[split]
        if data.kind == "classes":
            rows = rows[data.labels["label"][rows] >= 0]
        if len(rows) == 0:
            raise DataError(f"the {split} split has no sample with a target")
        each = predict_each(system, data, rows)
        judged = {name: _judged(outputs, data, rows) for name, outputs in each.items()}
        first = next(iter(judged.values()))
        metrics, per_unit = {}, {}
        for metric in first.metrics:
            metrics[metric] = float(np.mean([of.metrics[metric] for of in judged.values()]))
            metrics |= {f"{metric}/{name}": of.metrics[metric] for name, of in judged.items()}
        for metric in first.per_unit:
            per_unit[metric] = np.mean([of.per_unit[metric] for of in judged.values()], axis=0)
            per_unit |= {f"{metric}/{name}": of.per_unit[metric] for name, of in judged.items()}
        if self.monitor == _LOSS:
            per_unit[_LOSS] = -_losses(system, data, rows)
            metrics[_LOSS] = float(per_unit[_LOSS].mean())
        if self.monitor not in metrics:
            raise DataError(
                f"task.monitor={self.monitor}: these data have {data.kind}, and the sensors are "
                f"{', '.join(judged)}",
                expected=f"one of {', '.join(metrics)}",
            )
        ids = np.array([data.ids[row] for row in rows.tolist()])
        return Evaluation(metrics, "sample", ids, per_unit)

    def vectors(self, system: System, data: Series) -> dict[str, Float[Tensor, "n dim"]]:  # type: ignore[override]
        """Modality -> embeddings of all samples, of which some sensors may be missing.

        Raises:
            DataError: the system learned from other sensors or shapes.
        """
        _refuse_other_shapes(system, data)
        rows = torch.arange(len(data.ids), device=next(iter(data.inputs.values())).device)
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for some in rows.split(_ROWS):
                batch = {name: of.index_select(0, some) for name, of in data.inputs.items()}
                for name, found in system.embed(batch).items():
                    parts.setdefault(name, []).append(found)
        return {name: torch.cat(found) for name, found in parts.items()}

    def keep_reading(self, data: Series, run_dir: Path) -> None:  # type: ignore[override]
        """Keeps means, deviations and names, so that other files are read alike."""
        names = data.classes.get("label", data.target_names)
        write_scaling(data.scaling, run_dir / "scaling.npz", names)

    def reading(self, run_dir: Path) -> dict[str, str]:
        """Names the kept means and deviations."""
        file = run_dir / "scaling.npz"
        return {"scaling": str(file)} if file.is_file() else {}


@torch.no_grad()
def predict_each(
    system: System, data: Series, rows: Int64[Tensor, " n"]
) -> dict[str, Float[Tensor, "n outputs"]]:
    """What each sensor of the data predicts of some rows, to which no other sensor was shown.

    Raises:
        DataError: the system predicts nothing, or learned from other sensors or shapes.
    """
    if not isinstance(system, PredictsEach):
        raise DataError(
            f"{type(system).__name__} does not predict from each sensor",
            expected="system=eo_colearning or another system of series",
        )
    _refuse_other_shapes(system, data)
    outputs = {}
    for name, values in data.inputs.items():
        parts = [
            system.predict_each({name: values.index_select(0, some)})[name].float()
            for some in rows.split(_ROWS)
        ]
        outputs[name] = torch.cat(parts)
    return outputs


def _refuse_other_shapes(system: System, data: Series) -> None:
    shapes: dict[str, list[int]] = getattr(system, "shapes", data.shapes)
    for name, shape in data.shapes.items():
        if shapes.get(name) != shape:
            learned = ", ".join(f"{k} {of}" for k, of in shapes.items())
            raise DataError(f"{name} of {shape}", expected=f"those of the training, {learned}")


def _judged(outputs: Float[Tensor, "n outputs"], data: Series, rows: Tensor) -> Judged:
    if data.targets is None:
        return judge_classes(outputs, data.labels["label"][rows])
    return _JUDGES[data.kind](outputs, data.targets[rows])


@torch.no_grad()
def _losses(system: System, data: Series, rows: Int64[Tensor, " n"]) -> Float[np.ndarray, " n"]:
    """The objective of the batch that each row is in."""
    columns = data.inputs | data.labels
    columns |= {} if data.targets is None else {"target": data.targets}
    losses = []
    for some in rows.split(_LOSS_ROWS):
        batch = {name: values.index_select(0, some) for name, values in columns.items()}
        losses.append(system.objective(batch)["loss"].double().expand(len(some)))
    return torch.cat(losses).cpu().numpy()
