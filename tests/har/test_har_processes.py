"""Runs in real processes: killed and resumed, and shared by two."""

import json

import polars as pl
import pytest
import torch

from tests.command import MINUTES, assert_equal, checkpoint, start, wait_for_next
from tests.har.command import SMALL, har, program


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that are compared with this one have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_killed_run_goes_on_bit_for_bit_with_its_guides(home, capsys):
    line = (
        f"train system=cmc_cmkm data.path=clips {SMALL} system.guide_epochs=2 "
        "trainer.batch_size_global=4 trainer.max_epochs=20 trainer.validate_every=20 "
        "trainer.checkpoint_every_n_steps=4 hydra.run.dir="
    )
    whole, killed = home / "whole", home / "runs/har/cmc_cmkm/killed"
    assert har(line + str(whole), home, capsys).code == 0
    process = start(program(line + str(killed)), home)
    for _ in range(3):
        wait_for_next(killed / "checkpoints" / "last.ckpt", process)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert not (killed / "metrics.json").exists()
    left = checkpoint(killed)
    assert 0 < left["global_step"] < 20 * 6
    assert left["state_dict"]["guide_imu"].any()
    answer = har("train resume=last system=cmc_cmkm", home, capsys)
    assert answer.code == 0, answer.err
    ours, theirs = checkpoint(killed), checkpoint(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "consilience"):
        assert_equal(ours[part], theirs[part], part)
    assert (killed / "log.csv").read_text() == (whole / "log.csv").read_text()
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (killed, whole)]
    assert metrics[0] | {"train_seconds": 0} == metrics[1] | {"train_seconds": 0}


def test_two_processes_give_what_one_gives(home):
    """Without batch norm, of which on CPUs each process takes its own rows."""
    line = (
        "train system=label_preserving data.path=clips data.standardize=true "
        "system.encoder={_target_:core.encoders.mlp.MLP,hidden:[16],dim:8} "
        "task.augment.imu={_target_:core.augment.series.NoiseAndGain} "
        "trainer.batch_size_global=13 trainer.max_epochs=3 trainer.log_every_n_steps=1 "
        "trainer.accelerator=cpu hydra.run.dir="
    )
    for folder, more in (("one", ""), ("two", " trainer=ddp trainer.devices=2")):
        process = start(program(f"{line}{folder}{more}"), home)
        out, _ = process.communicate(timeout=MINUTES)
        assert process.returncode == 0, out
    one, two = (checkpoint(home / folder) for folder in ("one", "two"))
    assert len(two["consilience"]["random"]) == 2
    assert one["global_step"] == two["global_step"] == 6
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, atol=2e-5, rtol=1e-4, msg=name)
    losses = [
        pl.read_csv(home / folder / "log.csv")["train/loss"].drop_nulls().to_list()
        for folder in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    metrics = [json.loads((home / f / "metrics.json").read_text()) for f in ("one", "two")]
    for name in ("valid/accuracy", "test/accuracy", "test/macro_f1"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=0.02), name
