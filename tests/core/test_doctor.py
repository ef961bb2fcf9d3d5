"""What the doctor finds: on this machine, on one that lacks things, and behind a shadow."""

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import core.doctor
from core.consilience import DOMAINS
from core.doctor import doctor, libraries, program, whose


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)


def from_a_command(cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # -I: as a command starts, and however PYTHONPATH is set.
    command = [sys.executable, "-I", "-m", "core.consilience", "doctor"]
    variables = {"COLUMNS": "300", "PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120
    )


def fake_package(folder: Path, name: str) -> Path:
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    return package


def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(DOMAINS) == 0
    table = capsys.readouterr().out
    home = str(Path(core.doctor.__file__).parents[1])
    for package in ("core", *DOMAINS):
        assert any(
            package in line.split() and f"ours, in {home}" in line for line in table.splitlines()
        )
    for name in ("torch", "hydra-core", "lightning"):
        assert f"{name} {version(name)}" in table
    for row in ("Python", "CUDA", "CPU", "memory", "disk of this folder", "git", "fluidsynth"):
        assert row in table
    assert "nothing is broken" in table


@pytest.mark.parametrize(("package", "is_broken"), [("hydra-core", True), ("monai", False)])
def test_a_missing_package(package: str, is_broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(core.doctor, "version", lacking)
    (found,) = [finding for finding in libraries() if package in finding.found]
    assert found.found == f"{package} is not installed"
    assert found.to_do.startswith(f"pip install '{package}>=")
    assert found.is_broken is is_broken
    assert doctor(DOMAINS) == int(is_broken)


def test_an_old_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(name: str) -> str:
        return "1.0" if name == "lightning" else version(name)

    monkeypatch.setattr(core.doctor, "version", old)
    (found,) = [finding for finding in libraries() if finding.is_broken]
    assert (found.found, found.to_do[:25]) == (
        "lightning 1.0 is too old",
        "pip install 'lightning>=2",
    )


def test_an_optional_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", {"git": "/bin/git"}.get)
    assert program("git", "x").to_do == ""
    lacking = program("ffmpeg", "reads video")
    assert (lacking.found, lacking.to_do) == ("not found", "optional: reads video")
    assert not lacking.is_broken


@pytest.mark.parametrize("kind", ["folder", "PYTHONPATH", "file"])
def test_a_shadow_is_broken(tmp_path: Path, kind: str) -> None:
    environment = {}
    if kind == "file":
        shadow = tmp_path / "core.py"
        shadow.touch()
    else:
        shadow = fake_package(tmp_path / "theirs", "core")
    cwd = shadow.parent
    if kind == "PYTHONPATH":
        environment = {"PYTHONPATH": str(cwd)}
        cwd = tmp_path
    found = from_a_command(cwd, **environment)
    assert found.returncode == 1, found.stdout + found.stderr
    (line,) = [line for line in found.stdout.splitlines() if "hides ours" in line]
    assert line.split()[:3] == ["broken", "core", str(shadow)]
    assert "rename that one" in line
    assert "broken: core\n" in found.stdout


def test_a_folder_that_python_passes_over_is_no_shadow(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()  # no __init__.py: ours, further down the path, wins
    found = from_a_command(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr


def test_two_distributions_with_one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    writers = {"core": ["consilience", "corelib"]}
    monkeypatch.setattr(core.doctor, "packages_distributions", lambda: writers)
    finding = whose("core")
    assert finding.is_broken
    assert "corelib" in finding.found
    assert finding.to_do.startswith("pip uninstall corelib")
    assert not whose("recsys").is_broken
