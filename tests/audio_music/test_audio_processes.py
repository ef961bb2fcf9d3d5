"""Runs that were stopped, and steps that two processes share."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio_music.data.crop_loader import CropLoader
from audio_music.data.read_recordings import load_recordings
from audio_music.systems.mert import MERT
from core.distributed import is_distributed
from tests.audio_music.recordings import COMMAND, RATE, TINY, write_tones
from tests.audio_music.scores import audio_music
from tests.command import assert_equal, checkpoint
from tests.core.gloo import run_gloo


@pytest.mark.parametrize("resident_mib", [0, 64])
def test_a_stopped_run_goes_on_bit_for_bit(
    resident_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_tones(tmp_path / "clips", 9, seconds=0.6)
    line = (
        f"train data.path=clips {COMMAND} data.seconds=0.5 data.resident_mib={resident_mib} "
        "data.workers=0 trainer.batch_size_global=3 trainer.max_epochs=4 trainer.validate_every=4 "
        "trainer.checkpoint_every_n_steps=1 hydra.run.dir="
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stopped = tmp_path / "runs/audio_music/mert/stopped"
    assert audio_music(f"{line}whole", tmp_path, capsys).code == 0
    steps = 0
    objective = MERT.objective

    def stops(self: MERT, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("stopped")
        return objective(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MERT, "objective", stops)
        with pytest.raises(RuntimeError, match="stopped"):
            audio_music(line + str(stopped), tmp_path, capsys)
    assert checkpoint(stopped)["global_step"] == 5
    answer = audio_music("train resume=last", tmp_path, capsys)
    torch.set_num_threads(threads)
    assert answer.code == 0, answer
    ours, theirs = checkpoint(stopped), checkpoint(tmp_path / "whole")
    assert theirs["global_step"] == 4 * 2
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(ours[part], theirs[part], part)


def _gradients(folder: str, rank: int, world_size: int) -> dict[str, Tensor]:
    """Of the first batch: its share on this rank, averaged over the ranks as in training."""
    data = load_recordings(
        folder, rate=RATE, seconds=0.5, valid_share=0, device="cpu", ratios=(1.0, 0.0, 0.0)
    )
    torch.manual_seed(0)
    still = {"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0, "mixture": 0.0}
    system = MERT(RATE, **TINY | still)
    system.prepare(data)
    loader = CropLoader(
        data, 5, 0, rank, world_size, lambda batch, draws: batch | system.draw(batch, draws)
    )
    terms = system.objective(next(iter(loader)))
    terms["loss"].backward()
    found = {name: p.grad for name, p in system.named_parameters() if p.grad is not None}
    found |= {f"term {name}": value.detach() for name, value in terms.items()}
    for value in found.values():
        if is_distributed():
            torch.distributed.all_reduce(value)
            value /= world_size
    return found


def _share(folder: str) -> dict[str, Tensor]:
    rank = torch.distributed.get_rank()
    return _gradients(folder, rank, torch.distributed.get_world_size())


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    """Of a batch of five clips, two on one process and three, of other lengths, on the other."""
    for number, seconds in enumerate((0.3, 0.6)):
        write_tones(tmp_path / str(number), 3, seconds=seconds)
    alone = _gradients(str(tmp_path), 0, 1)
    shared = run_gloo(2, _share, str(tmp_path))
    assert alone.keys() == shared[0].keys()
    for name, value in alone.items():
        for of in shared:
            torch.testing.assert_close(of[name], value, rtol=1e-4, atol=1e-6, msg=name)
