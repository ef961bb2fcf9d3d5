"""Stages and tasks on two processes are those of one."""

from pathlib import Path

import pytest
import torch

from core.checkpoints import read_checkpoint
from tests.core.gloo import run_gloo
from tests.core.systems.sequences import continual, last, staged, train, train_together


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    run_gloo(2, train_together, folder)
    return folder


@pytest.mark.parametrize("name", ["staged", "continual"])
def test_two_processes_end_where_one_does(together: Path, tmp_path: Path, name: str) -> None:
    expected = train(tmp_path, *{"staged": staged, "continual": continual}[name]())
    found = read_checkpoint(last(together / name))
    assert found["global_step"] == expected["global_step"] == 54
    start = {"staged": staged, "continual": continual}[name]()[0].state_dict()
    moved = 0
    for weight, value in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][weight], value, rtol=0, atol=1e-4)
        moved += not torch.allclose(start[weight].float(), value.float(), atol=1e-2)
    assert moved > 6
