import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from core.cli import domain_conf
from recsys.data.readers import load_interactions
from recsys.systems.bm3 import BM3
from tests.recsys.command import SMALL, recsys


def metric_names(splits: list[str]) -> set[str]:
    metrics = ("recall", "precision", "ndcg", "map", "hit")
    return {f"{s}/{m}@{k}" for s in splits for m in metrics for k in (5, 10, 20, 50)}


class TestFromDataToSearch:
    def test_demo_data_are_checked_and_sound(self, tmp_path, capsys):
        answer = recsys(
            "data demo path=some/shop demo.n_users=30 demo.n_items=20", tmp_path, capsys
        )
        assert answer.code == 0
        for name in ("shop.inter", "image_feat.npy", "text_feat.npy", "items.csv"):
            assert (tmp_path / "some/shop" / name).is_file()
            assert name in answer.out
        check = recsys("data check data.path=some/shop", tmp_path, capsys)
        assert check.code == 0
        assert "the data are usable" in check.out
        assert re.search(r"users +30\b", check.out)
        assert re.search(r"items +20\b", check.out)
        assert not list(tmp_path.glob("runs"))

    def test_train_leaves_metrics_and_a_record(self, home, run):
        metrics = json.loads((home / run / "metrics.json").read_text())
        assert metric_names(["valid", "test"]) <= set(metrics)
        assert all(0 <= metrics[name] <= 1 for name in metric_names(["valid", "test"]))
        assert metrics["chosen_by"] == "valid/recall@20"
        assert metrics["epochs"] == 3
        config = yaml.safe_load((home / run / "config.yaml").read_text())
        assert config["system"]["dim"] == 8
        assert config["system"]["_target_"] == "recsys.systems.bm3.BM3"
        record = json.loads((home / run / "environment.json").read_text())
        assert record["data"] == load_interactions(home / "shop").digest()
        assert torch.__version__.startswith(record["torch"])
        log = pl.read_csv(home / run / "log.csv")
        assert log["step"].is_sorted()
        best = log.select(pl.col("valid/recall@20").max()).item()
        assert best == pytest.approx(metrics["valid/recall@20"], abs=5e-5)
        assert log["train/loss"].drop_nulls().len() >= 3
        names = {file.name for file in (home / run).iterdir()}
        assert {"checkpoints", "tensorboard", "ids.json"} <= names

    def test_evaluate_says_what_was_evaluated_and_what_chose_it(self, home, run, ask):
        before = json.loads((home / run / "metrics.json").read_text())
        answer = ask(f"evaluate checkpoint={run}")
        assert answer.code == 0
        last_lines = answer.out.splitlines()[-2:]
        assert f"checkpoint: {run}/checkpoints/best.ckpt, epoch" in last_lines[0]
        assert f"chosen by valid/recall@20 = {before['valid/recall@20']:.4f}" in last_lines[0]
        assert f"at epoch {before['best_epoch']}" in last_lines[0]
        after = json.loads((home / run / "metrics.json").read_text())
        for name in metric_names(["valid", "test"]):
            assert after[name] == before[name]
        assert after["checkpoint"] == f"{run}/checkpoints/best.ckpt"
        assert re.search(rf"recall .* {before['test/recall@50']:.4f}", answer.out)

    def test_evaluate_takes_a_file_and_a_split(self, run, ask):
        answer = ask(f"evaluate checkpoint={run}/checkpoints/last.ckpt split=valid")
        assert answer.code == 0
        assert f"checkpoint: {run}/checkpoints/last.ckpt, epoch 3;" in answer.out

    def test_embed_writes_the_ids_of_the_files(self, home, run, ask):
        answer = ask(f"embed checkpoint={run} out=there/vectors.parquet")
        assert answer.code == 0
        table = pl.read_parquet(home / "there/vectors.parquet")
        data = load_interactions(home / "shop")
        for kind in ("user", "item", "image", "text"):
            rows = table.filter(pl.col("kind") == kind)
            assert rows["id"].to_list() == (data.user_ids if kind == "user" else data.item_ids)
            assert rows["embedding"].list.len().unique().to_list() == [8]

    def test_search_for_a_user_shows_titles_of_what_is_not_taken(self, home, run, ask):
        data = load_interactions(home / "shop")
        pairs = torch.cat([data.train, data.valid, data.test], 1)
        for user in (0, 17, 59):
            taken = set(pairs[1, pairs[0] == user].tolist())
            answer = ask(f"search checkpoint={run} query=user:{user} k=40")
            assert answer.code == 0
            rows = re.findall(r"^ +(\d+) +(\d+) +(-?\d+\.\d+) +(\S.*?) *$", answer.out, re.M)
            assert [int(rank) for rank, *_ in rows] == list(range(1, 41 - len(taken)))
            assert {int(item) for _, item, *_ in rows} == set(range(40)) - taken
            for _, item, _, title in rows:
                assert title == data.titles[int(item)]

    @pytest.mark.parametrize("kind", ["item", "image", "text"])
    def test_search_for_an_item_shows_others(self, run, ask, kind):
        answer = ask(f"search checkpoint={run} query={kind}:3 k=4")
        assert answer.code == 0
        items = re.findall(r"^ +\d+ +(\d+) +-?\d+\.\d+ ", answer.out, re.M)
        assert len(items) == 4
        assert "3" not in items

    def test_a_run_with_named_ids_and_moved_files_reads_them_the_same(self, tmp_path, capsys):
        """Ids are text, and the second reading has other users than the first."""
        rng = np.random.default_rng(0)
        pairs = [(f"u{u}", f"i{i}") for u in range(20) for i in rng.permutation(15)[:6]]
        label = [0, 0, 0, 0, 1, 2] * 20
        frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
        frame = frame.with_columns(x_label=pl.Series(label))
        for name, part in (("all", frame), ("some", frame.filter(pl.col("user") != "u0"))):
            (tmp_path / name).mkdir()
            part.write_csv(tmp_path / name / "shop.csv")
        train = f"train system=lightgcn data.path=all trainer.max_epochs=1 {SMALL}"
        assert recsys(f"{train} hydra.run.dir=run", tmp_path, capsys).code == 0
        answer = recsys("search checkpoint=run data.path=some query=user:u7", tmp_path, capsys)
        whole = recsys("search checkpoint=run query=user:u7", tmp_path, capsys)
        assert answer.code == whole.code == 0
        assert answer.out == whole.out
        assert "i" in answer.out


