"""Series of sensors without any file, and systems whose batch norm stands still."""

import torch

from remote_sensing.data.series import Series
from remote_sensing.systems.all_sensors import AllSensors
from remote_sensing.systems.eo_colearning import MDiCo
from remote_sensing.systems.sensor_distillation import SensorDistillation
from remote_sensing.systems.single_sensor import SingleSensor

CLASSES = {"_target_": "remote_sensing.systems.targets.Classes", "n_outputs": 3}
# An encoder without batch norm, whose statistics are each process's own on a CPU.
PLAIN = {"_target_": "core.encoders.mlp.MLP", "hidden": [7], "dim": 6}
SMALL = {"_target_": "core.encoders.temp_cnn.TempCNN", "hidden": 8, "dim": 8}
SHAPES = {"S1": [2, 6], "S2": [3, 6]}


def rows(n: int = 9, sensors: tuple[str, ...] = ("S1", "S2")) -> dict[str, torch.Tensor]:
    """A batch of classes."""
    g = torch.Generator().manual_seed(1)
    shapes = SHAPES | {"W": [4]}
    inputs = {name: torch.randn(n, *shapes[name], generator=g) for name in sensors}
    return inputs | {"label": torch.arange(n) % 3}


def series(n: int = 30, kind: str = "classes", signal: float = 2.0) -> Series:
    """What is predicted stands in both sensors, under noise."""
    g = torch.Generator().manual_seed(2)
    label = torch.arange(n) % 3
    level = signal * torch.stack([(label == of).float() for of in range(3)], 1)
    inputs = {
        name: torch.randn(n, *shape, generator=g)
        + (level @ torch.randn(3, shape[0], generator=g))[..., None]
        for name, shape in SHAPES.items()
    }
    parts = torch.arange(n).tensor_split([n // 2, 3 * n // 4])
    targets = {"labels": (level > 0).float(), "values": 5 + 10 * label[:, None].float()}
    return Series(
        inputs=inputs,
        labels={"label": label} if kind == "classes" else {},
        splits=dict(zip(("train", "valid", "test"), parts, strict=True)),
        ids=[f"p{i}" for i in range(n)],
        kind=kind,
        targets=targets.get(kind),
        target_names=["a", "b", "c"] if kind == "labels" else ["percent"],
    )


class StillMDiCo(MDiCo):
    """Batch norm with fixed statistics, no dropout, and classes of unequal weight."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.eval()
        self.target.weights.copy_(torch.tensor([0.5, 1.0, 2.5]))


class StillSingleSensor(SingleSensor):
    """The same of the baseline."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.eval()
        self.target.weights.copy_(torch.tensor([0.5, 1.0, 2.5]))


class StillAllSensors(AllSensors):
    """The same of all sensors in one model."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.eval()
        self.target.weights.copy_(torch.tensor([0.5, 1.0, 2.5]))


class StillSensorDistillation(SensorDistillation):
    """The same of a teacher and its students."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.eval()
        self.target.weights.copy_(torch.tensor([0.5, 1.0, 2.5]))
