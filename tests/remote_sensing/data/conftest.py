"""A small archive of SSL4EO's folders and one of whole scenes, and copies to be broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from remote_sensing.data.archive_demo import write_archive
from remote_sensing.data.voronoi_scenes import write_scenes


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve places at one season each, 60 x 60 pixels."""
    path = tmp_path_factory.mktemp("archive") / "data"
    write_archive(path, seed=1, n_places=12, side=60, seasons=1)
    return path


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few scenes of 24 x 24 pixels in the files of the generator."""
    path = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(path, 0, n_unlabelled=12, n_labelled=40, n_valid=20, n_test=30, n_larger=4)
    return path


@pytest.fixture
def broken(archive: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives the only file of a pattern in a copy of the archive, to be broken."""
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)

    def file(pattern: str) -> Path:
        (found,) = copy.glob(pattern)
        return found

    return file
