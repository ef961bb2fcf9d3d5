"""What every YAML file of every domain keeps to."""

import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from core.checkpoints import read_checkpoint
from core.cli import VERBS
from core.trainers import fit

ROOT = Path(__file__).parents[1]
DOMAINS = ("medical", "remote_sensing", "audio_music", "recsys", "har")
FILES = sorted(
    file for package in ("core", *DOMAINS) for file in (ROOT / package).rglob("conf/**/*.yaml")
)
SYSTEMS = [file for file in FILES if file.parent.name == "system"]
DATA = [file for file in FILES if file.parent.name == "data"]
SHARED = [
    file for file in FILES if file.parent.name in ("optimizer", "schedule", "logger", "trainer")
]
# What makes generated data small, for `data demo` and for `train data=demo`.
SMALL = {
    ("recsys", "files"): "demo.n_users=80 demo.n_items=50",
    ("recsys", "entities"): "demo.n_queries=80 demo.n_items=50",
    ("har", "recordings"): "demo.subjects=4 demo.trials=2",
    ("remote_sensing", "chips"): "demo.n_unlabelled=60 demo.n_labelled=60 demo.n_valid=30 "
    "demo.n_test=30 demo.n_larger=4",
    ("remote_sensing", "archive"): "demo.n_places=24 demo.side=60 demo.seasons=1",
    ("audio_music", "audio"): "demo.source=chords demo.synthesizer=additive demo.pieces=10 "
    "demo.clips=3",
    ("audio_music", "scores"): "demo.n_train=2 demo.n_valid=1 demo.n_test=1 demo.n_unpaired=2 "
    "demo.n_performances=1 demo.engraver=plain demo.synthesizer=additive",
    ("medical", "volumes"): "demo.patients=7 demo.voxel=9.0",
    ("medical", "segmentation"): "demo.patients=7 demo.voxel=9.0",
    ("medical", "questions"): "demo.patients=7 demo.voxel=9.0",
    ("medical", "writing"): "demo.patients=7 demo.voxel=9.0",
    ("medical", "region_features"): "demo.n_train=40 demo.n_valid=10 demo.n_test=10",
    ("medical", "patches"): "demo.train=8 demo.valid=4 demo.test=4 demo.patients=6",
    ("medical", "slides"): "demo.train=2 demo.valid=1 demo.test=1 demo.n_classes=2 demo.regions=2 "
    "demo.width=700 demo.height=600",
    ("core", "images"): "demo.size=8",
    ("core", "xor_demo"): "demo.n_train=300 demo.n_valid=50 demo.n_test=50",
    ("core", "table_retrieval"): "demo.n_train=300 demo.n_valid=50 demo.n_test=50",
    ("core", "shards"): "demo.size=8",
}
# What is long before the first step, or larger than a test needs.
SHORT = {
    "cmc_cmkm": "system.guide_epochs=1",
    "multistage_cl": "trainer.batch_size_global=8000 system.merge_small=true",
    "swav": "system.n_local_views=1 "
    "system.encoder={_target_:core.encoders.small_convolutions.PooledConvNet}",
    "velvet_med": "size=tiny_volumes data.spacing=[9.0,9.0,9.0] data.ratios=[0.4,0.3,0.3]",
    "velvet_vqa": "size=tiny_questions data.spacing=[9.0,9.0,9.0] data.ratios=[0.4,0.3,0.3]",
    "velvet_reports": "size=tiny_writing data.spacing=[9.0,9.0,9.0] data.ratios=[0.4,0.3,0.3] "
    "system.max_length=24",
    "swin_unetr": "size=tiny_segmentation data.spacing=[9.0,9.0,9.0] data.ratios=[0.4,0.3,0.3]",
    "uni": "size=tiny system.dim=24 system.depth=1 system.n_prototypes=16 system.hidden_dim=16 "
    "system.bottleneck_dim=8 task.augment.n_small=1",
    "mert": "size=tiny task.labels=[pitch_classes]",
    "log_mel": "task.labels=[pitch_classes]",
    "audio_sheet": "system.width=4 system.channels=4 system.dim=4 system.pool=2 "
    "system.audio={epochs:1,snippets:4,batch_size:4} "
    "system.sheet={epochs:1,snippets:4,batch_size:4}",
    "croma": "data.size=24 system.dim=48 system.depth=2 system.heads=4 system.decoder_dim=32 "
    "system.decoder_heads=4",
}
# Two epochs of all rows.
TWO_STEPS = (
    "trainer.batch_size_global=100000 trainer.max_epochs=2 trainer.validate_every=2 "
    "trainer.log_every_n_steps=1 trainer.accelerator=cpu"
)
# Readers without a generator, and the data whose files they can read.
READ_ONLY = {("core", "table"): "digits_demo"}
BUILT = {"core", "recsys", "har", "remote_sensing", "audio_music", "medical"}


