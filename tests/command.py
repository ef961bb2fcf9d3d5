"""Runs the command of a domain: in this process, or in one of its own."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

MINUTES = 180


@dataclass
class Answer:
    code: int
    out: str
    err: str


def answered(
    main: Callable[[], None],
    name: str,
    line: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> Answer:
    """The command in this process; its exceptions other than an exit are the test's."""
    capsys.readouterr()
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [name, *shlex.split(line)])
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


def installed(name: str, line: str) -> list[str]:
    """The installed command's arguments."""
    return [str(Path(sys.executable).with_name(name)), *shlex.split(line)]


def refused(answer: Answer, *words: str) -> None:
    """Exit 2, a message alone on stderr with all of `words`, no traceback."""
    assert answer.code == 2, answer
    assert answer.err.startswith("error: "), answer.err
    assert "Traceback" not in answer.err
    for word in words:
        assert word in answer.err, answer.err


def checkpoint(run: Path, name: str = "last.ckpt") -> dict:
    """What a run left."""
    return torch.load(run / "checkpoints" / name, weights_only=True)


def assert_equal(one, other, where: str = "") -> None:
    """Bit for bit, all the way down."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{place}]")
    else:
        assert one == other, where


def wait_for_next(file: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there, or another one is in its place."""
    before, deadline = _inode(file), time.monotonic() + MINUTES
    while _inode(file) in (None, before):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _inode(file: Path) -> int | None:
    return file.stat().st_ino if file.exists() else None
