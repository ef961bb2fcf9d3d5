import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from core.data.checks import DataError
from core.trainers.milestones import milestones


def rates(schedule, steps: int, **arguments) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=0.1)
    made, found = schedule(optimizer, **arguments), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


def test_falls_where_torch_does() -> None:
    ours = rates(milestones, 40, total_steps=40, first=0.3, second=0.75, factor=0.2)
    assert ours == pytest.approx(rates(MultiStepLR, 40, milestones=[12, 30], gamma=0.2))
    assert len(set(ours)) == 3
    assert rates(milestones, 8, total_steps=8) == pytest.approx(
        [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    )


@pytest.mark.parametrize("wrong", [{"first": 0.8}, {"second": 1.2}, {"first": -1}, {"factor": 0}])
def test_what_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="first"):
        rates(milestones, 1, total_steps=8, **wrong)