def _program(domain: str) -> str:
    return "consilience" if domain == "core" else domain.replace("_", "-")


PROGRAMS = {_program(domain): domain for domain in ("core", *DOMAINS)}


_WITH_DEMO = {"task", "demo", "check"}


def _name(file: Path) -> str:
    return "/".join(part for part in file.relative_to(ROOT).with_suffix("").parts if part != "conf")


def each(files: list[Path]) -> pytest.MarkDecorator:
    assert files
    return pytest.mark.parametrize("file", files, ids=_name)


def _domain(file: Path) -> str:
    return file.relative_to(ROOT).parts[0]


def _defaults(target: Any) -> dict[str, Any]:
    """Keyword -> default of all that have one."""
    parameters = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _arguments(node: dict[str, Any]) -> dict[str, Any]:
    not_arguments = ("_target_", "_partial_", "_recursive_", "defaults")
    return {key: value for key, value in node.items() if key not in not_arguments}


def _data_choice(file: Path) -> tuple[str, str]:
    """Domain and name of the data config whose files a system or a data config is for."""
    domain, content = _domain(file), yaml.safe_load(file.read_text())
    if domain == "core":
        # Its methods are for many kinds of data: each command names one.
        named = [w.removeprefix("data=") for w in _command(file)[2].split() if "data=" in w]
        return domain, file.stem if file.parent.name == "data" else named[0]
    if file.parent.name == "data" and "_target_" in content:
        return domain, file.stem
    for entry in content.get("defaults", []):
        if isinstance(entry, dict) and "override /data" in entry:
            return domain, entry["override /data"]
        if file.parent.name == "data" and not entry.startswith("/"):
            return _data_choice(file.with_name(f"{entry}.yaml"))
    config = yaml.safe_load((ROOT / domain / "conf" / "config.yaml").read_text())
    return domain, next(e["data"] for e in config["defaults"] if "data" in e)


def _run(domain: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [_program(domain), *shlex.split(line)])
    importlib.import_module("core.consilience" if domain == "core" else f"{domain}.cli").main()


def test_all_files_are_looked_at() -> None:
    assert {_domain(file) for file in FILES} == {"core", *DOMAINS}
    assert {"recsys/system/bm3", "recsys/data/demo", "core/trainer/ddp"} <= set(map(_name, FILES))
    assert {_domain(file) for file in SYSTEMS} == {_domain(file) for file in DATA} == BUILT
    assert {_data_choice(file) for file in SYSTEMS} <= {_data_choice(file) for file in DATA}


