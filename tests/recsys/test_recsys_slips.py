"""Whatever is wrong with a command line or with the data, the command answers in words."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from recsys.data.demo import write_demo
from tests.command import refused
from tests.recsys.command import SMALL, recsys


class TestSlips:
    """Every slip of the user: exit 2, a message, no traceback, nothing else on stderr."""

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("trian data.path=shop", ["no verb 'trian'", "did you mean `train`"]),
            ("data chek", ["did you mean `data check`"]),
            ("train", ["no data", "data.path=DIR"]),
            ("data check", ["no data to check"]),
            ("data demo", ["path=DIR"]),
            ("train data.path=shop trainer.max_epoch=3", ["did you mean trainer.max_epochs"]),
            ("train data.path=shop trainr.max_epochs=3", ["'trainr'", "did you mean trainer"]),
            ("train data.path=shop system.dropot=0.1", ["did you mean system.dropout"]),
            ("train data.path=shop optimizer.lrr=0.1", ["did you mean optimizer.lr"]),
            ("train data.pth=shop", ["did you mean data.path"]),
            ("train data.path=shop sed=1", ["'sed'", "seed"]),
            ("train data.path=shop system=bm4", ["no config system=bm4", "did you mean bm3"]),
            ("train data.path=shop trainer=dpp", ["no config trainer=dpp", "ddp"]),
            ("train data.path=shop system=xyz", ["there are: bm3, bpr, "]),
            ("train data.path=shop foo", ["foo"]),
            ("train data.path=shop topk=[1", ["[1"]),
            ("train data.path=shop system.dim=many", ["'system'"]),
            ("train data.path=shop task.monitor=recall@7", ["recall@7", "recall@20"]),
            ("train data.path=shop trainer.batch_size_global=0", ["trainer.batch_size_global"]),
            ("train data.path=shop trainer.accelerator=abacus", ["abacus"]),
            ("train data.path=shop trainer.precision=3", ["3"]),
            ("train data.path=shop data.features=[] system=vbpr", ["vbpr needs item features"]),
            ("train data.path=shop data.split=by_chance", ["by_chance", "leave_one_out"]),
            ("train resume=nowhere", ["nowhere", "not the folder of a run"]),
            ("train resume=shop", ["shop", "config.yaml"]),
            ("train resume=last system=vbpr hydra.job.name=x", ["nothing to resume"]),
            ("evaluate", ["checkpoint=RUN"]),
            ("evaluate checkpoint=nowhere", ["nowhere", "no such file"]),
            ("evaluate checkpoint=shop", ["a folder without checkpoints"]),
            ("evaluate checkpoint=shop/items.csv", ["shop/items.csv", "train"]),
            ("evaluate checkpoint=trained split=tset", ["split=tset", "split=valid or split=test"]),
            ("evaluate checkpoint=trained split=train", ["split=train"]),
            ("evaluate checkpoint=trained system=vbpr", ["the checkpoint is of", "bm3.BM3"]),
            ("embed checkpoint=trained", ["out=FILE.parquet"]),
            ("embed checkpoint=trained out=shop", ["out=shop"]),
            ("embed checkpoint=trained out=vectors.csv", ["vectors.csv", ".parquet"]),
            ("search checkpoint=trained", ["query=KIND:ID"]),
            ("search checkpoint=trained query=user:9999", ["user:9999", "60 ids"]),
            ("search checkpoint=trained query=sound:1", ["image:ID"]),
            ("search checkpoint=trained query=12", ["user:ID"]),
            ("search checkpoint=trained query=user:1 k=0", ["k=0"]),
            ("search checkpoint=trained query=user:1 k=-3", ["k=-3"]),
            ("search checkpoint=trained query=user:1 k=few", ["k=few"]),
            ("compare", ["compare NAME", "bm3"]),
            ("compare bm4", ["'bm4'", "there are: bm3"]),
            ("compare bm3 data.path=shop seeds=0", ["seeds=0"]),
            ("compare bm3 data.path=shop seeds=some", ["seeds=some"]),
            ("compare bm3 data.path=shop seeds=1.5", ["seeds=1.5"]),
            ("compare bm3 data.path=shop seeds=[1,1]", ["seeds=[1, 1]"]),
            ("compare bm3 data.path=shop tune=-1", ["tune=-1"]),
            ("compare bm3 data.path=shop tune=x", ["tune=x"]),
            ("compare bm3 data.path=shop trainer.devices=2", ["one device"]),
            (
                "compare bm3 data.path=shop system.dropout=0.3",
                ["lightgcn", "dropout", "compare.method.overrides"],
            ),
        ],
    )
    def test_is_answered_in_words(self, home, run, ask, line, words):
        found = set(home.rglob("*.ckpt"))
        refused(ask(line), *words)
        assert set(home.rglob("*.ckpt")) == found

    def test_data_of_another_catalogue_are_refused(self, home, run, ask):
        if not (home / "other").exists():
            assert ask("data demo path=other demo.n_users=70 demo.n_items=45").code == 0
        for verb in ("evaluate", "embed out=x.parquet", "search query=user:1"):
            refused(ask(f"{verb} checkpoint={run} data.path=other"), "other")
        refused(ask(f"train resume={run} data.path=other"), "not the data it was trained on")
        refused(ask(f"train resume={run} seed=8"), "seed was 0 and is now 8")

    def test_an_index_of_other_embeddings_is_refused(self, home, run, ask):
        other = f"data.path=shop trainer.max_epochs=1 seed=5 {SMALL} hydra.run.dir=other-weights"
        assert ask(f"train {other}").code == 0
        assert ask("index checkpoint=other-weights out=of-others index_kind=exact").code == 0
        query = "query=user:1 k=3 index=of-others"
        assert ask(f"search checkpoint=other-weights {query}").code == 0
        refused(ask(f"search checkpoint={run} {query}"), "of-others", "other weights")

    def test_an_index_of_other_data_is_refused(self, home, run, ask):
        assert ask(f"index checkpoint={run} out=of-shop index_kind=exact").code == 0
        copytree(home / "shop", home / "less")
        header, _, *rest = (home / "less/shop.inter").read_text().splitlines(keepends=True)
        (home / "less/shop.inter").write_text("".join([header, *rest]))
        query = f"search checkpoint={run} query=user:1 k=3 index=of-shop"
        assert ask(query).code == 0
        refused(ask(f"{query} data.path=less"), "of-shop", "other data")

    def test_a_checkpoint_that_would_run_code_does_not(self, home, ask):
        class Trap:
            def __reduce__(self):
                return Path.touch, (home / "sprung",)

        torch.save({"consilience": Trap()}, home / "trap.ckpt")
        refused(ask("evaluate checkpoint=trap.ckpt"), "trap.ckpt")
        assert not (home / "sprung").exists()

    def test_a_truncated_checkpoint_is_named(self, home, run, ask):
        whole = (home / run / "checkpoints" / "last.ckpt").read_bytes()
        (home / "half.ckpt").write_bytes(whole[: len(whole) // 2])
        refused(ask("evaluate checkpoint=half.ckpt"), "half.ckpt")


BROKEN = {
    "a feature row too few": (
        lambda f: np.save(f / "image_feat.npy", np.load(f / "image_feat.npy")[1:]),
        ["image_feat.npy", "39 rows"],
    ),
    "the features of another catalogue": (
        lambda f: np.save(f / "text_feat.npy", np.ones((55, 8), np.float32)),
        ["text_feat.npy", "55 rows", "40"],
    ),
    "a NaN in the features": (
        lambda f: np.save(f / "text_feat.npy", np.full((40, 3), np.nan)),
        ["text_feat.npy", "row 0, column 0 is nan"],
    ),
    "a truncated array": (
        lambda f: (f / "text_feat.npy").write_bytes((f / "text_feat.npy").read_bytes()[:-9]),
        ["text_feat.npy", "truncated"],
    ),
    "no item column": (
        lambda f: (f / "shop.inter").write_text("userID\tx_label\n0\t0\n"),
        ["shop.inter:1", "no item column"],
    ),
    "an id that is no number": (
        lambda f: (f / "shop.inter").write_text(
            (f / "shop.inter").read_text().replace("\n1\t", "\nbob\t", 1)
        ),
        ["shop.inter:", "'bob'"],
    ),
    "an empty file": (lambda f: (f / "shop.inter").write_text(""), ["shop.inter", "empty"]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_data_are_named_by_train_and_by_check(tmp_path, capsys, what):
    write_demo(tmp_path / "shop", n_users=60, n_items=40)
    breaks, words = BROKEN[what]
    breaks(tmp_path / "shop")
    refused(recsys("train data.path=shop", tmp_path, capsys), *words)
    check = recsys("data check data.path=shop", tmp_path, capsys)
    assert check.code == 1
    assert "problem" in check.out
    for word in words:
        assert word in check.out
    assert "Traceback" not in check.out + check.err
