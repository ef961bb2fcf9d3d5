import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from matplotlib.image import imread
from scipy.io import loadmat

from har.data.windows import load_windows
from tests.command import refused
from tests.har.command import DEMO, SMALL, har


def colours(file: Path) -> int:
    return len(np.unique(imread(file)[..., :3].reshape(-1, 3), axis=0))


def test_demo_data_are_pictured_checked_and_sound(tmp_path, capsys):
    line = "data demo path=some/clips demo.subjects=2 demo.trials=1 --preview"
    answer = har(line, tmp_path, capsys)
    assert answer.code == 0, answer.err
    assert "preview.png" in answer.out and "preview.gif" in answer.out
    assert colours(tmp_path / "some/clips/preview.png") > 20
    assert (tmp_path / "some/clips/preview.gif").read_bytes()[:4] == b"GIF8"
    assert loadmat(tmp_path / "some/clips/Inertial/a1_s1_t1_inertial.mat")["d_iner"].shape[1] == 6
    check = har("data check data.path=some/clips", tmp_path, capsys)
    assert check.code == 0, check.out
    assert "the data are usable" in check.out
    (tmp_path / "some/clips/Skeleton/a3_s2_t1_skeleton.mat").write_bytes(b"no matrix")
    check = har("data check data.path=some/clips", tmp_path, capsys)
    assert check.code == 1
    assert "a3_s2_t1_skeleton.mat" in check.out
    assert not list(tmp_path.glob("runs"))


