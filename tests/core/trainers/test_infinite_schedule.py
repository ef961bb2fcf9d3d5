import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError
from core.trainers.schedules import infinite, linear


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)


def _rates(schedule: LambdaLR, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_linear_rises_and_falls() -> None:
    rates = _rates(linear(_optimizer(), 10, warmup=0.2, final=0.5), 12)
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.2])
    assert rates[6] == pytest.approx(0.2 * (1 - 0.5 * 0.5))
    assert rates[10:] == pytest.approx([0.1, 0.1])
    assert sorted(rates[2:], reverse=True) == rates[2:]
    assert _rates(linear(_optimizer(), 4, warmup=0), 4) == pytest.approx([0.2, 0.15, 0.1, 0.05])


@pytest.mark.parametrize("cooldown", ["cosine", "inverse_sqrt", "linear"])
def test_phases_of_the_infinite_schedule(cooldown: str) -> None:
    rates = _rates(infinite(_optimizer(), 100, cooldown=cooldown), 101)
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.2)
    assert max(rates) == rates[5]
    assert rates[5:31] == sorted(rates[5:31], reverse=True)
    assert rates[30:81] == pytest.approx([0.05] * 51)
    assert rates[90] == pytest.approx(0.2 * (0.25 * 0.01) ** 0.5)
    assert rates[100] == pytest.approx(0.002)


def test_a_later_task_begins_with_the_constant_rate() -> None:
    first = _rates(infinite(_optimizer(), 100), 100)
    later = _rates(infinite(_optimizer(), 100, first_task=False), 100)
    assert later[:81] == pytest.approx([0.05] * 81)
    assert later[81:] == first[81:]


@pytest.mark.parametrize("steps", [1, 2, 5, 19])
def test_short_runs_have_a_rate_at_every_step(steps: int) -> None:
    rates = _rates(infinite(_optimizer(), steps), steps)
    assert all(0 < rate <= 0.2 for rate in rates)


def test_state_resumes() -> None:
    schedule = infinite(_optimizer(), 40)
    _rates(schedule, 13)
    resumed = infinite(_optimizer(), 40)
    resumed.load_state_dict(schedule.state_dict())
    assert _rates(resumed, 20) == _rates(schedule, 20)


def test_fractions_that_do_not_rise_are_refused() -> None:
    with pytest.raises(DataError, match="all counted from the start"):
        infinite(_optimizer(), 100, warmup=0.4, cooldown_end=0.3)
    with pytest.raises(DataError, match="fractions above 0"):
        infinite(_optimizer(), 100, final=0.0)
    with pytest.raises(DataError, match=r"warmup=1"):
        linear(_optimizer(), 100, warmup=1.0)
