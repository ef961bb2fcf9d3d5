"""What the tests of activity recognition share."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from har.cli import main
from har.data.demo import write_demo
from tests.command import Answer
from tests.har.command import SMALL, har


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Generated recordings of four subjects in the files of UTD-MHAD."""
    folder = tmp_path_factory.mktemp("recordings") / "clips"
    write_demo(folder, subjects=4, trials=1)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, recordings: Path) -> Path:
    """A folder with those recordings in `clips`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "clips").symlink_to(recordings, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run of hard negatives of two epochs, by name from `home`."""
    line = f"train data.path=clips trainer.max_epochs=2 trainer.validate_every=1 {SMALL}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["har", *line.split(), "hydra.run.dir=trained"])
        main()
    return Path("trained")


@pytest.fixture
def ask(home: Path, capsys) -> Callable[[str], Answer]:
    """Runs a command line in `home`."""
    return lambda line: har(line, home, capsys)
