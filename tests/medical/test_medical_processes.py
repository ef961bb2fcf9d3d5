"""Runs of the command that were stopped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.trainers.system import System
from medical.cli import main
from medical.data.patches_demo import write_patches
from medical.systems.uni import UNI
from medical.systems.velvet_med import VELVETMed
from tests.command import Answer, answered, assert_equal, checkpoint

STEPS, STOPPED = 4, 3
EVERY_STEP = (
    f"trainer.max_epochs={STEPS // 2} trainer.validate_every={STEPS // 2} "
    "trainer.checkpoint_every_n_steps=1 trainer.accelerator=cpu"
)
VOLUMES = (
    "system=velvet_med data=volumes size=tiny_volumes data.path=input data.spacing=[9,9,9] "
    "data.workers=0 trainer.batch_size_global=4"
)
PATCHES = (
    "system=uni data=patches size=tiny data.path=input system.dim=24 system.depth=2 "
    "system.image_size=32 task.augment.small_size=16 trainer.batch_size_global=6"
)


@pytest.fixture
def volumes(demo: Path, tmp_path: Path) -> Path:
    (tmp_path / "input").symlink_to(demo)
    return tmp_path


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    write_patches(tmp_path / "input", train=2, valid=1, test=1, patients=6, size=32)
    return tmp_path


def _medical(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    return answered(main, "medical", line, folder, capsys)


@pytest.mark.parametrize(
    ("input_", "line", "system"), [("volumes", VOLUMES, VELVETMed), ("patches", PATCHES, UNI)]
)
def test_a_stopped_run_goes_on_bit_for_bit(
    input_: str,
    line: str,
    system: type[System],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder: Path = request.getfixturevalue(input_)
    line = f"train {line} {EVERY_STEP} hydra.run.dir="
    stopped = folder / "runs/medical/method/stopped"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    answer = _medical(f"{line}whole", folder, capsys)
    assert answer.code == 0, answer
    taken = 0
    objective = system.objective

    def stops(self: System, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        if taken > STOPPED:
            raise RuntimeError("stopped")
        return objective(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(system, "objective", stops)
        with pytest.raises(RuntimeError, match="stopped"):
            _medical(f"{line}{stopped}", folder, capsys)
    assert checkpoint(stopped)["global_step"] == STOPPED
    answer = _medical("train resume=last", folder, capsys)
    torch.set_num_threads(threads)
    assert answer.code == 0, answer
    ours, theirs = checkpoint(stopped), checkpoint(folder / "whole")
    assert theirs["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(ours[part], theirs[part], part)
