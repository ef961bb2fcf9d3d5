"""The verbs `data demo` and `data check`; they import no trainer, so they start fast."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core.build import build
from core.data.checks import CheckReport, DataError
from core.report import print_table


def data_demo(config: DictConfig) -> None:
    """Writes the domain's demo data set."""
    if config.path is None:
        raise DataError("where to?", fix="give path=DIR")
    if "demo" not in config:
        raise DataError(
            "these data are read, not generated", fix="choose a generator, e.g. data=digits_demo"
        )
    build(config.demo, path=config.path)
    rows = []
    for entry in sorted(Path(config.path).iterdir()):
        files = [file for file in entry.rglob("*") if file.is_file()] or [entry]
        name = f"{entry}/, {len(files)} files" if entry.is_dir() else str(entry)
        rows.append({"file": name, "KiB": f"{sum(f.stat().st_size for f in files) / 1024:.0f}"})
    print_table(rows, "demo data")


def data_check(config: DictConfig) -> None:
    """Reports on the data; exit 1 if anything is unusable."""
    if OmegaConf.is_missing(config.data, "path"):
        raise DataError("no data to check", fix="give data.path=DIR")
    arguments = {k: v for k, v in config.data.items() if k != "_target_"}
    report: CheckReport = build(config.check, **arguments)
    rows = [
        {"": name, "found": f"{value:.4g}" if isinstance(value, float) else str(value)}
        for name, value in report.facts.items()
    ]
    print_table(rows, str(config.data.path))
    for warning in report.warnings:
        print(f"warning: {warning}")
    for problem in report.problems:
        print(f"problem: {problem}")
    n = len(report.problems)
    print("the data are usable" if n == 0 else f"{n} problem{'s' if n > 1 else ''}")
    if n:
        raise SystemExit(1)
