"""compare: the same for both arms, nothing seen that must not be, nothing run twice."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import core.compare
import core.comparison_report
from core.evaluation.evaluation import Evaluation
from recsys.data.demo import write_demo
from tests.recsys.command import recsys

QUICK = "trainer.max_epochs=2 trainer.batch_size_global=64 system.dim=8"
N_USERS = 60


@pytest.fixture
def home(tmp_path) -> Path:
    write_demo(tmp_path / "shop", n_users=N_USERS, n_items=40)
    return tmp_path


@pytest.fixture
def ask(home, capsys):
    return lambda line: recsys(line, home, capsys)


@pytest.fixture
def trainings(monkeypatch):
    """Every call of the trainer, in order."""
    calls = []
    train_run = core.compare.train_run

    def recording(config, data, run_dir, *args, **options):
        calls.append(SimpleNamespace(config=config.copy(), data=data, run_dir=run_dir))
        return train_run(config, data, run_dir, *args, **options)

    monkeypatch.setattr(core.compare, "train_run", recording)
    return calls


@pytest.fixture
def pretended(monkeypatch):
    """The trainer's calls, with no training: validation says what `judge` says of the config."""
    made = SimpleNamespace(calls=[], judge=lambda config: 0.5, tests=0)

    def train_run(config, data, run_dir, *args, **options):
        made.calls.append(SimpleNamespace(config=config.copy(), data=data, run_dir=run_dir))
        (run_dir / "checkpoints").mkdir(parents=True)
        return SimpleNamespace(
            checkpoint=run_dir / "best.ckpt",
            best_score=made.judge(config),
            best_epoch=0,
            epochs=1,
            seconds=0.1,
        )

    def evaluate_checkpoint(checkpoint, data, split, config):
        assert split == "test"
        made.tests += 1
        values = np.random.default_rng(len(made.calls)).random(N_USERS)
        metrics = {"recall@20": float(values.mean()), "ndcg@20": 0.1}
        return Evaluation(metrics, "user", np.arange(N_USERS), {"recall@20": values}), {}

    monkeypatch.setattr(core.compare, "train_run", train_run)
    monkeypatch.setattr(core.compare, "evaluate_checkpoint", evaluate_checkpoint)
    monkeypatch.setattr(core.comparison_report, "draw", lambda outcome: Figure((1, 1)))
    return made


