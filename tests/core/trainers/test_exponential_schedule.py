import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError
from core.trainers.schedules import exponential


def _schedule(total_steps: int, **options: float) -> LambdaLR:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    return exponential(optimizer, total_steps, **options)


def test_falls_by_the_factor_every_so_many_epochs() -> None:
    multiplier = _schedule(3000, epochs=1000).lr_lambdas[0]
    assert [multiplier(step) for step in (0, 2)] == [1, 1]
    assert multiplier(3 * 50) == pytest.approx(0.96)
    assert multiplier(3 * 25) == pytest.approx(0.96**0.5)
    assert multiplier(3 * 1000 - 1) == pytest.approx(0.96 ** (999 / 50))


def test_is_constant_within_an_epoch() -> None:
    schedule = _schedule(12, epochs=3, factor=0.5, every=1)
    rates = []
    for _ in range(12):
        rates += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.2] * 4 + [0.1] * 4 + [0.05] * 4)


@pytest.mark.parametrize("options", [{"factor": 0}, {"factor": -1}, {"every": 0}])
def test_numbers_that_give_no_rate_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"schedule.factor=.* schedule.every="):
        _schedule(10, epochs=5, **options)