class TestTraining:
    @pytest.mark.parametrize("system", ["popularity", "bpr", "lightgcn", "vbpr"])
    def test_every_method_trains_and_is_evaluated(self, home, ask, system):
        dim = "" if system == "popularity" else "system.dim=8"
        answer = ask(
            f"train system={system} data.path=shop trainer.max_epochs=1 {dim} "
            f"hydra.run.dir=one-of-{system}"
        )
        assert answer.code == 0, answer
        metrics = json.loads((home / f"one-of-{system}" / "metrics.json").read_text())
        assert metric_names(["valid", "test"]) <= set(metrics)
        assert ask(f"evaluate checkpoint=one-of-{system}").code == 0

    def test_equal_seeds_give_equal_weights_and_others_do_not(self, home, ask):
        states = []
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            ask(
                f"train data.path=shop trainer.max_epochs=1 {SMALL} seed={seed} "
                f"hydra.run.dir=seeded-{name}"
            )
            file = home / f"seeded-{name}" / "checkpoints" / "last.ckpt"
            states.append(torch.load(file, weights_only=True)["state_dict"])
        same, again, other = (state["user_embedding.weight"] for state in states)
        assert torch.equal(same, again)
        assert not torch.equal(same, other)

    def test_several_seeds_at_once_make_a_run_each(self, home, ask):
        found = set(home.glob("runs/recsys/bm3/*"))
        line = f"train --multirun seed=0,1 data.path=shop trainer.max_epochs=1 {SMALL}"
        answer = ask(line)
        assert answer.code == 0, answer.err
        made = set(home.glob("runs/recsys/bm3/*")) - found
        seeds = [yaml.safe_load((m / "config.yaml").read_text())["seed"] for m in made]
        assert sorted(seeds) == [0, 1]
        assert all((folder / "metrics.json").is_file() for folder in made)
        assert all((folder / "checkpoints" / "best.ckpt").is_file() for folder in made)

    def test_runs_of_the_same_second_do_not_share_a_folder(self, home, ask):
        found = set(home.glob("runs/recsys/popularity/*"))
        for _ in range(2):
            assert ask("train system=popularity data.path=shop").code == 0
        assert len(set(home.glob("runs/recsys/popularity/*")) - found) == 2

    def test_no_validation_split_keeps_the_last_epoch(self, home, ask):
        answer = ask(
            "train data.path=shop data.split=ratio data.ratios=[0.8,0,0.2] trainer.max_epochs=2 "
            f"{SMALL} hydra.run.dir=without-valid"
        )
        assert answer.code == 0
        assert "test, epoch 2" in answer.out
        metrics = json.loads((home / "without-valid" / "metrics.json").read_text())
        assert metrics["chosen_by"] is None
        assert metrics["best_epoch"] == 2
        assert not any(name.startswith("valid/") for name in metrics)
        assert "epoch 2" in ask("evaluate checkpoint=without-valid").out

    def test_a_checkpoint_before_the_first_validation_can_be_evaluated(self, home, ask):
        ask(
            f"train data.path=shop trainer.max_epochs=2 {SMALL} trainer.validate_every=2 "
            "trainer.checkpoint_every_n_steps=1 hydra.run.dir=unjudged"
        )
        # What a kill in the first epoch would leave behind.
        last = home / "unjudged" / "checkpoints" / "last.ckpt"
        content = torch.load(last, weights_only=True)
        content["consilience"]["best_score"] = None
        torch.save(content, last)
        answer = ask(f"evaluate checkpoint={Path('unjudged/checkpoints/last.ckpt')}")
        assert answer.code == 0
        assert "chosen by" not in answer.out

    def test_resume_goes_on_with_a_larger_budget_and_remembers_it(self, home, ask):
        ask(f"train data.path=shop trainer.max_epochs=1 {SMALL} hydra.run.dir=budget")
        assert ask("train resume=budget trainer.max_epochs=3").code == 0
        metrics = json.loads((home / "budget" / "metrics.json").read_text())
        assert metrics["epochs"] == 3
        again = ask("train resume=budget")
        assert again.code == 0
        assert json.loads((home / "budget" / "metrics.json").read_text())["epochs"] == 3

    def test_resume_takes_the_checkpoint_that_is_named(self, home, ask):
        folder = "hydra.run.dir=named trainer.patience=null"
        ask(f"train data.path=shop trainer.max_epochs=2 {SMALL} {folder}")
        file = home / "named" / "checkpoints" / "first.ckpt"
        (home / "named" / "checkpoints" / "last.ckpt").rename(file)
        answer = ask("train resume=named/checkpoints/first.ckpt trainer.max_epochs=3")
        assert answer.code == 0, answer.err
        assert "epoch 3/3" in answer.out
        assert "epoch 2/3" not in answer.out

    def test_the_config_is_shown(self, ask):
        for line in ("train --cfg job system.dim=9", "train system.dim=9 --cfg job"):
            answer = ask(line)
            assert answer.code == 0
            shown = yaml.safe_load(answer.out)
            assert shown["system"]["dim"] == 9
            assert shown["trainer"]["max_epochs"] == 1000
            assert shown["system"]["_target_"] == "recsys.systems.bm3.BM3"

    def test_a_machine_without_git_still_trains(self, home, ask, monkeypatch):
        monkeypatch.setenv("PATH", str(home))
        answer = ask("train system=popularity data.path=shop hydra.run.dir=gitless")
        assert answer.code == 0
        assert "git" not in json.loads((home / "gitless" / "environment.json").read_text())


