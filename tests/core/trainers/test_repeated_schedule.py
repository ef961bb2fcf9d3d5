import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from core.data.checks import DataError
from core.trainers.schedules import constant, cosine, infinite, repeated

CASE = Path(__file__).parents[2] / "goldens" / "infinite_lr" / "schedule"
SHAPES = {"cosine": "cosine", "inverse_sqrt": "inverse_sqrt", "constant": "linear"}


def _optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def _rates(schedule: LambdaLR, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return rates


def _over_tasks(shape: str, n_tasks: int) -> LambdaLR:
    """The reference case's infinite schedule, over a sequence of tasks."""
    params = json.loads(CASE.with_suffix(".json").read_text())["params"]
    peak, steps = params["peak_lr"], params["epochs"] * params["iters_per_epoch"]
    schedule = partial(
        infinite,
        warmup=params["warmup_ratio"],
        cooldown_end=params["cooldown_end_ratio"],
        constant_end=params["constant_end_ratio"],
        constant=params["constant_lr"] / peak,
        final=params["min_lr"] / peak,
        cooldown=shape,
        timescale=params["timescale"],
    )
    return repeated(
        _optimizer(peak),
        n_tasks * steps,
        schedule=schedule,
        n_tasks=n_tasks,
        later={"first_task": False},
    )


@pytest.mark.parametrize("name", SHAPES)
def test_tasks_of_the_infinite_schedule_have_the_reference_rates(name: str) -> None:
    expected = np.load(CASE.with_suffix(".npz"))
    first, later = expected[f"out_task0_{name}"], expected[f"out_task1_{name}"]
    assert len(first) == len(later) == 70
    assert not np.allclose(first, later)
    rates = _rates(_over_tasks(SHAPES[name], 3), 210)
    np.testing.assert_allclose(rates, np.concatenate([first, later, later]), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("at", [0, 35, 69, 70, 71, 139, 140, 200])
def test_a_resumed_sequence_goes_on_with_the_same_rates(at: int) -> None:
    unbroken = _rates(_over_tasks("cosine", 3), 210)
    before = _over_tasks("cosine", 3)
    _rates(before, at)
    resumed = _over_tasks("cosine", 3)
    resumed.load_state_dict(before.state_dict())
    resumed.optimizer.load_state_dict(before.optimizer.state_dict())
    assert _rates(resumed, 210 - at) == unbroken[at:]
    assert len(set(unbroken)) > 30


def test_every_task_gets_the_whole_schedule() -> None:
    alone = _rates(cosine(_optimizer(0.2), 10, warmup=0.2), 10)
    schedule = repeated(_optimizer(0.2), 30, schedule=partial(cosine, warmup=0.2), n_tasks=3)
    assert _rates(schedule, 30) == pytest.approx(alone * 3)


def test_tasks_share_what_does_not_divide() -> None:
    lengths = []

    def noted(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        lengths.append(steps)
        return cosine(optimizer, steps, warmup=0)

    rates = _rates(repeated(_optimizer(1.0), 11, schedule=noted, n_tasks=3), 13)
    assert lengths == [3, 4, 4]
    assert [step for step, rate in enumerate(rates) if rate == 1.0] == [0, 3, 7]
    # After the last step it stays where the last task ends.
    assert rates[11:] == pytest.approx([0.0, 0.0])


def test_the_groups_of_the_optimizer_keep_their_own_rates() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.4}]
    optimizer = torch.optim.SGD(groups)
    schedule = repeated(optimizer, 8, schedule=partial(cosine, warmup=0.5), n_tasks=2)
    for _ in range(8):
        low, high = schedule.get_last_lr()
        assert high == pytest.approx(4 * low)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("n_tasks", [0, 6])
def test_tasks_without_steps_are_refused(n_tasks: int) -> None:
    with pytest.raises(DataError, match=rf"schedule\.n_tasks={n_tasks}\n.*to the 5 steps"):
        repeated(_optimizer(0.1), 5, schedule=constant, n_tasks=n_tasks)
