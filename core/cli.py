"""The command of a domain: verbs first, Hydra overrides after them.

Everything that answers `--help` and `systems` stays free of heavy imports.
"""

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

VERBS = {
    "systems": "the table of methods: paper, modalities, baseline, what the comparison found",
    "data demo": "write a realistic data set in the field's file formats: path=DIR",
    "data check": "read every file and say what is wrong with it: data.path=DIR",
    "train": "train, checkpoint and evaluate: system=NAME data.path=DIR",
    "evaluate": "the field's protocol on a checkpoint: checkpoint=RUN",
    "embed": "embeddings with ids: checkpoint=RUN out=FILE.parquet",
    "index": "approximate neighbours for large catalogues: checkpoint=RUN out=DIR",
    "search": "nearest neighbours: checkpoint=RUN query=KIND:ID k=10",
    "compare": "a method against its paper's baseline on your data: compare NAME data.path=DIR",
}


def domain_command(domain: str, more_verbs: Mapping[str, str] = {}) -> Callable[[], None]:
    """Makes the command of a domain package that holds `conf/config.yaml`.

    Args:
        domain: name of the package.
        more_verbs: verb -> what it does, of those that only this domain's task can do.
    """
    verbs = VERBS | dict(more_verbs)

    def main() -> None:
        arguments = sys.argv[1:]
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(help_text(domain, verbs))
            return
        verb, overrides = _split_verb(arguments, verbs)
        if verb is None:
            said = ((" ".join(arguments[:2]), 0.8), (arguments[0], 0.6))
            close = [v for words, cut in said for v in get_close_matches(words, verbs, 1, cut)]
            hint = f" (did you mean `{close[0]}`?)" if close else ""
            _fail(f"{program(domain)} has no verb {arguments[0]!r}{hint}: see --help")
        elif verb == "systems":
            print_systems([domain], overrides)
        elif not list_systems(domain):
            _fail(f"{program(domain)} has no method yet")
        elif "--help" in overrides or "-h" in overrides:
            print(help_text(domain, {verb: verbs[verb]}))
        else:
            _run(domain, verb, overrides)

    return main


def program(domain: str) -> str:
    """The name of a domain's command."""
    return "consilience" if domain == "core" else domain.replace("_", "-")


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _split_verb(arguments: list[str], verbs: Mapping[str, str]) -> tuple[str | None, list[str]]:
    # Processes that DDP starts are given the rewritten arguments, in which the verb is an override.
    if arguments[0].startswith("verb="):
        return arguments[0].removeprefix("verb=").replace("_", " "), arguments[1:]
    for n in (1, 2):
        verb, rest = " ".join(arguments[:n]), arguments[n:]
        if verb == "compare" and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            return verb, [f"compare={rest[0]}", *rest[1:]]
        if verb == "data demo":
            rest = ["demo.preview=true" if word == "--preview" else word for word in rest]
        if verb in verbs:
            return verb, rest
    return None, arguments


def conf_dir(package: str) -> Path:
    """The folder of Hydra configs inside a package, found without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package!r} is not installed")
    return Path(spec.submodule_search_locations[0]) / "conf"


def domain_conf(domain: str) -> Path:
    """The folder of a domain's own configs; the methods of `core` have theirs beside them."""
    return conf_dir(_package(domain))


def _package(domain: str) -> str:
    return "core.systems" if domain == "core" else domain


def list_systems(domain: str) -> list[dict[str, Any]]:
    """The catalogue of a domain: the card of each `conf/system/*.yaml`.

    With the baseline its comparison names, and the verdict where one has been measured.
    """
    import yaml

    folder = domain_conf(domain)
    systems = []
    for file in sorted((folder / "system").glob("*.yaml")):
        card = yaml.safe_load(file.read_text())["card"]
        compare = folder / "compare" / f"{file.stem}.yaml"
        evidence = compare.with_suffix(".json")
        baseline = ""
        if compare.exists():
            arm = yaml.safe_load(compare.read_text())["compare"]["baseline"]
            baseline = arm.get("name", arm["system"])
        systems.append(
            {"domain": domain, "system": file.stem, **card, "baseline": baseline}
            | {"evidence": _evidence(evidence) if evidence.exists() else ""}
        )
    return systems


