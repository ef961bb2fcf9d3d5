"""The command `consilience`: all domains at once, and the way from a method to its domain.

Everything that answers `--help` and `systems` stays free of heavy imports.
"""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from core.cli import VERBS, domain_command, domain_conf, print_systems, program

DOMAINS = ("recsys", "medical", "remote_sensing", "audio_music", "har")
# Methods that belong to no domain are the core's own, and this is their command.
_CATALOGUES = ("core", *DOMAINS)
_OWN_VERBS = {
    "systems": "the table of all methods; --json, --markdown",
    "doctor": "what this machine has, what is missing, and what to do about it",
    "demo": "a method of each domain on demo data: runs/demo/report.html",
    "data demo": "write demo data of the methods without a domain: data=NAME path=DIR",
    "data check": "read images, shards or tables and say what is wrong: data=NAME data.path=DIR",
}
# Those that name a method or a run, and with it the domain whose command does the work.
_METHOD_VERBS = {v: text for v, text in VERBS.items() if v != "systems" and " " not in v}


def main() -> None:
    """Runs `consilience VERB ...`; a mistake in the arguments ends in one message, exit 2."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    # Processes that DDP starts are given the rewritten arguments, in which the verb is an override.
    verb, rest = arguments[0].removeprefix("verb="), arguments[1:]
    if verb == "systems":
        print_systems(list(_CATALOGUES), rest)
    elif verb == "doctor":
        from core.doctor import doctor

        sys.exit(doctor(DOMAINS))
    elif verb == "demo":
        _demo()
    elif verb == "data":
        domain_command("core")()
    elif verb in _METHOD_VERBS:
        _domain_main(_domain_of(verb, rest))()
    else:
        close = get_close_matches(verb, [*_OWN_VERBS, *_METHOD_VERBS], n=1)
        hint = f" (did you mean `{close[0]}`?)" if close else ""
        _fail(f"consilience has no verb {verb!r}{hint}: see --help")


def _help() -> str:
    def table(verbs: dict[str, str]) -> list[str]:
        return [f"  {verb:{max(map(len, VERBS))}}  {text}" for verb, text in verbs.items()]

    programs = ", ".join(map(program, DOMAINS))
    return "\n".join(
        [
            "usage: consilience VERB [KEY=VALUE ...]",
            "",
            "verbs",
            *table(_OWN_VERBS),
            "",
            "verbs of a method, done by the command of its domain",
            *table(_METHOD_VERBS),
            "",
            f"{programs} --help says what a domain can do",
        ]
    )


def _demo() -> None:
    from core.data.checks import DataError
    from core.demo import demo

    try:
        demo(DOMAINS)
    except DataError as error:
        _fail(str(error))


def _domain_main(domain: str) -> Callable[[], None]:
    if domain == "core":
        return domain_command("core")
    main: Callable[[], None] = importlib.import_module(f"{domain}.cli").main
    return main


def _domain_of(verb: str, arguments: list[str]) -> str:
    """The domain of the method that the arguments name, or of the run they point to."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    key = "compare" if verb == "compare" else "system"
    slug = given.get(key)
    if slug is None and verb == "compare" and arguments and "=" not in arguments[0]:
        slug = arguments[0]
    if slug is not None:
        return _domain_of_method(slug)
    run = given.get("resume" if verb == "train" else "checkpoint", "last")
    if run != "last":
        return _domain_of_run(run)
    _fail(
        {
            "compare": "name the method: consilience compare NAME",
            "train": "name the method: consilience train system=NAME",
        }.get(verb, f"name the run: consilience {verb} checkpoint=RUN")
    )


def _domain_of_method(slug: str) -> str:
    # Of a name that several have, the method without a field: those of fields have commands.
    methods = {
        file.stem: domain
        for domain in sorted(_CATALOGUES, key=lambda domain: domain == "core")
        for file in sorted((domain_conf(domain) / "system").glob("*.yaml"))
    }
    if slug not in methods:
        close = get_close_matches(slug.lower(), methods, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        _fail(f"no method {slug!r}{hint}: consilience systems lists all")
    return methods[slug]


def _domain_of_run(run: str) -> str:
    import yaml

    path = Path(run)
    for folder in (path, *path.parents[:2]):
        config = folder / "config.yaml"
        if config.is_file():
            domain = yaml.safe_load(config.read_text()).get("domain")
            if domain in _CATALOGUES:
                return str(domain)
    _fail(
        f"{run}: not a run, nor a checkpoint in one\n"
        "  expected: a folder with config.yaml, as train writes it, or its checkpoints/*.ckpt\n"
        "  to do:    give the folder of the run, or use the command of the domain"
    )


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
