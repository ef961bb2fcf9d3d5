import json

import numpy as np
import pytest

from core.comparison_report import arm_rows, conclude, difference_rows, notes, present
from core.data.checks import DataError

NOT_TUNED = {"budget": {"max_epochs": 10}, "tuning_trials": 0, "tuning": {}, "not_tuned": []}


def results(differences: list[float], spread: float = 0.0, untrained: float = 0.1) -> dict:
    """A method that is `differences` above its baseline, seed for seed."""
    rng = np.random.default_rng(0)
    units = 0.5 + spread * rng.standard_normal(200)

    def run(shift: float, epochs: int = 9) -> dict:
        values = units + shift
        return {
            "metrics": {"recall@20": float(values.mean()), "ndcg@20": 0.2},
            "per_unit": values,
            "unit": "user",
            "epochs": epochs,
            "seconds": 1.5,
        }

    return {
        "ours": [run(d) for d in differences],
        "theirs": [run(0.0) for _ in differences],
        "ours untrained": [run(untrained - 0.5, epochs=0) for _ in differences],
    }


def concluded(differences: list[float], **options) -> dict:
    made = results(differences, **options)
    tuned: dict[str, dict] = {name: {} for name in made}
    outcome = conclude(made, tuned, list(range(len(differences))), "recall@20")
    return outcome | NOT_TUNED


@pytest.mark.parametrize(
    ("differences", "verdict", "sentence"),
    [
        ([0.05, 0.06, 0.055], "better", "ours is better than theirs in recall@20"),
        ([-0.05, -0.06, -0.055], "worse", "ours is worse than theirs in recall@20"),
        ([0.05, -0.06, 0.01], "undecided", "does not decide between ours and theirs"),
        ([0.0, 0.0, 0.0], "undecided", "does not decide between ours and theirs"),
        ([0.05], "undecided", "does not decide between ours and theirs"),
    ],
)
def test_verdict_and_summary_say_the_same(differences, verdict, sentence, tmp_path, capsys):
    outcome = concluded(differences)
    assert outcome["verdict"] == outcome["differences"]["theirs"]["verdict"] == verdict
    assert sentence in outcome["summary"]
    mean = outcome["differences"]["theirs"]["mean"]
    assert mean == pytest.approx(np.mean(differences))
    n = len(differences)
    assert outcome["summary"].endswith(f"over {n} seed" if n == 1 else f"over {n} seeds")
    present(outcome, results(differences), tmp_path)
    assert f"verdict: {verdict}. {outcome['summary']}" in capsys.readouterr().out
    assert verdict in (tmp_path / "report.html").read_text().split("</title>")[0]
    assert (tmp_path / "compare.png").stat().st_size > 5000
    json.dumps(outcome, allow_nan=False)


def test_every_trial_of_tuning_is_shown_and_what_was_not_tuned_is_said(tmp_path, capsys):
    present(concluded([0.1, 0.2]), results([0.1, 0.2]), tmp_path)
    assert "Nothing was tuned" in capsys.readouterr().out
    trials = {
        "ours": [{"values": {}, "validation": 0.25}, {"values": {"lr": 0.3}, "validation": 0.125}],
        "theirs": [{"values": {}, "validation": 0.5}, {"values": {"n": 2}, "validation": 0.75}],
    }
    tuned = concluded([0.1, 0.2]) | {"tuning_trials": 2, "tuning": trials}
    tuned["not_tuned"] = ["another system"]
    present(tuned, results([0.1, 0.2]), tmp_path)
    said, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "Nothing was tuned" not in said
    assert "another system ran with the values of their own configs" in said
    for text in ("its own config", "lr=0.3", "n=2", "0.2500", "0.1250", "0.5000", "0.7500"):
        assert text in said
        assert text in page


def test_arms_keep_their_seeds_and_spread():
    outcome = concluded([0.1, 0.2, 0.3])
    arm = outcome["arms"]["ours"]
    assert arm["per_seed"] == pytest.approx([0.6, 0.7, 0.8])
    assert arm["mean"] == pytest.approx(0.7)
    assert arm["sd"] == pytest.approx(0.1)
    assert concluded([0.1])["arms"]["ours"]["sd"] is None
    assert outcome["arms"]["theirs"]["sd"] == 0
    assert outcome["n_units"] == 200


def test_a_further_metric_is_compared_with_the_arms_that_have_it(tmp_path, capsys):
    made = results([0.1, 0.2, 0.3])
    for name, value in (("ours", 0.8), ("ours untrained", 0.1)):
        for run in made[name]:
            run["metrics"]["order"] = value
    tuned: dict[str, dict] = {name: {} for name in made}
    outcome = conclude(made, tuned, [0, 1, 2], "recall@20", ["order"])
    assert list(outcome["also"]["order"]) == ["ours untrained"]
    assert outcome["also"]["order"]["ours untrained"]["mean"] == pytest.approx(0.7)
    present(outcome | NOT_TUNED, made, tmp_path)
    assert "0.8000" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"also=.'order'"):
        conclude(results([0.1]), tuned, [0], "recall@20", ["order"])


def test_an_undecided_comparison_says_how_many_seeds_it_would_take():
    undecided = [0.05, -0.03, 0.04, -0.02]
    outcome = concluded(undecided)
    needed = outcome["differences"]["theirs"]["seeds_to_decide"]
    assert needed > 4
    assert any(f"about {needed} seeds would decide" in line for line in notes(outcome))
    assert any("no number of seeds" in line for line in notes(concluded([0.0, 0.0])))
    assert any("one seed shows no spread" in line for line in notes(concluded([0.1])))
    assert not any("ndecided" in line for line in notes(concluded([0.05, 0.06, 0.055])))


def test_a_method_below_the_untrained_one_has_shown_nothing():
    said = "ours does not beat ours untrained: it has shown nothing"
    assert any(said in line for line in notes(concluded([0.1, 0.1], untrained=0.9)))
    assert not any("shown nothing" in line for line in notes(concluded([0.1, 0.1])))


def test_a_budget_that_was_used_up_is_said():
    outcome = concluded([0.1, 0.1])
    assert not any("whole budget" in line for line in notes(outcome))
    outcome["budget"]["max_epochs"] = 9
    assert any("ours and theirs used the whole budget of 9" in line for line in notes(outcome))


def test_rows_show_the_ends_of_both_intervals():
    outcome = concluded([0.05, 0.06, 0.055], spread=0.1)
    rows = {row["ours minus"]: row for row in difference_rows(outcome)}
    assert set(rows) == {"theirs", "ours untrained"}
    ends = outcome["differences"]["theirs"]["over_seeds"]
    assert rows["theirs"]["95 % over seeds"] == f"{ends['low']:+.4f} to {ends['high']:+.4f}"
    assert rows["theirs"]["recall@20"] == "+0.0550"
    assert [row["arm"] for row in arm_rows(outcome)] == ["ours", "theirs", "ours untrained"]
    assert arm_rows(outcome)[0]["ndcg@20"] == pytest.approx(0.2)