class TestFromTrainingToPrediction:
    def test_train_leaves_metrics_pictures_and_a_record(self, home, run):
        metrics = json.loads((home / run / "metrics.json").read_text())
        names = ["accuracy", "balanced_accuracy", "macro_f1", "class_retrieval@1"]
        names.append("clip_retrieval@1")
        for split in ("valid", "test"):
            assert all(0 <= metrics[f"{split}/{name}"] <= 1 for name in names)
            assert colours(home / run / f"confusion_{split}.png") > 20
        assert metrics["chosen_by"] == "valid/accuracy"
        config = yaml.safe_load((home / run / "config.yaml").read_text())
        assert config["system"]["encoder"]["_target_"].endswith("SeriesConvNet")
        assert config["data"]["standardize"] is True
        assert {"imu", "skeleton"} == config["task"]["augment"].keys()
        record = json.loads((home / run / "environment.json").read_text())
        assert record["data"] == load_windows(home / "clips", standardize=True).digest()
        log = pl.read_csv(home / run / "log.csv")
        assert log["train/loss"].drop_nulls().len() == 4

    def test_evaluate_prints_every_subject_and_repeats_the_numbers(self, home, run, ask):
        before = json.loads((home / run / "metrics.json").read_text())
        (home / run / "confusion_test.png").unlink()
        answer = ask(f"evaluate checkpoint={run}")
        assert answer.code == 0, answer.err
        assert "by subject" in answer.out
        for name in ("mean", "SD"):
            assert re.search(rf"^ *{name} ", answer.out, re.M), answer.out
        assert re.search(r"^ *2 +27 ", answer.out, re.M), answer.out
        assert (home / run / "confusion_test.png").is_file()
        after = json.loads((home / run / "metrics.json").read_text())
        assert after["test/accuracy"] == before["test/accuracy"]
        fewer = ask(
            f"evaluate checkpoint={run} task.modalities=[imu] task.labels_per_class=[1] "
            "task.n_draws=1"
        )
        assert fewer.code == 0, fewer.err
        assert "1_per_class" in fewer.out

    def test_embed_writes_the_names_of_the_clips(self, home, run, ask):
        assert ask(f"embed checkpoint={run} out=there/vectors.parquet").code == 0
        table = pl.read_parquet(home / "there/vectors.parquet")
        assert dict(table.group_by("kind").len().iter_rows()) == {"skeleton": 108, "imu": 108}
        assert set(table["id"]) == set(load_windows(home / "clips").ids)

    @pytest.mark.parametrize(("kind", "other"), [("skeleton", "imu"), ("imu", "skeleton")])
    def test_search_goes_across_and_is_drawn(self, home, run, ask, kind, other):
        answer = ask(f"search checkpoint={run} query={kind}:a3_s2_t1 k=2 out={kind}.png")
        assert answer.code == 0, answer.err
        assert other in answer.out
        assert len(re.findall(r"a\d+_s\d_t1 ", answer.out)) >= 2
        assert colours(home / f"{kind}.png") > 20

    def test_predict_slides_over_a_recording(self, home, run, ask):
        file = "clips/Inertial/a22_s2_t1_inertial.mat"
        asked = f"predict checkpoint={run} predict.file={file} predict.seconds=1.5"
        answer = ask(f"{asked} out=new/said.parquet")
        assert answer.code == 0, answer.err
        table = pl.read_parquet(home / "new/said.parquet")
        assert table.columns == ["start", "end", "activity", "probability"]
        assert len(table) >= 2
        np.testing.assert_allclose(table["end"] - table["start"], 1.5)
        np.testing.assert_allclose(table["start"].diff().drop_nulls(), 0.5, atol=0.03)
        assert table["probability"].is_between(1 / 27, 1).all()
        names = load_windows(home / "clips").classes["label"]
        assert set(table["activity"]) <= set(names)
        assert all(activity in answer.out for activity in table["activity"])

    def test_a_classifier_predicts_by_itself_and_reports_one_pass(self, home, ask):
        small = SMALL.replace("system.hidden_dim=16 system.dim=8 ", "")
        line = f"train system=sla data.path=clips trainer.max_epochs=1 {small}"
        assert ask(f"{line} hydra.run.dir=classes").code == 0
        metrics = json.loads((home / "classes/metrics.json").read_text())
        assert "test/single_accuracy" in metrics
        file = "clips/Inertial/a22_s2_t1_inertial.mat"
        answer = ask(f"predict checkpoint=classes predict.file={file} predict.seconds=1.5")
        assert answer.code == 0, answer.err

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("predict checkpoint=trained", ["predict.file=FILE"]),
            ("predict checkpoint=trained predict.file=none.npz", ["none.npz", "no such file"]),
            ("predict checkpoint=trained predict.file=trained/log.csv", ["log.csv", ".npz"]),
            ("search checkpoint=trained query=sound:1", ["skeleton:ID or imu:ID"]),
            ("search checkpoint=trained query=imu:a1", ["108 ids"]),
            ("train data.path=clips system=simclr data.modalities=[skeleton,imu]", ["system=cmc"]),
            ("train data.path=clips system=cmc data.modalities=[imu]", ["two modalities"]),
            ("train data.path=clips system=cmc_cmkm data.modalities=[imu]", ["two modalities"]),
            (
                "train data.path=clips system=simclr data.modalities=[skeleton] data.length=30",
                ["at least 48 frames"],
            ),
            ("train data.path=clips task.monitor=loss", ["task.monitor=loss", "macro_f1"]),
            ("train data.path=clips task.classifier=tree", ["tree", "fine_tuned"]),
            ("train data.path=clips encoder=smal", ["smal"]),
            ("train data.path=clips data.modalities=[sound]", ["sound", "skeleton"]),
            (
                "train data.path=clips 'system.encoder={skeleton: "
                "{_target_: core.encoders.mlp.MLP}}'",
                ["no encoder for imu"],
            ),
            ("predit checkpoint=trained", ["did you mean `predict`"]),
            ("train", ["data.path=DIR"]),
        ],
    )
    def test_slips_are_answered_in_words(self, run, ask, line, words):
        # One that is not refused shall not train for long.
        refused(ask(f"{line} trainer.max_epochs=1"), *words)


def test_generated_data_are_written_when_they_are_asked_for(tmp_path, capsys):
    line = f"train system=cmc data=demo {DEMO} {SMALL} trainer.max_epochs=1"
    answer = har(line, tmp_path, capsys)
    assert answer.code == 0, answer.err
    assert (tmp_path / "runs/demo_data/har/demo.json").is_file()


def test_help_lists_the_verb_of_this_domain(ask):
    text = ask("--help").out
    for word in ("predict", "recordings", "small", "har_hard_negatives", "cmc_cmkm"):
        assert word in text
    assert "predict" in ask("predict --help").out
    systems = {s["system"]: s for s in json.loads(ask("systems --json").out)}
    assert systems["har_hard_negatives"]["baseline"] == "cmc"
    assert systems["cmc_cmkm"]["modalities"] == ["skeleton", "imu"]