@pytest.mark.parametrize("arguments", [["--help"], [], ["systems"], ["systems", "--json"]])
def test_help_and_systems_import_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys; from recsys.cli import main; main(); "
        "print({'torch', 'lightning', 'numpy', 'hydra', 'polars'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert answer.stdout.endswith("set()\n")
    assert not list(tmp_path.iterdir())


def test_systems_names_every_method_with_its_paper(ask):
    systems = {s["system"]: s for s in json.loads(ask("systems --json").out)}
    assert set(systems) >= {"bm3", "bpr", "lightgcn", "popularity", "vbpr"}
    assert "2207.05969" in systems["bm3"]["paper"]
    assert systems["bm3"]["baseline"] == "lightgcn"
    assert systems["bm3"]["modalities"] == ["interactions", "image", "text"]
    record = json.loads((domain_conf("recsys") / "compare" / "bm3.json").read_text())
    assert record["tuning_trials"] == 4
    assert systems["bm3"]["evidence"] == record["summary"] + ", on demo data, tuned"
    table = ask("systems").out
    assert all(name in table for name in systems)


def test_help_lists_verbs_groups_and_keys(ask):
    text = ask("--help").out
    verbs = "systems,data demo,data check,train,evaluate,embed,search,compare"
    for word in [*verbs.split(","), "lightgcn", "ddp", "fsdp", "checkpoint:"]:
        assert word in text
    for verb in ("train", "data demo", "compare"):
        assert verb in ask(f"{verb} --help").out


def test_a_trained_system_is_the_one_that_the_notebook_gets(home, run):
    """The checkpoint's weights are those of `from_pretrained` after `save_pretrained`."""
    from core.checkpoints import load_system

    system, _, choice = load_system(home / run)
    assert isinstance(system, BM3)
    assert not system.training
    assert choice["monitor"] == "valid/recall@20"
    system.save_pretrained(home / "hub")
    again = BM3.from_pretrained(home / "hub")
    for name, value in system.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
