"""Runs the command `recsys`: in this process, or in one of its own."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from recsys.cli import main

# Few steps an epoch, some of them logged.
SMALL = "trainer.batch_size_global=64 trainer.log_every_n_steps=2 system.dim=8"


@dataclass
class Answer:
    code: int
    out: str
    err: str


def recsys(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """The command in this process; its exceptions other than an exit are the test's."""
    capsys.readouterr()
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["recsys", *shlex.split(line)])
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return Answer(code, out, err)


def start(arguments: list[str], folder: Path, **options) -> subprocess.Popen[str]:
    """A process of its own, on one thread."""
    return subprocess.Popen(
        arguments,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def program(line: str) -> list[str]:
    """The installed command's arguments."""
    return [str(Path(sys.executable).with_name("recsys")), *shlex.split(line)]


def refused(answer: Answer, *words: str) -> None:
    """Exit 2, a message alone on stderr with all of `words`, no traceback."""
    assert answer.code == 2, answer
    assert answer.err.startswith("error: "), answer.err
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err, answer.err
