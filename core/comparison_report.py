"""What a comparison found: the numbers, the sentences, the plot and the page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from core.data.checks import DataError
from core.evaluation.statistics import (
    Interval,
    bootstrap_units,
    paired_t_interval,
    seeds_to_decide,
    verdict,
)
from core.report import Report, finding, plot_arms, print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = dict[str, list[dict[str, Any]]]

_TRIALS = "Trials of tuning, one training each"


def conclude(
    results: Results,
    tuned: dict[str, dict[str, Any]],
    seeds: list[int],
    metric: str,
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """The comparison as plain values: every arm, and the method's difference to each other arm.

    Args:
        results: arm -> its result for every seed, with `metrics`, `per_unit` (n,), `unit`,
            `epochs` and `seconds`; the method first, its baseline second.
        tuned: arm -> what tuning chose.
        seeds: in the order of the results.
        metric: what is compared; higher is better.
        also: further metrics whose differences are shown, to the arms that have them; the verdict
            is on `metric` alone.

    Raises:
        DataError: the evaluation has no such further metric.
    """
    method, baseline = list(results)[:2]
    arms = {}
    for name, runs in results.items():
        values = [run["metrics"][metric] for run in runs]
        names = runs[0]["metrics"]
        arms[name] = {
            "mean": float(np.mean(values)),
            "sd": stdev(values) if len(values) > 1 else None,
            "per_seed": values,
            "epochs": float(np.mean([run["epochs"] for run in runs])),
            "seconds": float(np.mean([run["seconds"] for run in runs])),
            "tuned": tuned[name],
            "metrics": {m: float(np.mean([run["metrics"][m] for run in runs])) for m in names},
        }
    others = [name for name in results if name != method]
    unknown = [name for name in also if name not in results[method][0]["metrics"]]
    if unknown:
        raise DataError(
            f"compare.also={unknown}: nothing of that name was measured",
            expected=f"some of {', '.join(results[method][0]['metrics'])}",
        )
    differences = {name: _difference(results, method, name, metric) for name in others}
    main = _interval(differences[baseline]["over_seeds"])
    return {
        "method": method,
        "baseline": baseline,
        "metric": metric,
        "unit": results[method][0]["unit"],
        "n_units": len(results[method][0]["per_unit"]),
        "seeds": seeds,
        "verdict": differences[baseline]["verdict"],
        "summary": finding(method, baseline, metric, main) + f" over {_seeds(len(seeds))}",
        "differences": differences,
        "also": {
            extra: {
                name: _over_seeds(results, method, name, extra)
                for name in others
                if extra in results[name][0]["metrics"]
            }
            for extra in also
        },
        "arms": arms,
    }


def _over_seeds(results: Results, method: str, other: str, metric: str) -> dict[str, Any]:
    differences = [
        a["metrics"][metric] - b["metrics"][metric]
        for a, b in zip(results[method], results[other], strict=True)
    ]
    interval = paired_t_interval(differences)
    return {
        "mean": interval.mean,
        "per_seed": differences,
        "over_seeds": _plain(interval),
        "verdict": verdict(interval),
    }


def _difference(results: Results, method: str, other: str, metric: str) -> dict[str, Any]:
    ours, theirs = results[method], results[other]
    found = _over_seeds(results, method, other, metric)
    over_units = bootstrap_units(
        np.stack([run["per_unit"] for run in ours]), np.stack([run["per_unit"] for run in theirs])
    )
    is_open = found["verdict"] == "undecided"
    return found | {
        "over_units": _plain(over_units),
        "seeds_to_decide": seeds_to_decide(found["per_seed"]) if is_open else None,
    }


def _plain(interval: Interval) -> dict[str, Any]:
    """An interval for a JSON file, which has no infinity."""
    return {k: None if v in (np.inf, -np.inf) else v for k, v in asdict(interval).items()}


def _interval(plain: dict[str, Any]) -> Interval:
    ends = {"low": -np.inf, "high": np.inf}
    values: dict[str, Any] = {k: ends[k] if v is None else v for k, v in plain.items()}
    return Interval(**values)


def arm_rows(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """A table row for every arm."""
    metric = outcome["metric"]
    k = metric.partition("@")[2]
    others = [m for m in (f"ndcg@{k}", "recall@10", "ndcg@10") if m != metric]
    others += [m for m in outcome["also"] if m not in others]
    rows = []
    for name, arm in outcome["arms"].items():
        row = {"arm": name, metric: arm["mean"], "sd over seeds": arm["sd"]}
        row |= {m: arm["metrics"][m] for m in others if m in arm["metrics"]}
        rows.append(row | {"epochs": f"{arm['epochs']:.0f}", "seconds": f"{arm['seconds']:.1f}"})
    return rows


def difference_rows(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """A table row for the method's difference to every other arm."""
    rows = []
    for name, difference in outcome["differences"].items():
        rows.append(
            {
                f"{outcome['method']} minus": name,
                outcome["metric"]: f"{difference['mean']:+.4f}",
                "95 % over seeds": _ends(difference["over_seeds"]),
                f"95 % over {outcome['unit']}s": _ends(difference["over_units"]),
                "verdict": difference["verdict"],
            }
        )
    return rows


