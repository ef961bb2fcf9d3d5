"""Runs in real processes: killed and resumed, and shared by two."""

import json
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from recsys.data.demo import write_demo
from recsys.data.readers import load_interactions
from tests.command import MINUTES, assert_equal, checkpoint, start, wait_for_next
from tests.recsys.command import program, recsys


@pytest.fixture(autouse=True)
def one_thread():
    """As the processes that are compared with this one have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_demo(folder / "shop", n_users=120, n_items=50)
    return folder


@pytest.mark.parametrize("system", ["bm3", "lightgcn"])
def test_a_run_killed_inside_an_epoch_goes_on_bit_for_bit(home, capsys, system):
    line = (
        f"train system={system} data.path=shop trainer.max_epochs=3 trainer.batch_size_global=8 "
        "system.dim=8 trainer.checkpoint_every_n_steps=11 trainer.log_every_n_steps=8 "
        "trainer.accelerator=cpu schedule=cosine hydra.run.dir="
    )
    whole, killed = home / f"{system}-whole", home / "runs" / "recsys" / system / "killed"
    assert recsys(line + str(whole), home, capsys).code == 0

    process = start(program(line + str(killed)), home)
    wait_for_next(killed / "checkpoints" / "best.ckpt", process)
    for _ in range(2):  # into the second epoch
        wait_for_next(killed / "checkpoints" / "last.ckpt", process)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    left = checkpoint(killed)
    n_batches = -(-load_interactions(home / "shop").n_interactions // 8)
    given = left["consilience"]["loader"]["batches_given"]
    assert n_batches < given < 3 * n_batches
    assert given % n_batches
    assert not (killed / "metrics.json").exists()

    answer = recsys(f"train resume=last system={system}", home, capsys)
    assert answer.code == 0, answer.err
    assert "resuming runs/recsys" in answer.out
    ours, theirs = checkpoint(killed), checkpoint(whole)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert ours[part], part
        assert_equal(ours[part], theirs[part], part)
    assert_equal(ours["consilience"], theirs["consilience"], "consilience")
    assert_equal(
        checkpoint(killed, "best.ckpt")["state_dict"], checkpoint(whole, "best.ckpt")["state_dict"]
    )
    assert (killed / "log.csv").read_text() == (whole / "log.csv").read_text()
    for name in ("valid/recall@20", "test/recall@20", "best_epoch", "epochs"):
        found = [json.loads((run / "metrics.json").read_text())[name] for run in (killed, whole)]
        assert found[0] == found[1], name


def test_a_run_killed_before_its_first_checkpoint_says_so(home, capsys):
    (home / "runs/recsys/bpr/killed/checkpoints").mkdir(parents=True)
    answer = recsys("train resume=last system=bpr", home, capsys)
    assert answer.code == 2
    assert "nothing to resume" in answer.err


LINE = (
    "train system=bm3 data.path=shop trainer.max_epochs=3 system.dim=8 system.dropout=0 "
    "trainer.accelerator=cpu trainer.log_every_n_steps=1 optimizer.lr=0.01 "
)


@pytest.fixture(scope="module")
def line(home) -> str:
    """Two processes share 31 rows or so a step, and the last step of an epoch has one row."""
    n = load_interactions(home / "shop").n_interactions
    batch = next(size for size in range(31, n) if n % size == 1)
    return f"{LINE} trainer.batch_size_global={batch}"


@pytest.fixture(scope="module")
def alone(home, line) -> Path:
    process = start(program(f"{line} hydra.run.dir=alone"), home)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    return home / "alone"


@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_give_what_one_gives(home, line, alone, launcher):
    found = set(home.glob("runs/recsys/bm3/*"))
    arguments = program(f"{line} trainer=ddp trainer.devices=2")
    if launcher == "torchrun":
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        arguments = [sys.executable, *run, *arguments]
    process = start(arguments, home)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    (folder,) = set(home.glob("runs/recsys/bm3/*")) - found
    assert out.count("epoch 3/3") == 1
    assert out.count("wrote ") == 1

    ours, theirs = (json.loads((f / "metrics.json").read_text()) for f in (folder, alone))
    assert ours.keys() == theirs.keys()
    for name in ours:
        if "@" in name:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name
    mine, others = checkpoint(folder), checkpoint(alone)
    assert len(mine["consilience"]["random"]) == 2
    assert mine["global_step"] == others["global_step"] > 3
    for name, value in mine["state_dict"].items():
        torch.testing.assert_close(value, others["state_dict"][name], atol=2e-4, rtol=1e-4)
    logs = [pl.read_csv(f / "log.csv")["train/loss"].drop_nulls() for f in (folder, alone)]
    assert logs[0].to_list() == pytest.approx(logs[1].to_list(), abs=1e-4)


# Without chance in the step, which two processes draw otherwise than one.
STILL = {
    "rearm": "system.self_dropout=0 system.mutual_dropout=0 system.user_neighbours=10",
    "item_graph": "system.eps=0",
}


@pytest.mark.parametrize("system", STILL)
def test_so_do_two_of_a_method_with_graphs(home, line, capsys, system):
    """Graphs are the same on both, and a step sees the nodes of both."""
    line = f"{line} system={system} {STILL[system]} hydra.run.dir={system}-"
    line = line.replace("system=bm3 ", "").replace("system.dropout=0 ", "")
    assert recsys(f"{line}1", home, capsys).code == 0
    process = start(program(f"{line}2 trainer=ddp trainer.devices=2"), home)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    runs = home / f"{system}-1", home / f"{system}-2"
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in runs)
    for name in one:
        if "@" in name:
            assert two[name] == pytest.approx(one[name], abs=1e-5), name
    whole, shared = (checkpoint(folder) for folder in runs)
    assert len(shared["consilience"]["random"]) == 2
    for name, value in whole["state_dict"].items():
        # A layer norm takes out what the attentions add to all numbers of a row: the gradient of
        # their biases is rounding alone, which Adam turns into steps of full length.
        if "attention" not in name:
            other = shared["state_dict"][name]
            torch.testing.assert_close(other, value, atol=2e-4, rtol=1e-3, msg=name)


def test_two_processes_go_on_where_they_stopped(home):
    runs = home.glob("runs/recsys/bm3/*/metrics.json")
    folder = next(f.parent for f in runs if len(checkpoint(f.parent)["consilience"]["random"]) == 2)
    process = start(program(f"train resume='{folder}' trainer.max_epochs=4"), home)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    assert "epoch 4/4" in out
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 4
