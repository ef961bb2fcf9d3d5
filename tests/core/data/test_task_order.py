import pytest
import torch

from core.data.checks import DataError
from core.data.resident import ResidentLoader
from core.data.task_order import TaskOrder

TASKS = torch.tensor([0, 1, 2] * 8)


def loader(epochs: int = 4, rank: int = 0, world_size: int = 1) -> ResidentLoader:
    made = ResidentLoader({"index": torch.arange(24)}, 5, 3)
    made.order = TaskOrder(TASKS, 5, 3, lambda: epochs, rank, world_size)
    return made


def tasks_of_batches(epochs: int) -> list[set[int]]:
    made = loader(epochs)
    return [set(TASKS[batch["index"]].tolist()) for _ in range(epochs) for batch in made]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7])
def test_every_batch_is_of_the_task_whose_turn_it_is(epochs: int) -> None:
    found = tasks_of_batches(epochs)
    total = 5 * epochs
    starts = [0, total // 3, 2 * total // 3, total]
    expected = [{task} for task in range(3) for _ in range(starts[task + 1] - starts[task])]
    assert found == expected


def test_an_epoch_sees_the_rows_of_a_task_equally_often() -> None:
    made = loader(epochs=3)
    for task in range(3):
        counts = torch.bincount(torch.cat([batch["index"] for batch in made]), minlength=24)
        assert counts[task == TASKS].tolist() == [3] * 8
        assert counts.sum() == 24


def test_a_longer_training_stays_with_the_last_task() -> None:
    made = loader(epochs=1)
    list(made)
    assert {int(TASKS[row]) for batch in made for row in batch["index"]} == {2}


def test_processes_share_and_resume() -> None:
    alone, shares = loader(), [loader(rank=rank, world_size=2) for rank in range(2)]
    expected = [batch["index"] for _ in range(4) for batch in alone]
    together = [
        torch.cat([part["index"] for part in parts])
        for _ in range(4)
        for parts in zip(*shares, strict=True)
    ]
    assert [rows.tolist() for rows in together] == [rows.tolist() for rows in expected]
    resumed = loader()
    resumed.load_state_dict({"batches_given": 8, "n_rows": 24, "seed": 3, "batch_size": 5})
    left = [batch["index"].tolist() for batch in resumed]
    assert left == [rows.tolist() for rows in expected[8:10]]


def test_rows_without_a_task_are_refused() -> None:
    with pytest.raises(DataError, match="1 training rows have none"):
        TaskOrder(torch.tensor([0, -1, 1]), 2, 0, lambda: 1)
    with pytest.raises(DataError, match="no training row of task 1"):
        TaskOrder(torch.tensor([0, 2]), 2, 0, lambda: 1)
