"""Generated volumes that tests share."""

from pathlib import Path

import pytest

from medical.data.demo import write_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve generated patients, coarse."""
    folder = tmp_path_factory.mktemp("volumes") / "demo"
    write_demo(folder, patients=12, voxel=7.0)
    return folder
