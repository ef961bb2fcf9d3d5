"""What the tests of scores share: small data of the built-in engraver and synthesiser."""

from pathlib import Path

import pytest

from audio_music.cli import main
from audio_music.data.scores_demo import write_scores
from tests.command import Answer, answered

# 2 pieces train, 2 validate, 2 test; 2 are unpaired.
SIZES = {"n_train": 2, "n_valid": 2, "n_test": 2, "n_unpaired": 2}
SMALL = (
    "system.width=4 system.channels=8 system.dim=8 system.pool=2 trainer.accelerator=cpu "
    "trainer.batch_size_global=24 trainer.log_every_n_steps=1 trainer.patience=null "
    "system.audio={epochs:1,snippets:16,batch_size:8} "
    "system.sheet={epochs:1,snippets:16,batch_size:8}"
)
ENCODERS = {"width": 4, "channels": 8, "dim": 8, "pool": 2}


def written(folder: Path, **changes: object) -> Path:
    """A data set of the built-in engraver and synthesiser."""
    write_scores(folder, **SIZES | {"engraver": "plain", "synthesizer": "additive"} | changes)
    return folder


def audio_music(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """The command in this process; its exceptions other than an exit are the test's."""
    return answered(main, "audio-music", line, folder, capsys)
