"""What the tests of audio and music share."""

from pathlib import Path

import pytest

from tests.audio_music.scores import written


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated scores and performances in the files of MSMD's preparation."""
    return written(tmp_path_factory.mktemp("scores") / "data")
