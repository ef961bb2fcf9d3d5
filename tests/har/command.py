"""Runs the command `har`: in this process, or in one of its own."""

from pathlib import Path

import pytest

from har.cli import main
from tests.command import Answer, answered, installed

# 27 windows train, 27 validate and 54 test; two steps an epoch.
DEMO = "demo.subjects=4 demo.trials=1"
SMALL = (
    "encoder=small system.hidden_dim=16 system.dim=8 trainer.batch_size_global=13 "
    "trainer.log_every_n_steps=1 trainer.accelerator=cpu"
)


def har(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """The command in this process; its exceptions other than an exit are the test's."""
    return answered(main, "har", line, folder, capsys)


def program(line: str) -> list[str]:
    """The installed command's arguments."""
    return installed("har", line)