def _command(file: Path) -> tuple[str, str, str]:
    """Program, verb and the rest of the command in the first comment."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    program, _, line = lines[0].removeprefix("# ").partition(" ")
    verb = next((verb for verb in VERBS if f"{line} ".startswith(f"{verb} ")), "")
    return program, verb, line.removeprefix(verb).strip()


@each(FILES)
def test_the_first_comment_is_the_command(file: Path) -> None:
    assert file.read_text().startswith("# ")
    program, verb, _ = _command(file)
    assert _domain(file) in ("core", PROGRAMS[program])
    assert verb


@each([file for file in FILES if PROGRAMS[_command(file)[0]] in BUILT])
def test_the_command_composes_and_chooses_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, verb, rest = _command(file)
    _run(
        PROGRAMS[program],
        f"{verb} {rest.removesuffix('--cfg job')} --cfg job",
        tmp_path,
        monkeypatch,
    )
    out, err = capsys.readouterr()
    assert err == ""
    composed, content = yaml.safe_load(out), yaml.safe_load(file.read_text())
    node = content.get("system", content)
    if file.parent.name in ("system", "data", "optimizer", "schedule"):
        for key in _arguments(node):
            # What the command itself sets, and what follows from other keys, is as it may be.
            if f"{file.parent.name}.{key}=" not in rest and "${" not in str(node[key]):
                assert composed[file.parent.name][key] == node[key], key
    elif file.parent.name == "logger":
        assert composed["logger"].keys() >= node.keys() - {"defaults"}
    assert list(tmp_path.iterdir()) == []


@each(SYSTEMS)
def test_a_system_lists_its_keywords_with_their_defaults(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    target = get_object(content["system"]["_target_"])
    expected = {name: _plain(value) for name, value in _defaults(target).items()}
    listed = _arguments(content["system"])
    assert listed.keys() == expected.keys()
    for key, value in listed.items():
        # What follows from another key has no default of its own.
        assert "${" in str(value) or value == expected[key], key
    assert target.__module__ == f"{_domain(file)}.systems.{file.stem}"
    assert content["card"].keys() == {"name", "title", "paper", "modalities"}


@each([file for file in DATA if "_target_" in yaml.safe_load(file.read_text())])
def test_data_lists_its_keywords_with_their_defaults(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    target = get_object(content["_target_"])
    expected = {name: _plain(value) for name, value in _defaults(target).items()}
    expected.pop("findings", None)  # which `data check` brings
    assert _arguments(content) == expected | {"path": "???"}


@each([file for file in FILES if file.parent.name == "conf" and _domain(file) in BUILT])
def test_the_nodes_of_a_domain_are_keywords_of_their_targets(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    for name in content.keys() & {"task", "demo", "check"}:
        if "_target_" not in content[name]:
            continue  # adds to what another file targets
        known = inspect.signature(get_object(content[name]["_target_"])).parameters
        assert _arguments(content[name]).keys() <= known.keys(), name
    trainer = yaml.safe_load((ROOT / "core/conf/trainer/default.yaml").read_text())
    assert content.get("trainer", {}).keys() <= trainer.keys()


@each([file for file in DATA if "_target_" in yaml.safe_load(file.read_text())])
def test_a_reader_brings_its_task_demo_and_check(file: Path) -> None:
    includes = [e for e in yaml.safe_load(file.read_text())["defaults"] if "@_global_" in e]
    names = [entry.removesuffix("@_global_").removeprefix("/") for entry in includes]
    brought = [yaml.safe_load((file.parents[1] / f"{name}.yaml").read_text()) for name in names]
    wanted = {"task", "check"} if (_domain(file), file.stem) in READ_ONLY else _WITH_DEMO
    assert wanted <= {key for content in brought for key in content}


def test_the_trainer_lists_the_options_of_fit() -> None:
    not_options = {"optimizer", "schedule", "loggers", "config", "seed", "resume", "progress"}
    expected = {k: v for k, v in _defaults(fit).items() if k not in not_options}
    assert yaml.safe_load((ROOT / "core/conf/trainer/default.yaml").read_text()) == expected
    for file in (ROOT / "core/conf/trainer").glob("*.yaml"):
        assert yaml.safe_load(file.read_text()).keys() - {"defaults"} <= expected.keys(), file


@each([file for file in SHARED if file.parent.name != "trainer"])
def test_shared_nodes_are_keywords_of_their_targets(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    nodes = (
        [content] if "_target_" in content else [v for v in content.values() if isinstance(v, dict)]
    )
    assert nodes
    for node in nodes:
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        assert _arguments(node).keys() <= parameters.keys()
        assert node["_partial_"] is True
        if target.__module__.startswith("core."):
            listed, defaults = _arguments(node), _defaults(target)
            assert {key: listed[key] for key in defaults} == defaults


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The small demo data of every choice of data."""
    folders = {}
    for domain, choice in sorted({_data_choice(file) for file in DATA}):
        folder = tmp_path_factory.mktemp(f"{domain}_{choice}")
        data = READ_ONLY.get((domain, choice), choice)
        line = f"data demo data={data} path={folder / 'data'} {SMALL.get((domain, choice), '')}"
        with pytest.MonkeyPatch.context() as patch:
            _run(domain, line, folder, patch)
        folders[domain, choice] = folder / "data"
    return folders


