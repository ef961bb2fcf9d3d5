"""The command on entities: from generated files to search, on one process and on two."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from core.evaluation.statistics import paired_t_interval
from tests.command import MINUTES, refused, start
from tests.recsys.command import program, recsys

SMALL = (
    "system.feature_dim=8 system.hidden=[16] system.dim=8 trainer.batch_size_global=64 "
    "trainer.log_every_n_steps=2 trainer.accelerator=cpu"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with the demo data in `shop`, and the same pairs in shards in `shards`."""
    home = tmp_path_factory.mktemp("home")
    process = start(
        program("data demo data=entities path=shop demo.n_queries=100 demo.n_items=60"), home
    )
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    shards = Path(shutil.copytree(home / "shop", home / "shards"))
    (shards / "pairs").mkdir()
    pairs = pl.read_parquet(shards / "pairs.parquet")
    for number, part in enumerate(pairs.iter_slices(150)):
        part.write_parquet(shards / "pairs" / f"{number}.parquet")
    (shards / "pairs.parquet").unlink()
    return home


def test_from_files_to_neighbours(made, tmp_path, capsys):
    def ask(line: str):
        answer = recsys(line.replace("SHOP", str(made / "shop")), tmp_path, capsys)
        assert answer.code == 0, answer.err
        return answer.out

    checked = ask("data check data=entities data.path=SHOP")
    assert "items without training pair" in checked
    assert "the data are usable" in checked
    # The method names the format of its data by itself.
    ask(f"train system=large_scale_ssl data.path=SHOP trainer.max_epochs=2 {SMALL}")
    (run,) = tmp_path.glob("runs/recsys/large_scale_ssl/*")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["chosen_by"] == "valid/recall@50"
    assert 0 <= metrics["test/recall@50/unseen"] <= 1
    shown = ask(f"evaluate checkpoint={run}")
    assert "recall, tail" in shown
    assert "over 200 pairs" in shown
    ask(f"embed checkpoint={run} out=vectors.parquet")
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    assert dict(table.group_by("kind").len().iter_rows()) == {"query": 100, "item": 60}
    assert "of topic" in ask(f"search checkpoint={run} query=query:7 k=3")
    ask(f"index checkpoint={run} out=neighbours index_kind=exact")
    exact, found = (
        ask(f"search checkpoint={run} query=item:7 k=3 {more}").splitlines()
        for more in ("", "index=neighbours")
    )
    assert exact == found


def test_shards_are_checked_and_trained_on(made, tmp_path, capsys):
    line = f"train system=large_scale_ssl data.path={made}/shards trainer.max_epochs=1 {SMALL}"
    assert recsys(line, tmp_path, capsys).code == 0
    broken = Path(shutil.copytree(made / "shards", tmp_path / "broken"))
    shard = broken / "pairs" / "2.parquet"
    shard.write_bytes(shard.read_bytes()[:-200])
    answer = recsys(line.replace(f"{made}/shards", str(broken)), tmp_path, capsys)
    refused(answer, "pairs/2.parquet", "truncated or damaged")
    answer = recsys(f"data check data=entities data.path={broken}", tmp_path, capsys)
    assert answer.code == 1
    assert "pairs/2.parquet: truncated or damaged" in answer.out


def test_files_of_another_format_are_refused_in_words(made, tmp_path, capsys):
    answer = recsys(f"train system=bm3 data.path={made}/shop", tmp_path, capsys)
    refused(answer, "shop")
    answer = recsys("data demo path=plain demo.n_users=20 demo.n_items=10", tmp_path, capsys)
    assert answer.code == 0
    refused(recsys("train system=large_scale_ssl data.path=plain", tmp_path, capsys), "vocab.json")


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def alone(made) -> Path:
    return _trained(made, "hydra.run.dir=alone trainer.max_epochs=3")


