"""The wheel: what is in it, and that it works where nothing of the source is in sight."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"core", "medical", "remote_sensing", "audio_music", "recsys", "har"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    build = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=120)
    assert build.returncode == 0, build.stdout + build.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are in an environment with the wheel and this one's libraries."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    base = {"base": str(folder), "platbase": str(folder)}
    pip = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps"]
    install = subprocess.run([*pip, "--no-index", str(wheel)], capture_output=True, text=True)
    assert install.returncode == 0, install.stdout + install.stderr
    # A folder named in a .pth is searched, but the .pth files in it are not read: so the editable
    # install of this environment, which is one, stays out of sight.
    installed = Path(sysconfig.get_path("purelib", "venv", base))
    (installed / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Path(sysconfig.get_path("scripts", "venv", base))


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=variables | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_holds_the_six_packages_and_their_configs(wheel: Path) -> None:
    names = [Path(name) for name in ZipFile(wheel).namelist()]
    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == PACKAGES
    for package in PACKAGES:
        configs = {path.relative_to(ROOT) for path in (ROOT / package / "conf").rglob("*.yaml")}
        modules = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert configs, f"{package} has no config at all"
        assert configs | modules <= set(names)
    assert not [name for name in names if "tests" in name.parts or name.suffix == ".pyc"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("recsys systems", "bm3"),
        ("recsys --help", "data demo"),
        ("har systems", "har_hard_negatives"),
        ("medical systems", "velvet_med"),
        ("remote-sensing systems", "croma"),
        ("audio-music systems", "audio_sheet"),
        ("consilience systems", "lightgcn"),
    ],
)
def test_commands_answer(programs: Path, tmp_path: Path, command: str, expected: str) -> None:
    program, *arguments = command.split()
    found = run(programs / program, *arguments, cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert expected in found.stdout


def test_the_doctor_finds_the_installed_packages(programs: Path, tmp_path: Path) -> None:
    found = run(programs / "consilience", "doctor", cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    ours = [line for line in found.stdout.splitlines() if f"ours, in {programs.parent}" in line]
    assert {line.split()[1] for line in ours} == PACKAGES


def test_a_config_is_composed_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    found = run(programs / "recsys", "train", "system=bm3", "--cfg", "job", cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "_target_: recsys.systems.bm3.BM3" in found.stdout
