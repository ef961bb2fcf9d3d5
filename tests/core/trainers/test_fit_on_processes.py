import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.checkpoints import OURS, read_checkpoint
from tests.core.trainers.ddp_run import LINES
from tests.core.trainers.tiny import Tiny, train


def _last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of `ddp_run`, made by two processes that were started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
            "OMP_NUM_THREADS": "1",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.core.trainers.ddp_run", str(folder)],
                cwd=Path(__file__).parents[3],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    assert "main process: True" in outputs[0]
    assert "main process: False" in outputs[1]
    # One process has the row, both say which.
    for output in outputs:
        for every, found in {
            1: "train/loss = nan",
            50: "linear.weight is no longer finite",
        }.items():
            assert f"logged every {every}: training stopped at step" in output
            assert f"{found}; x of step" in output
        assert output.count("NaN or infinite values in 1 of 4 samples with index 13\n") == 2
    return folder


@pytest.mark.parametrize("name", LINES)
def test_two_processes_are_as_good_as_one(trained: Path, tmp_path: Path, name: str) -> None:
    train(tmp_path, **LINES[name])
    expected, found = (read_checkpoint(_last(folder)) for folder in (tmp_path, trained / name))
    assert found["global_step"] == expected["global_step"]
    for weight, value in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][weight], value, rtol=0, atol=1e-6)
    assert found[OURS]["best_epoch"] == expected[OURS]["best_epoch"]


def test_processes_draw_apart_and_go_on_exactly(trained: Path) -> None:
    found, expected = (read_checkpoint(_last(trained / name)) for name in ("run", "unbroken"))
    for weight, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][weight], value), weight
    states = [checkpoint[OURS]["random"] for checkpoint in (found, expected)]
    for state in states:
        assert len(state) == 2
        assert not torch.equal(state[0]["torch"], state[1]["torch"])
    for rank in range(2):
        assert torch.equal(states[0][rank]["torch"], states[1][rank]["torch"])


def test_a_run_of_two_goes_on_with_one(trained: Path, tmp_path: Path) -> None:
    """Not to the bit, for there are fewer random streams; but with the rows it has not yet seen."""
    _, system = train(tmp_path, system=Tiny, max_epochs=4, resume=_last(trained / "alone"))
    _, unbroken = train(tmp_path / "unbroken", system=Tiny, max_epochs=4)
    assert system.batches == unbroken.batches[6:]


def test_the_monitors_look_at_the_rows_of_the_first_process(trained: Path) -> None:
    with (trained / "shown" / "log.csv").open(newline="") as lines:
        ranks = [row["online/rankme"] for row in csv.DictReader(lines) if row["online/rankme"]]
    # Three independent columns have almost full rank.
    assert len(ranks) == 1
    assert 2.9 < float(ranks[0]) <= 3
