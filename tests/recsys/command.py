"""Runs the command `recsys`: in this process, or in one of its own."""

from pathlib import Path

import pytest

from recsys.cli import main
from tests.command import Answer, answered, installed

# Few steps an epoch, some of them logged.
SMALL = "trainer.batch_size_global=64 trainer.log_every_n_steps=2 system.dim=8"


def recsys(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """The command in this process; its exceptions other than an exit are the test's."""
    return answered(main, "recsys", line, folder, capsys)


def program(line: str) -> list[str]:
    """The installed command's arguments."""
    return installed("recsys", line)