def further_rows(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """A table row for the method's difference to every other arm in each further metric."""
    return [
        {
            "metric": metric,
            f"{outcome['method']} minus": name,
            "difference": f"{difference['mean']:+.4f}",
            "95 % over seeds": _ends(difference["over_seeds"]),
            # Of some metrics less is more, so these are no verdicts.
            "is": {"better": "higher", "worse": "lower"}.get(difference["verdict"], "undecided"),
        }
        for metric, differences in outcome["also"].items()
        for name, difference in differences.items()
    ]


def tuning_rows(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """A table row for every trial of tuning, and how it was judged."""
    return [
        {
            "arm": arm,
            "trial": _settings(trial["values"]) or "its own config",
            f"validation {outcome['metric']}": trial["validation"],
        }
        for arm, trials in outcome["tuning"].items()
        for trial in trials
    ]


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _ends(interval: dict[str, Any]) -> str:
    if interval["low"] is None:
        return "unknown from one seed"
    return f"{interval['low']:+.4f} to {interval['high']:+.4f}"


def notes(outcome: dict[str, Any]) -> list[str]:
    """What the numbers do and do not say, a sentence each."""
    n_seeds, unit = len(outcome["seeds"]), outcome["unit"]
    lines = [
        f"The interval over seeds is Student's t of the paired differences of {_seeds(n_seeds)}: "
        f"it covers the variation between trainings, for these {outcome['n_units']} test {unit}s.",
        f"The interval over {unit}s is a paired bootstrap: it covers the choice of test {unit}s, "
        "for these trained models.",
        "Every arm had the same data, data order, budget and seeds; checkpoints and tuning were "
        "chosen on validation alone.",
    ]
    for arm in (outcome["method"], outcome["baseline"]):
        tuned = _settings(outcome["arms"][arm]["tuned"])
        if tuned:
            lines.append(f"Tuning chose {tuned} for {arm}.")
    if outcome["tuning_trials"] == 0:
        lines.append(
            "Nothing was tuned: each arm ran with the values of its config, which may suit one "
            "better than the other on these data."
        )
    if outcome["not_tuned"]:
        lines.append(
            f"{' and '.join(outcome['not_tuned'])} ran with the values of their own configs: a "
            "difference to what was not tuned may be one of tuning."
        )
    budget = outcome["budget"]["max_epochs"]
    spent = [n for n in (outcome["method"], outcome["baseline"]) if _spent(outcome, n)]
    if spent:
        lines.append(
            f"{' and '.join(spent)} used the whole budget of {budget} epochs without the "
            "validation standing still: with a larger trainer.max_epochs the verdict may change."
        )
    if outcome["verdict"] == "undecided":
        needed = outcome["differences"][outcome["baseline"]]["seeds_to_decide"]
        if n_seeds == 1:
            lines.append("Undecided: one seed shows no spread; run at least seeds=3.")
        elif needed:
            lines.append(f"Undecided: at this mean and spread about {needed} seeds would decide.")
        else:
            lines.append(
                "Undecided: no number of seeds that one would run decides at this mean and spread."
            )
    references = [n for n in outcome["arms"] if outcome["arms"][n]["epochs"] == 0]
    level = outcome["arms"][outcome["method"]]["mean"]
    beaten_by = [n for n in references if outcome["arms"][n]["mean"] >= level]
    if beaten_by:
        lines.append(
            f"{outcome['method']} does not beat {' and '.join(beaten_by)}: it has shown nothing "
            "on these data."
        )
    return lines


def draw(outcome: dict[str, Any]) -> "Figure":
    """The plot of a comparison."""
    difference = outcome["differences"][outcome["baseline"]]
    return plot_arms(
        {name: arm["per_seed"] for name, arm in outcome["arms"].items()},
        outcome["metric"],
        _interval(difference["over_seeds"]),
        _interval(difference["over_units"]),
        unit=outcome["unit"],
    )


def describe(outcome: dict[str, Any], report: Report) -> None:
    """Adds a comparison to a page: what was found, plot, tables, and what they do not say."""
    metric = outcome["metric"]
    report.text(outcome["summary"] + ".")
    report.figure(draw(outcome), f"Test {metric} of every arm, and the paired difference.")
    report.table(arm_rows(outcome), f"Test metrics, mean over {_seeds(len(outcome['seeds']))}")
    report.table(difference_rows(outcome), "Paired differences")
    if outcome["also"]:
        report.table(further_rows(outcome), "Further differences, not part of the verdict")
    if outcome["tuning_trials"]:
        report.table(tuning_rows(outcome), _TRIALS)
    report.text("\n".join(f"- {line}" for line in notes(outcome)))


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def _spent(outcome: dict[str, Any], arm: str) -> bool:
    """Whether an arm trained to the end of its budget with every seed."""
    return bool(outcome["arms"][arm]["epochs"] >= outcome["budget"]["max_epochs"])


def present(outcome: dict[str, Any], results: Results, folder: Path) -> None:
    """Prints the tables and the verdict; writes `compare.png` and `report.html`."""
    method, baseline, metric = outcome["method"], outcome["baseline"], outcome["metric"]
    print_table(arm_rows(outcome), f"test {metric}, mean over {_seeds(len(outcome['seeds']))}")
    print_table(difference_rows(outcome), "paired differences")
    if outcome["also"]:
        print_table(further_rows(outcome), "further differences, not part of the verdict")
    if outcome["tuning_trials"]:
        print_table(tuning_rows(outcome), _TRIALS)
    for line in notes(outcome):
        print(line)
    print(f"\nverdict: {outcome['verdict']}. {outcome['summary']}")

    draw(outcome).savefig(folder / "compare.png", dpi=150)
    report = Report(f"{method} against {baseline}: {outcome['verdict']}")
    describe(outcome, report)
    report.write(folder / "report.html")