def outcome_of(home: Path) -> dict:
    """The newest compare.json; refuses what JSON does not know."""
    file = max(
        home.glob("runs/recsys/compare/*/*/compare.json"), key=lambda f: f.stat().st_mtime_ns
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(file.read_text(), parse_constant=refuse)


def test_an_arm_does_not_differ_from_itself_and_finished_seeds_stay(home, ask, trainings):
    line = f"compare bm3 data.path=shop compare.baseline.system=bm3 tune=0 {QUICK}"
    answer = ask(f"{line} seeds=2")
    assert answer.code == 0, answer.err
    outcome = outcome_of(home)
    assert outcome["verdict"] == "undecided"
    difference = outcome["differences"]["bm3 (baseline)"]
    assert difference["per_seed"] == [0.0, 0.0]
    assert difference["mean"] == 0.0
    for interval in ("over_seeds", "over_units"):
        assert difference[interval]["low"] == difference[interval]["high"] == 0.0
    assert difference["seeds_to_decide"] is None
    assert outcome["summary"] in answer.out
    assert f"verdict: undecided. {outcome['summary']}" in answer.out
    arms = list(outcome["arms"])
    assert arms[:2] == ["bm3", "bm3 (baseline)"]
    assert {"bm3 without modalities", "bm3 untrained", "popularity"} <= set(arms)
    assert outcome["arms"]["bm3"]["per_seed"] == outcome["arms"]["bm3 (baseline)"]["per_seed"]

    (folder,) = home.glob("runs/recsys/compare/bm3/*")
    assert (folder / "compare.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "report.html").read_text()
    assert outcome["summary"].split(":")[0] in page
    assert "data:image" in page
    assert all(arm in page for arm in arms)
    assert not list(folder.rglob("*.ckpt"))

    trained = len(trainings)
    assert trained == 2 * 3
    times = {f: f.stat().st_mtime_ns for f in folder.rglob("result.json")}
    again = ask(f"{line} seeds=2")
    assert len(trainings) == trained
    assert outcome_of(home)["arms"] == outcome["arms"]
    assert again.out.splitlines()[-2] == answer.out.splitlines()[-2]

    assert ask(f"{line} seeds=3").code == 0
    assert [call.config.seed for call in trainings[trained:]] == [2, 2, 2]
    assert {f: f.stat().st_mtime_ns for f in times} == times
    more = outcome_of(home)
    assert more["seeds"] == [0, 1, 2]
    assert more["arms"]["bm3"]["per_seed"][:2] == outcome["arms"]["bm3"]["per_seed"]


def test_a_comparison_that_was_interrupted_goes_on(home, ask, trainings, monkeypatch):
    line = f"compare bm3 data.path=shop tune=0 seeds=1 {QUICK}"
    recording = core.compare.train_run

    def interrupted(config, data, run_dir, *args, **options):
        if len(trainings) == 1:
            raise KeyboardInterrupt
        return recording(config, data, run_dir, *args, **options)

    monkeypatch.setattr(core.compare, "train_run", interrupted)
    assert ask(line).code == 130
    assert not list(home.rglob("compare.json"))
    monkeypatch.setattr(core.compare, "train_run", recording)
    assert ask(line).code == 0
    targets = [call.config.system._target_.rpartition(".")[2] for call in trainings]
    assert targets == ["BM3", "LightGCN", "BM3"]


def test_training_and_tuning_never_see_the_test_split(home, ask, pretended):
    assert ask("compare bm3 data.path=shop tune=3 seeds=2").code == 0
    assert len(pretended.calls) == 2 * 3 + 2 * 3
    for call in pretended.calls:
        assert call.data.test.shape[1] == 0
        assert call.data.valid.shape[1] > 0
    # One look at the test split for each trained model, none for a trial.
    assert pretended.tests == 2 * 3


def test_both_arms_get_equal_budgets_trials_and_seeds(home, ask, pretended):
    assert ask("compare bm3 data.path=shop tune=4 seeds=3 trainer.max_epochs=7").code == 0
    runs: dict[str, list] = {}
    for call in pretended.calls:
        assert call.config.trainer == pretended.calls[0].config.trainer
        assert call.config.trainer.max_epochs == 7
        runs.setdefault(call.run_dir.parent.name, []).append(call)
    assert set(runs) == {"bm3", "lightgcn", "bm3-without-modalities"}
    for arm in ("bm3", "lightgcn"):
        trials, tested = runs[arm][:4], runs[arm][4:]
        assert [call.config.seed for call in tested] == [0, 1, 2]
        seeds = {call.config.seed for call in trials}
        assert len(seeds) == 1
        assert not seeds & {0, 1, 2}
        points = [str(call.config.system) + str(call.config.optimizer) for call in trials]
        assert len(set(points)) == 4
    outcome = outcome_of(home)
    assert outcome["tuning_trials"] == 4
    assert {arm: len(trials) for arm, trials in outcome["tuning"].items()} == {
        "bm3": 4,
        "lightgcn": 4,
    }
    assert outcome["budget"]["max_epochs"] == 7


def test_the_budget_is_the_methods_whatever_the_default_system_has(home, ask, pretended):
    line = (
        "compare bm3 data.path=shop tune=0 seeds=1 "
        "\"compare.method.overrides=['trainer.batch_size_global=99']\""
    )
    assert ask(line).code == 0
    assert {call.config.trainer.batch_size_global for call in pretended.calls} == {99}


def test_tuning_takes_the_best_validation_and_ablations_inherit_it(home, ask, pretended):
    def judge(config) -> float:
        rate = config.optimizer.lr
        return 0.3 + 100 * rate - config.system.get("dropout", 0) + 0.1 * config.system.n_layers

    pretended.judge = judge
    line = (
        "compare bm3 data.path=shop tune=99 seeds=1 "
        "\"+compare.ablations.flat={system:bm3,overrides:['system.n_layers=0']}\""
        ' "+compare.ablations.other={system:lightgcn,overrides:[]}"'
    )
    answer = ask(line)
    assert answer.code == 0, answer.err
    outcome = outcome_of(home)
    tuned = {name: arm["tuned"] for name, arm in outcome["arms"].items()}
    best = {"system.n_layers": 2, "system.dropout": 0.3, "optimizer.lr": 0.003}
    assert best.items() <= tuned["bm3"].items()
    for arm in ("bm3", "lightgcn"):
        highest = max(outcome["tuning"][arm], key=lambda trial: trial["validation"])
        assert highest["values"] == tuned[arm]
    assert tuned["lightgcn"]["system.n_layers"] == 3
    assert tuned["lightgcn"]["optimizer.lr"] == 0.003
    assert tuned["bm3 untrained"] == tuned["bm3"]
    assert tuned["bm3 without modalities"] == tuned["bm3"]
    assert "system.n_layers" not in tuned["flat"]
    assert tuned["popularity"] == {}
    assert outcome["not_tuned"] == ["other"]
    assert "other ran with the values of their own configs" in answer.out
    trials = [call for call in pretended.calls if call.run_dir.name.startswith("trial")]
    for_arm = [sum(c.run_dir.parent.name == arm for c in trials) for arm in ("bm3", "lightgcn")]
    assert for_arm[0] == for_arm[1] == outcome["tuning_trials"]

    tested = {c.run_dir.parent.name: c.config for c in pretended.calls if c not in trials}
    assert tested["bm3"].system.n_layers == 2
    assert tested["bm3"].system.dropout == 0.3
    assert tested["flat"].system.n_layers == 0
    assert tested["flat"].system.dropout == 0.3
    assert tested["flat"].optimizer.lr == 0.003
    assert tested["bm3-without-modalities"].system.cl_weight == 0
    assert tested["bm3-without-modalities"].system.n_layers == 2
    assert "Tuning chose" in answer.out


def test_its_own_config_stays_where_no_trial_is_better(home, ask, pretended):
    assert ask("compare bm3 data.path=shop tune=4 seeds=1").code == 0
    assert all(arm["tuned"] == {} for arm in outcome_of(home)["arms"].values())


@pytest.mark.parametrize(
    "change",
    [
        "compare.grids.bm3={optimizer.lr:[0.5,0.6]}",
        "system.dim=9",
        "trainer.max_epochs=3",
        "tune=3",
        "\"compare.method.overrides=['system.dropout=0.1']\"",
    ],
)
def test_what_was_run_for_other_settings_is_not_taken_over(home, ask, pretended, change):
    line = "compare bm3 data.path=shop tune=2 seeds=1"
    assert ask(line).code == 0
    before = len(pretended.calls)
    answer = ask(f"{line} {change}")
    assert answer.code == 0, answer.err
    assert len(pretended.calls) - before >= before
    assert len(list(home.glob("runs/recsys/compare/bm3/*"))) == 2


def test_other_data_in_the_same_place_are_run_anew(home, ask, pretended):
    line = "compare bm3 data.path=shop tune=0 seeds=1"
    ask(line)
    before = len(pretended.calls)
    write_demo(home / "shop", seed=1, n_users=N_USERS, n_items=40)
    assert ask(line).code == 0
    assert len(pretended.calls) == 2 * before


def test_one_seed_has_no_interval_and_says_so(home, ask, pretended):
    answer = ask("compare bm3 data.path=shop tune=0 seeds=[4]")
    assert answer.code == 0
    outcome = outcome_of(home)
    interval = outcome["differences"]["lightgcn"]["over_seeds"]
    assert interval["low"] is None
    assert interval["high"] is None
    assert outcome["verdict"] == "undecided"
    assert outcome["seeds"] == [4]
    assert "unknown from one seed" in answer.out
    assert "one seed shows no spread" in answer.out
    assert "no number of seeds" not in answer.out


def test_a_baseline_that_is_also_a_reference_stands_once(home, ask):
    line = f"compare bm3 data.path=shop compare.baseline.system=popularity tune=0 seeds=2 {QUICK}"
    answer = ask(line.replace("system.dim=8", ""))
    assert answer.code == 0, answer.err
    outcome = outcome_of(home)
    assert outcome["baseline"] == "popularity"
    assert len(outcome["arms"]["popularity"]["per_seed"]) == 2


@pytest.mark.parametrize(("missing", "ratios"), [("valid", "[0.8,0,0.2]"), ("test", "[0.8,0.2,0]")])
def test_without_a_split_it_says_how_to_make_one(home, ask, pretended, missing, ratios):
    answer = ask(f"compare bm3 data.path=shop data.split=ratio data.ratios={ratios}")
    assert answer.code == 2
    assert answer.err.startswith("error: shop: ")
    assert f"needs a {missing} split" in answer.err
    assert "data.split=ratio" in answer.err
    assert not pretended.calls


def test_without_data_it_runs_on_the_demo(home, ask, pretended):
    line = "compare bm3 tune=0 seeds=1 demo.n_users=60 demo.n_items=40"
    answer = ask(line)
    assert answer.code == 0, answer.err
    assert (home / "runs/demo_data/recsys").is_dir()
    assert outcome_of(home)["data"]["path"] == "runs/demo_data/recsys"


def test_the_outcome_goes_where_out_says(home, ask, pretended):
    assert ask("compare bm3 data.path=shop tune=0 seeds=1 out=found/here").code == 0
    names = {file.name for file in (home / "found/here").iterdir()}
    assert names == {"compare.json", "compare.png", "report.html"}


def test_what_makes_an_arm_cannot_be_set_for_all_of_them(ask, pretended):
    """Without it the ablation would silently be the method once more."""
    line = "compare bm3 data.path=shop tune=0 seeds=1 compare.baseline.system=bm3"
    answer = ask(f"{line} system.cl_weight=2")
    assert answer.code == 2
    assert answer.err.startswith("error: system.cl_weight is what makes one of the arms")
    assert not pretended.calls