def _evidence(file: Path) -> str:
    """What a comparison has found, on which data, and whether its arms were tuned."""
    found = json.loads(file.read_text())
    data = Path(found["data"]["path"])
    on = "demo data" if "demo_data" in data.parts else data.name
    return f"{found['summary']}, on {on}, {'tuned' if found['tuning_trials'] else 'untuned'}"


def print_systems(domains: list[str], arguments: list[str]) -> None:
    """Prints the catalogue as a table, with `--json` as JSON, with `--markdown` for the README."""
    systems = [system for domain in domains for system in list_systems(domain)]
    if "--json" in arguments:
        print(json.dumps(systems, indent=1, ensure_ascii=False))
        return
    columns = ["system", "paper", "modalities", "baseline", "evidence"]
    columns = ["domain", *columns] if len(domains) > 1 else columns
    rows = [
        [", ".join(v) if isinstance(v := system[c], list) else str(v) for c in columns]
        for system in systems
    ]
    if "--markdown" in arguments:
        lines = [columns, ["---"] * len(columns), *rows]
        print("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return
    for domain in domains:
        if not any(system["domain"] == domain for system in systems):
            print(f"{program(domain)} has no method yet")
    if rows:
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console().print(table)


def help_text(domain: str, verbs: Mapping[str, str] = VERBS) -> str:
    """What `--help` prints: verbs, config groups with their options, where defaults are."""
    command = program(domain)
    width = max(map(len, VERBS))
    lines = [f"usage: {command} VERB [KEY=VALUE ...] [--multirun] [--cfg job]", "", "verbs"]
    lines += [f"  {name:{width}}  {text}" for name, text in verbs.items()]
    groups: dict[str, list[str]] = {}
    for folder in (domain_conf(domain), conf_dir("core")):
        for file in sorted(folder.glob("*/*.yaml")):
            groups.setdefault(file.parent.name, []).append(file.stem)
    if groups:
        lines += ["", "config groups (GROUP=OPTION chooses, GROUP.KEY=VALUE changes a value)"]
        lines += [f"  {name:{width}}  {', '.join(groups[name])}" for name in sorted(groups)]
    base = (conf_dir("core") / "base.yaml").read_text()
    keys = base.split("_self_\n", 1)[1].split("\nhydra:", 1)[0].strip()
    lines += ["", "keys of the verbs", *(f"  {line}" for line in keys.splitlines()[1:])]
    lines += [
        "",
        f"  {command} train --cfg job          every value that a run would use",
        f"  {command} train --multirun seed=0,1,2   one run a value",
    ]
    return "\n".join(lines)


def _run(domain: str, verb: str, overrides: list[str]) -> None:
    """Composes the config with Hydra and runs the verb; bad input ends in one message, exit 2."""
    import hydra
    from omegaconf import DictConfig

    os.environ["HYDRA_FULL_ERROR"] = "1"  # the messages below replace Hydra's
    # Large gradients on the CPU come on huge pages: a third of a step of BM3 went into small ones.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=rf"core\b|{domain}\b")
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)

    def run_verb(config: DictConfig) -> None:
        if verb == "data demo":
            from core.data.verbs import data_demo as run
        elif verb == "data check":
            from core.data.verbs import data_check as run
        else:
            from core.verbs import run
        # Caught in here, an error is not announced by Hydra as well.
        with _errors_in_words(domain):
            run(config)

    with _errors_in_words(domain):
        if verb == "train":
            overrides = _resume_in_place(domain, overrides)
            if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "hydra.run.dir" not in str(
                overrides
            ):
                # The tasks of a job start at different seconds and must share one folder.
                job = f"slurm-{os.environ['SLURM_JOB_ID']}"
                folder = "runs/${domain}/${hydra:runtime.choices.system}"
                overrides = [f"hydra.run.dir={folder}/{job}", *overrides]
        elif verb == "compare":
            _check_comparison(domain, overrides)
            if not any(override.startswith(("data=", "data.path=")) for override in overrides):
                overrides = [*_demo_of_comparison(domain, overrides), *overrides]
            overrides = ["hydra.run.dir=.", *overrides]
        else:
            overrides = ["hydra.run.dir=.", *overrides]
        # Options may stand anywhere; argparse takes overrides from one place only.
        options = [o for o in overrides if o.startswith("-") or not ("=" in o or o.startswith("~"))]
        overrides = [o for o in overrides if o not in options]
        sys.argv = [sys.argv[0], f"verb={verb.replace(' ', '_')}", *overrides, *options]
        hydra.main(
            version_base="1.3", config_path=f"pkg://{_package(domain)}.conf", config_name="config"
        )(run_verb)()


