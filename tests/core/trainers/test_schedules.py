import math

import pytest
import torch

from core.data.checks import DataError
from core.trainers.schedules import constant, cosine


def _rates(schedule: str, total_steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = {"constant": constant, "cosine": cosine}[schedule](
        optimizer, total_steps, **options
    )
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert _rates("constant", 5) == [0.2] * 5


def test_cosine_without_warmup() -> None:
    expected = [0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5))]
    assert _rates("cosine", 4, warmup=0) == pytest.approx(expected)


def test_cosine_rises_and_falls() -> None:
    rates = _rates("cosine", 10, warmup=0.2, final=0.1)
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.2])
    assert rates[6] == pytest.approx(0.2 * (0.1 + 0.9 / 2))
    assert rates[9] == pytest.approx(0.2 * (0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8))))
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_the_cosine_stays_where_it_ends() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    multiplier = cosine(optimizer, 10, warmup=0, final=0.3).lr_lambdas[0]
    assert [multiplier(step) for step in (10, 11, 50)] == pytest.approx([0.3] * 3)


def test_a_training_of_one_step() -> None:
    assert _rates("cosine", 1) == [0.2]


@pytest.mark.parametrize("warmup", [-0.1, 1, 500])
def test_a_warmup_that_is_no_fraction_is_refused(warmup: float) -> None:
    with pytest.raises(DataError, match=rf"schedule.warmup={warmup}"):
        _rates("cosine", 10, warmup=warmup)
