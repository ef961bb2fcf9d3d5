import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoints import read_checkpoint
from tests.core.trainers.tiny import Tiny, train


class Taught(Tiny):
    """Its teacher is a moving average of its first layer, and has a say in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.hidden).requires_grad_(False)
        self.calls: list[tuple[int, int]] = []
        self.weights: list[Tensor] = []

    def update_teachers(self, step: int, total_steps: int) -> None:
        self.calls.append((step, total_steps))
        self.weights.append(self.hidden.weight.detach().clone())
        for mean, weight in zip(self.teacher.parameters(), self.hidden.parameters(), strict=True):
            mean.lerp_(weight.detach(), 0.25)

    def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        terms = super().objective(batch)
        x = batch["x"] - self.mean
        distance = (self.hidden(x) - self.teacher(x)).square().mean()
        return terms | {"loss": terms["loss"] + distance}


def _last(run_dir: Path) -> dict[str, Any]:
    return read_checkpoint(run_dir / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_teachers_follow_every_optimizer_step(tmp_path: Path, accumulate: int) -> None:
    _, system = train(tmp_path, system=Taught, accumulate=accumulate)
    assert len(system.batches) == 9 * accumulate
    assert system.calls == [(step, 9) for step in range(9)]
    # The last call saw the final weights, and each one those of its own step.
    assert torch.equal(system.weights[-1], system.hidden.weight)
    assert len({tuple(weight.flatten().tolist()) for weight in system.weights}) == 9


def test_a_checkpoint_inside_an_epoch_holds_the_teacher_of_its_step(tmp_path: Path) -> None:
    unbroken = train(tmp_path / "unbroken", system=Taught)[1]

    class Killed(BaseException):
        pass

    class Dying(Taught):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            if self.trainer.global_step == 4:
                raise Killed
            return super().objective(batch)

    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(run, system=Dying, checkpoint_every_n_steps=1)
    assert _last(run)["global_step"] == 4
    last = run / "checkpoints" / "last.ckpt"
    _, resumed = train(run, system=Taught, resume=last, chance=99)
    assert resumed.calls == [(step, 9) for step in range(4, 9)]
    for name, weight in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name