@contextmanager
def _errors_in_words(domain: str) -> Iterator[None]:
    """Ends the command with a message and exit 2 where the input is at fault."""
    from hydra.errors import (
        ConfigCompositionException,
        InstantiationException,
        OverrideParseException,
    )
    from omegaconf.errors import OmegaConfBaseException

    from core.data.checks import DataError

    try:
        yield
    except DataError as error:
        _fail(str(error))
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException):  # a part inside a part
            cause = cause.__cause__
        if isinstance(cause, DataError):
            _fail(str(cause))
        if not isinstance(cause, TypeError | ValueError):
            raise
        key = str(error).rpartition("full_key: ")[2]
        _fail(f"the config key {key!r} cannot be used: {str(cause).splitlines()[0]}")
    except (ConfigCompositionException, OverrideParseException, OmegaConfBaseException) as error:
        _fail(_explain(domain, error))
    except KeyboardInterrupt:
        print("\ninterrupted; `train resume=last` goes on", file=sys.stderr)
        sys.exit(130)


def _check_comparison(domain: str, overrides: list[str]) -> None:
    """Refuses a comparison that nobody wrote a config for."""
    names = [o.removeprefix("compare=") for o in overrides if o.startswith("compare=")]
    known = sorted(file.stem for file in (domain_conf(domain) / "compare").glob("*.yaml"))
    there = f"there are: {', '.join(known)}"
    if not names:
        _fail(f"name the method to compare, {program(domain)} compare NAME; {there}")
    if names[-1] not in known:
        _fail(f"no comparison {names[-1]!r} in the configs; {there}")


def _demo_of_comparison(domain: str, overrides: list[str]) -> list[str]:
    """What a comparison runs on where no data are named: its `compare.demo`, else data=demo."""
    import yaml

    name = [o.removeprefix("compare=") for o in overrides if o.startswith("compare=")][-1]
    config = yaml.safe_load((domain_conf(domain) / "compare" / f"{name}.yaml").read_text())
    demo: list[str] = config["compare"].get("demo", ["data=demo"])
    return demo


def _resume_in_place(domain: str, overrides: list[str]) -> list[str]:
    """Makes a resumed run go on in its own folder: `resume=last` becomes that run."""
    from core.data.checks import DataError

    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    # The processes that DDP starts are given what is returned here, with its quotes.
    resume = given.get("resume", "null").strip("'\"")
    if resume == "null":
        return overrides
    if resume == "last":
        pattern = f"runs/{domain}/{given.get('system', '*')}/*/checkpoints/last.ckpt"
        found = sorted(Path().glob(pattern), key=lambda file: file.stat().st_mtime)
        if not found:
            raise DataError(
                f"nothing to resume: no {pattern}", fix="train first, or name a folder: resume=DIR"
            )
        folder = found[-1].parent.parent
        resume = str(folder)
    else:
        path = Path(resume)
        folder = path.parent.parent if path.is_file() else path
        if not (folder / "config.yaml").is_file():
            raise DataError(
                "not the folder of a run", path=path, expected="config.yaml and checkpoints/"
            )
    kept = [override for override in overrides if not override.startswith("resume=")]
    return [f"resume='{resume}'", f"hydra.run.dir='{folder}'", *kept]


def _explain(domain: str, error: Exception) -> str:
    """Hydra's message about a config, with the nearest key that exists."""
    import yaml
    from hydra.errors import MissingConfigException

    message = str(error).splitlines()[0]
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = sorted(error.options or [])
        close = get_close_matches(option, options, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(options)}"
        return f"no config {group}={option}; {hint}"
    if cause is not None and str(cause):
        message = str(cause).splitlines()[0]
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    if not key:
        return message
    known: set[str] = set()
    for folder in (domain_conf(domain), conf_dir("core")):
        for file in folder.rglob("*.yaml"):
            group = file.parent.name
            for name, node in yaml.safe_load(file.read_text()).items():
                known.add(f"{name}")
                if isinstance(node, dict):
                    known.update(f"{name}.{k}" for k in node)
                if group != "conf":
                    known.add(f"{group}.{name}")
    close = get_close_matches(key, known, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    hint = "; it belongs to another system, data set or schedule" if key in known else hint
    return f"no config key {key!r}{hint} (--cfg job shows every key)"
