"""The rules of the house that no linter knows."""

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = ["core", "medical", "remote_sensing", "audio_music", "recsys", "har", "tests"]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 450
NAMELESS = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}


def test_no_file_is_two_things() -> None:
    assert len(FILES) > 50
    lengths = {path: len(path.read_text().splitlines()) for path in FILES}
    assert not {str(path): n for path, n in lengths.items() if n > MAX_LINES}


def test_every_file_is_named_for_what_it_holds() -> None:
    assert not [str(path) for path in FILES if path.name in NAMELESS]


def test_every_test_stands_where_its_module_stands() -> None:
    """tests/core/losses/test_x.py goes with core/losses/x.py, or with core/losses/."""
    lost = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        place = path.relative_to(ROOT / "tests").parent
        if place.parts and place.parts[0] != "goldens" and not (ROOT / place).is_dir():
            lost.append(str(path))
    assert not lost


def _requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for extra in extras.values() for line in extra]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != "consilience"]


def test_the_lock_pins_all_that_the_project_asks_for() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {}
    for line in lines:
        assert not line.startswith("-") and "://" not in line, f"an address: {line}"
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version, f"no exact version: {line}"
        pins[requirement.name] = pin.version
    for requirement in _requirements():
        assert requirement.name in pins, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(pins[requirement.name])
        assert "<" not in str(requirement.specifier), f"{requirement} forbids what is newer"


def test_the_readme_has_the_table_of_today() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.split("<!-- systems -->")[1].split("<!-- /systems -->")[0].strip()
    command = [sys.executable, "-m", "core.consilience", "systems", "--markdown"]
    today = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert table == today.strip(), "paste what `consilience systems --markdown` prints"
