"""What the tests of medicine share."""

import os
from pathlib import Path

import pytest

from medical.data.demo import write_demo


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is missing."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CONSILIENCE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set CONSILIENCE_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve generated patients, coarse."""
    folder = tmp_path_factory.mktemp("volumes") / "demo"
    write_demo(folder, patients=12, voxel=7.0)
    return folder