def _trained(home: Path, options: str) -> Path:
    before = set(home.glob("runs/recsys/large_scale_ssl/*"))
    line = (
        f"train system=large_scale_ssl data.path=shards {SMALL} system.dropout=0 "
        "system.value_dropout=0 system.regularizer=spread_out trainer.log_every_n_steps=1 "
    )
    process = start(program(line + options), home)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    made = set(home.glob("runs/recsys/large_scale_ssl/*")) - before
    return home / "alone" if "alone" in options else made.pop()


def _assert_same(run: Path, other: Path) -> None:
    ours, theirs = checkpoint(run), checkpoint(other)
    assert ours["global_step"] == theirs["global_step"] > 3
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, atol=2e-4, rtol=1e-3)
    (one,), (two,) = ours["optimizer_states"], theirs["optimizer_states"]
    for number, state in two["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(one["state"][number][name], value, atol=1e-3, rtol=1e-2)
    logs = [pl.read_csv(f / "log.csv")["train/loss"].drop_nulls() for f in (run, other)]
    assert logs[0].to_list() == pytest.approx(logs[1].to_list(), abs=1e-3)


def test_two_processes_with_spread_tables_give_what_one_gives(made, alone):
    """And go on from their checkpoint, which holds whole tables."""
    together = "system.shard_above=45 trainer=ddp trainer.devices=2"
    run = _trained(made, f"{together} trainer.max_epochs=2")
    sizes = {v.shape[0] for k, v in checkpoint(run)["state_dict"].items() if "tables" in k}
    assert {61, 51} <= sizes
    process = start(program(f"train resume={run} trainer.max_epochs=3"), made)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode == 0, out
    _assert_same(run, alone)


def test_a_spread_gradient_cannot_be_clipped(made):
    line = (
        f"train system=large_scale_ssl data.path=shop {SMALL} system.shard_above=45 trainer=ddp "
        "trainer.devices=2 trainer.gradient_clip=1"
    )
    process = start(program(line), made)
    out, _ = process.communicate(timeout=MINUTES)
    assert process.returncode != 0
    assert "error: the norm of a gradient that is spread over processes is not known" in out


def test_a_comparison_runs_on_its_own_demo(tmp_path, capsys):
    line = (
        "compare large_scale_ssl seeds=2 tune=2 trainer.max_epochs=1 demo.n_queries=150 "
        "demo.n_items=90"
    )
    answer = recsys(line, tmp_path, capsys)
    assert answer.code == 0, answer.err
    assert (tmp_path / "runs/demo_data/recsys_entities/vocab.json").exists()
    (file,) = tmp_path.glob("runs/recsys/compare/large_scale_ssl/*/compare.json")
    outcome = json.loads(file.read_text())
    assert outcome["metric"] == "recall@50"
    assert outcome["tuning_trials"] == 2
    baseline = "two towers without SSL"
    ablations = ["random feature mask", "feature dropout", "spread-out"]
    arms = ["large_scale_ssl", baseline, *ablations, "large_scale_ssl untrained"]
    assert list(outcome["arms"]) == arms
    # Tuning leaves alone what makes the baseline the baseline.
    assert "system.alpha" not in outcome["arms"][baseline]["tuned"]
    configs = {f.parts[-3]: f.read_text() for f in file.parent.glob("*/seed-0/config.yaml")}
    assert "alpha: 0\n" in configs["two-towers-without-SSL"]
    assert "feature_dim: 16" in configs["large_scale_ssl"]
    assert outcome["also"].keys() == {"recall@50/tail", "recall@50/unseen"}
    for metric, differences in outcome["also"].items():
        ours, theirs = (outcome["arms"][arm]["metrics"][metric] for arm in arms[:2])
        found = differences[baseline]
        assert found["mean"] == pytest.approx(ours - theirs)
        assert found["over_seeds"]["low"] == pytest.approx(
            paired_t_interval(np.array(found["per_seed"])).low
        )
    assert "further differences, not part of the verdict" in answer.out
    wrong = recsys(f"{line} 'compare.also=[recall@5]'", tmp_path, capsys)
    refused(wrong, "recall@5", "nothing of that name was measured", "recall@50/unseen")
