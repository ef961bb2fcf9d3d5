from pathlib import Path

import pytest
import torch

from core.data.digit_tasks import write_digit_tasks
from core.data.table import load_table


@pytest.mark.parametrize("n_tasks", [1, 3, 5])
def test_every_digit_is_of_one_task(tmp_path: Path, n_tasks: int) -> None:
    write_digit_tasks(tmp_path, n_tasks=n_tasks)
    data = load_table(tmp_path)
    assert [len(data.splits[s]) for s in ("train", "valid", "test")] == [1300, 100, 397]
    assert data.n_classes == {"label": 10, "task": n_tasks}
    assert data.shapes == {"image": [1, 8, 8]}
    pairs = torch.stack([data.labels["label"], data.labels["task"]], 1).unique(dim=0)
    assert pairs[:, 0].tolist() == list(range(10))
    counts = torch.bincount(pairs[:, 1], minlength=n_tasks)
    assert int(counts.max() - counts.min()) <= 1
    assert n_tasks == 1 or pairs[:, 1].tolist() != sorted(pairs[:, 1].tolist())
