"""`consilience demo`: one method of each domain against its baseline on generated data."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.cli import domain_conf, list_systems
from core.comparison_report import describe
from core.data.checks import DataError
from core.report import Report

REPORT = Path("runs/demo/report.html")
_SEEDS = 3


def demo(domains: Sequence[str]) -> Path:
    """Runs the comparison of each domain's flagship, and collects them on one page.

    Returns:
        The page.

    Raises:
        DataError: a comparison did not end well; its own message stands above.
    """
    report = Report("What each domain's first method shows on generated data")
    report.text(
        f"Every method was compared with its paper's baseline over {_SEEDS} seeds, untuned and, "
        "where its own comparison takes longer, with a smaller budget: on "
        "generated data this shows that all works, not that a method is good. On your own data: "
        "`consilience compare NAME data.path=DIR`."
    )
    for domain in domains:
        method = flagship(domain)
        if method is None:
            continue
        outcome = _compared(domain, method, REPORT.parent / domain)
        report.text(f"## {domain}: {outcome['method']} against {outcome['baseline']}")
        describe(outcome, report)
    path = report.write(REPORT)
    print(f"\nwrote {path}")
    return path


def flagship(domain: str) -> str | None:
    """The method that the domain's config names by default, if it has a comparison."""
    import yaml

    config = yaml.safe_load((domain_conf(domain) / "config.yaml").read_text())
    chosen = {
        k: v for entry in config["defaults"] if isinstance(entry, dict) for k, v in entry.items()
    }
    method = chosen.get("system")
    compared = {system["system"] for system in list_systems(domain) if system["baseline"]}
    return method if method in compared else None


def _compared(domain: str, method: str, folder: Path) -> dict[str, object]:
    """Compares in a process of its own, as a user would, and reads what it wrote."""
    import yaml

    config = yaml.safe_load((domain_conf(domain) / "compare" / f"{method}.yaml").read_text())
    # -P: a folder of the user's with the name of a package must not come before ours.
    command = [sys.executable, "-P", "-m", f"{domain}.cli", "compare", method]
    arguments = [f"seeds={_SEEDS}", "tune=0", f"out={folder}", *config["compare"].get("quick", [])]
    # Demo data are so small that threads would wait for each other longer than they compute, most
    # of all beside other programs.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    run = subprocess.run([*command, *arguments], env=environment, check=False)
    if run.returncode != 0:
        raise DataError(
            f"`{domain} compare {method}` ended with {run.returncode}",
            fix="see its message above; consilience doctor says what this machine lacks",
        )
    outcome: dict[str, object] = json.loads((folder / "compare.json").read_text())
    return outcome
