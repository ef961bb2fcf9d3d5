"""What the tests of recommenders share."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.cli import main
from recsys.data.demo import write_demo
from tests.command import Answer
from tests.recsys.command import SMALL, recsys


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is missing."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CONSILIENCE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set CONSILIENCE_REAL_DATA")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with demo data."""
    folder = tmp_path_factory.mktemp("home")
    write_demo(folder / "shop", n_users=60, n_items=40)
    return folder


@pytest.fixture(scope="module")
def run(home) -> Path:
    """A run of BM3 of three epochs, by name from `home`."""
    line = f"train data.path=shop trainer.max_epochs=3 {SMALL} hydra.run.dir=trained"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(sys, "argv", ["recsys", *line.split()])
        main()
    return Path("trained")


@pytest.fixture
def ask(home, capsys) -> Callable[[str], Answer]:
    """Runs a command line in `home`."""
    return lambda line: recsys(line, home, capsys)