def _trained(folder: Path) -> None:
    (run,) = (file.parent for file in folder.glob("runs/*/*/*/config.yaml"))
    checkpoint = read_checkpoint(run)
    assert checkpoint["global_step"] == 2
    assert checkpoint["epoch"] == 1
    assert (run / "metrics.json").is_file()
    rows = pl.read_csv(run / "log.csv")
    assert len(rows) == 2
    assert any(name.startswith("valid/") for name in rows.columns)
    saved = OmegaConf.load(run / "config.yaml")
    assert saved.trainer.max_epochs == 2


@each(SYSTEMS)
def test_every_system_takes_two_steps(
    file: Path, demos: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, choice = _data_choice(file)
    data = demos[domain, choice]
    chosen = f"data={choice}" if domain == "core" else ""
    short = SHORT.get(file.stem, "")
    line = f"train system={file.stem} {chosen} data.path={data} {TWO_STEPS} {short}"
    _run(domain, line, tmp_path, monkeypatch)
    _trained(tmp_path)


@each(DATA)
def test_every_data_set_takes_two_steps(
    file: Path, demos: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, choice = _data_choice(file)
    data, small = demos[domain, choice], SMALL.get((domain, choice), "")
    words = _command(file)[2].split()
    system = [word for word in words if word.startswith(("system=", "task."))]
    short = " ".join(SHORT[name] for name in SHORT if f"system={name}" in words)
    path = "" if file.stem.endswith("demo") else f"data.path={data}"
    line = f"train data={file.stem} {' '.join(system)} {path} {small} {TWO_STEPS} {short}"
    _run(domain, line, tmp_path, monkeypatch)
    _trained(tmp_path)


@each([file for file in SHARED if file.parent.name in ("optimizer", "schedule")])
def test_every_optimizer_and_schedule_takes_two_steps(
    file: Path, demos: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = f"{file.parent.name}={file.stem}"
    data = demos["recsys", "files"]
    _run(
        "recsys",
        f"train system=bpr {choice} data.path={data} {TWO_STEPS}",
        tmp_path,
        monkeypatch,
    )
    _trained(tmp_path)


def test_a_checkpoint_cannot_name_what_a_command_calls(
    demos: dict[tuple[str, str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = demos["recsys", "files"]
    _run("recsys", f"train system=bpr data.path={data} {TWO_STEPS}", tmp_path, monkeypatch)
    (last,) = tmp_path.glob("runs/*/*/*/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    sprung = tmp_path / "sprung"
    trap = {"_target_": "subprocess.check_output", "args": ["touch", str(sprung)]}
    for node in ("data", "task", "demo", "optimizer"):
        config = checkpoint["consilience"]["config"]
        changed = checkpoint | {
            "consilience": checkpoint["consilience"] | {"config": config | {node: trap}}
        }
        torch.save(changed, last)
        for verb in (f"evaluate checkpoint={last}", "train resume=last"):
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                _run("recsys", verb, tmp_path, monkeypatch)
            assert ended.value.code == 2
            assert "would call subprocess.check_output" in capsys.readouterr().err
            assert not sprung.exists()


def test_names_are_slugs() -> None:
    for file in FILES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", file.stem), file
