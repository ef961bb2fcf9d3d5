"""Windows of two sensors whose activities are waves of their own, without any file."""

import torch
from torch import Tensor

from core.tasks.samples import SampleTask
from core.trainers import System
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows

# A network that learns in a second, and one without batch norm, whose statistics are each
# process's own on a CPU.
SMALL = {
    "_target_": "core.encoders.series_convolutions.SeriesConvNet",
    "widths": [16, 16, 16],
    "parts": 2,
}
PLAIN = {"_target_": "core.encoders.mlp.MLP", "hidden": [12], "dim": 8}
STEPS, JOINTS = 20, 4  # head, hip, hands


def windows(
    modalities: tuple[str, ...] = (SKELETON, IMU),
    repeats: int = 6,
    noise: float = 0.6,
    n_classes: int = 4,
    subjects: tuple[str, ...] = ("s1", "s2", "s3", "s4", "s10"),
    lengths: Tensor | None = None,
) -> Windows:
    """Each subject does each activity `repeats` times.

    s1 and s2 train, s3 validates, all others test. An activity has a frequency and a direction in
    each modality; a window has a phase and a size, which both its sensors share, and noise.
    """
    g = torch.Generator().manual_seed(0)
    n = len(subjects) * n_classes * repeats
    number = torch.arange(n)
    label, subject = number // repeats % n_classes, number // (repeats * n_classes)
    time = torch.linspace(0, 1, STEPS)
    size = 0.7 + 0.6 * torch.rand(n, 1, generator=g)
    phase = 0.8 * torch.rand(n, 1, generator=g)
    wave = size * torch.sin(2 * torch.pi * ((1 + label[:, None] % 2) * time + phase))
    inputs = {}
    for name, shape in ((SKELETON, (3, STEPS, JOINTS)), (IMU, (6, STEPS))):
        along = [1, 1, STEPS, 1] if name == SKELETON else [1, 1, STEPS]
        direction = torch.randn(n_classes, shape[0], 1, *shape[2:], generator=g)
        moved = direction[label] * wave.view(n, *along[1:])
        inputs[name] = moved + noise * torch.randn(n, *shape, generator=g)
    split = torch.clamp(subject - 1, min=0, max=2)
    lengths = torch.full((n,), STEPS) if lengths is None else lengths
    mask = torch.arange(STEPS) < lengths[:, None]
    inputs[SKELETON] *= mask[:, None, :, None]
    inputs[IMU] *= mask[:, None]
    return Windows(
        inputs={name: inputs[name] for name in modalities},
        labels={"label": label, "subject": subject},
        splits={
            name: (split == place).nonzero().flatten()
            for place, name in enumerate(("train", "valid", "test"))
        },
        ids=[f"w{i}" for i in range(n)],
        classes={"label": [f"class {i}" for i in range(n_classes)], "subject": list(subjects)},
        joints=["head", "hip", "left_hand", "right_hand"],
        edges=[(0, 1), (0, 2), (0, 3)],
        channels=[f"{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"],
        lengths=lengths,
    )


def trained(system: System, task: SampleTask, data: Windows, epochs: int = 30) -> System:
    """Adam on the loader of the task; the system ends in evaluation mode."""
    optimizer = torch.optim.Adam(system.parameters(), 1e-2)
    loader = task.train_loader(system.train(), data, 24, 0)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            system.objective(batch)["loss"].backward()
            optimizer.step()
    return system.eval()
