"""The command over all domains, run as its users run it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from core.consilience import DOMAINS, _domain_of_method, main

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
from core.consilience import main
sys.argv = ["consilience", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "lightning", "hydra", "polars", "numpy", "matplotlib"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core.consilience", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_domains_are_the_packages_and_each_has_its_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"core", *DOMAINS} == set(packages)
    commands = {name.replace("_", "-"): f"{name}.cli:main" for name in DOMAINS}
    assert project["project"]["scripts"] == commands | {"consilience": "core.consilience:main"}


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["systems"], ["systems", "--json"], ["systems", "--markdown"], ["train"]],
    ids=" ".join,
)
def test_answers_without_heavy_imports(arguments: list[str]) -> None:
    command = [sys.executable, "-c", LIGHT, *arguments]
    light = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert light.returncode == 0, light.stderr


def test_systems_lists_every_method_of_every_domain(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(run("systems", "--json").stdout)
    methods = {
        (domain, file.stem) for domain in DOMAINS for file in (ROOT / domain).glob("conf/system/*")
    } | {("core", file.stem) for file in (ROOT / "core/systems").glob("conf/system/*")}
    assert {(system["domain"], system["system"]) for system in listed} == methods
    assert {("recsys", "bm3"), ("core", "simclr")} <= methods

    table = run("systems").stdout
    for domain in DOMAINS:
        has_method = any(domain == of for of, _ in methods)
        said = f"{domain.replace('_', '-')} has no method yet" in table
        assert said != has_method
    rows = [line.split(" | ")[1] for line in run("systems", "--markdown").stdout.splitlines()[2:]]
    assert sorted(rows) == sorted(method for _, method in methods)


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["train", "system=bpr"], "recsys.systems.bpr.BPR"),
        (["verb=train", "system=bpr"], "recsys.systems.bpr.BPR"),
        (["compare", "bm3"], "recsys.systems.bm3.BM3"),
        (["compare", "compare=bm3"], "recsys.systems.bm3.BM3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_method_is_run_by_its_domain(arguments: list[str], target: str) -> None:
    config = yaml.safe_load(run(*arguments, "data.path=x", "--cfg", "job").stdout)
    assert config["domain"] == "recsys"
    assert config["system"]["_target_"] == target
    assert config["verb"] == arguments[0].removeprefix("verb=")
    assert config["data"]["path"] == "x"


@pytest.mark.parametrize("given", ["", "checkpoints", "checkpoints/best.ckpt"])
def test_a_run_is_used_by_its_domain(tmp_path: Path, given: str) -> None:
    (tmp_path / "config.yaml").write_text("domain: recsys\n")
    (tmp_path / "checkpoints").mkdir()
    config = yaml.safe_load(
        run("evaluate", f"checkpoint={tmp_path / given}", "--cfg", "job", cwd=tmp_path).stdout
    )
    assert (config["domain"], config["verb"]) == ("recsys", "evaluate")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare bm4", "no method 'bm4' (did you mean 'bm3'?)"),
        ("train system=LightGNC", "no method 'LightGNC' (did you mean 'lightgcn'?)"),
        ("train system=qqq", "no method 'qqq': consilience systems lists all"),
        ("train data.path=x", "name the method: consilience train system=NAME"),
        ("train resume=last", "name the method: consilience train system=NAME"),
        ("compare", "name the method: consilience compare NAME"),
        ("embed out=x.parquet", "name the run: consilience embed checkpoint=RUN"),
        ("evaluate checkpoint=nowhere", "nowhere: not a run"),
        ("trian", "no verb 'trian' (did you mean `train`?)"),
    ],
)
def test_a_mistake_ends_in_one_message(
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["consilience", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_name_that_several_have_is_that_of_the_method_without_a_field() -> None:
    assert (ROOT / "har/conf/system/simclr.yaml").is_file()
    assert _domain_of_method("simclr") == "core"
    assert _domain_of_method("cmc") == "har"
