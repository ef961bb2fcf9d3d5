"""Runs that were stopped, and steps that two processes share."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio_music.data.crop_loader import CropLoader
from audio_music.data.read_recordings import load_recordings
from audio_music.data.scores import load_scores
from audio_music.sheet_task import SheetRetrieval
from audio_music.systems.audio_sheet import AudioSheet
from audio_music.systems.mert import MERT
from core.distributed import is_distributed
from tests.audio_music.recordings import COMMAND, RATE, TINY, write_tones
from tests.audio_music.scores import ENCODERS, SMALL, audio_music
from tests.command import MINUTES, assert_equal, checkpoint, installed, start
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
    return _of_all(system, system.objective(next(iter(loader))), world_size)


def _of_all(
    system: torch.nn.Module, terms: dict[str, Tensor], world_size: int
) -> dict[str, Tensor]:
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


def _of_pairs(folder: str, rank: int, world_size: int) -> dict[str, Tensor]:
    """As `_gradients`, of pairs of snippets; batch norm keeps the means of the pre-training."""
    data = load_scores(folder)
    torch.manual_seed(0)
    few = {"epochs": 1, "snippets": 16, "batch_size": 8}
    system = AudioSheet(data.shapes, **ENCODERS, audio=few, sheet=few)
    system.prepare(data)
    system.encoders.eval()
    loader = SheetRetrieval().train_loader(system, data, 25, 0, rank, world_size)
    terms = {"loss": system.objective(next(iter(loader)))["loss"]}
    return _of_all(system, terms, world_size)


def _pairs_share(folder: str) -> dict[str, Tensor]:
    rank = torch.distributed.get_rank()
    return _of_pairs(folder, rank, torch.distributed.get_world_size())


def test_two_processes_rank_the_pairs_of_one(scores: Path, tmp_path: Path, monkeypatch) -> None:
    """Twelve pairs on one process, thirteen on the other; CCA is of all, and so is the ranking."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: sums in another order are amplified by the CCA
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "alone"))  # nothing is pre-trained
    alone = _of_pairs(str(scores), 0, 1)
    torch.set_num_threads(threads)
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "shared"))
    for of in run_gloo(2, _pairs_share, str(scores)):
        for name, value in alone.items():
            # Numbers near 0 are sums that cancel; the largest of a weight is what counts.
            atol = max(5e-4 * float(value.abs().max()), 1e-6)
            torch.testing.assert_close(of[name], value, rtol=0, atol=atol, msg=name)


def test_a_run_of_two_processes_pre_trains_as_one_does(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning that changes nothing shows the pre-training, and each step has all pairs."""
    (tmp_path / "scores").symlink_to(scores, target_is_directory=True)
    line = (
        f"train system=audio_sheet data.path=scores {SMALL} optimizer.lr=1e-12 "
        "trainer.max_epochs=2 trainer.validate_every=2 hydra.run.dir="
    )
    for ending in ("one", "two trainer=ddp trainer.devices=2"):
        # Each on one thread, and with nothing that is pre-trained already.
        monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / f"cache_{ending[:3]}"))
        process = start(installed("audio-music", line + ending), tmp_path)
        said, _ = process.communicate(timeout=MINUTES)
        assert process.returncode == 0, said
        assert said.count("pre-trained audio") == said.count("wrote ") == 1
    one, two = (checkpoint(tmp_path / folder) for folder in ("one", "two"))
    assert one["global_step"] == two["global_step"] > 2
    assert len(two["consilience"]["random"]) == 2
    for name in one["state_dict"]:
        if name.endswith(("weight", "bias")):
            torch.testing.assert_close(
                two["state_dict"][name], one["state_dict"][name], atol=1e-5, rtol=1e-4, msg=name
            )
