"""What the tests of medicine share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; skips where it is missing."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CONSILIENCE_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set CONSILIENCE_REAL_DATA")
    return folder
