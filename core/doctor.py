"""`consilience doctor`: what this machine has, what is missing, and what to do about it."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
    version,
)
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement

_NAME = "consilience"
_GIB = 1024**3
_PROGRAMS = {
    "git": "records which version of the code a run used",
    "nvidia-smi": "comes with NVIDIA's driver; without it there is no CUDA",
    "ffmpeg": "reads compressed audio and video that soundfile cannot",
    "fluidsynth": "renders MIDI to audio",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        what: was looked at.
        found: what is there.
        to_do: what to do about it; empty if all is well.
        is_broken: whether commands will fail because of it.
    """

    what: str
    found: str
    to_do: str = ""
    is_broken: bool = False


def doctor(domains: Sequence[str]) -> int:
    """Prints what was found as a table; returns 1 if anything is broken, else 0."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "found", "to do", box=SIMPLE_HEAD)
    findings = [
        *machine(),
        *libraries(),
        *(program(name, use) for name, use in _PROGRAMS.items()),
        *(whose(package) for package in ("core", *domains)),
    ]
    for finding in findings:
        mark, style = ("broken", "bold red") if finding.is_broken else ("ok", "green")
        if finding.to_do and not finding.is_broken:
            mark, style = "-", "dim"
        table.add_row(Text(mark, style), *map(Text, (finding.what, finding.found, finding.to_do)))
    console = Console()
    console.print(table)
    broken = [finding.what for finding in findings if finding.is_broken]
    console.print(f"broken: {', '.join(broken)}" if broken else "nothing is broken", style="bold")
    return 1 if broken else 0


def machine() -> list[Finding]:
    """Python, torch and its devices, cores, memory and disk."""
    import psutil

    python = platform.python_version()
    right = (3, 11) <= sys.version_info[:2] < (3, 13)
    to_do = "" if right else "use Python 3.11 or 3.12"
    findings = [Finding("Python", f"{python} in {sys.prefix}", to_do, not right)]
    findings += _torch()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(Path.cwd()))
    findings += [
        Finding("CPU", f"{usable} of {os.cpu_count()} cores usable"),
        _space("memory", memory.available, memory.total, "close other programs"),
        _space("disk of this folder", disk.free, disk.total, "checkpoints need room: delete runs"),
    ]
    return findings


def _space(what: str, free: int, total: int, to_do: str) -> Finding:
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    return Finding(what, found, to_do if free < _GIB else "")


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        found = f"cannot be imported: {str(error).splitlines()[0]}"
        return [
            Finding("torch", found, "install it again: pip install --force-reinstall torch", True)
        ]
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    findings = [Finding("torch", f"{torch.__version__}, built {built}")]
    if not torch.cuda.is_available():
        to_do = "methods run on the CPU"
        if shutil.which("nvidia-smi"):
            to_do += "; there is a driver, so this torch and it do not fit together"
        return [*findings, Finding("CUDA", "no device", to_do)]
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found = f"{device.name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
        findings.append(Finding(f"CUDA device {number}", found))
    return findings


def libraries() -> list[Finding]:
    """The packages that the distribution asks for, and those of its extras.

    A missing or too old package of its own is broken; one of an extra is only not there.
    """
    ours = _ours()
    if ours is None:
        to_do = f"pip install --editable {Path(__file__).parents[1]}"
        return [Finding(_NAME, "is not installed in this Python", to_do)]
    findings = [Finding(_NAME, ours.version)]
    asked: dict[str, list[Requirement]] = {"": []}
    for line in ours.requires or []:
        requirement = Requirement(line)
        if requirement.name == _NAME:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            asked[""].append(requirement)
            continue
        for extra in ours.metadata.get_all("Provides-Extra") or []:
            if extra not in ("all", "dev") and requirement.marker.evaluate({"extra": extra}):
                asked.setdefault(extra, []).append(requirement)
    for extra, requirements in asked.items():
        findings += _group(f"extra {extra}" if extra else "packages", requirements, bool(extra))
    return findings


def _group(what: str, requirements: Sequence[Requirement], is_optional: bool) -> list[Finding]:
    """One line for all that is there, and one for each package that is not."""
    there, findings = [], []
    for requirement in requirements:
        to_do = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = f"{requirement.name} is not installed"
        else:
            if requirement.specifier.contains(found, prereleases=True):
                there.append(f"{requirement.name} {found}")
                continue
            found = f"{requirement.name} {found} is too old"
        findings.append(Finding(what, found, to_do, is_broken=not is_optional))
    return ([Finding(what, ", ".join(there))] if there else []) + findings


def program(name: str, use: str) -> Finding:
    """An optional program, and what it is for where it is missing."""
    path = shutil.which(name)
    return Finding(name, path) if path else Finding(name, "not found", f"optional: {use}")


def whose(package: str) -> Finding:
    """Whether `import package` in this folder finds ours, or something that hides it."""
    others = {name for name in packages_distributions().get(package, []) if name != _NAME}
    if others:
        names = " and ".join(sorted(others))
        to_do = f"pip uninstall {' '.join(sorted(others))}, then install {_NAME} again"
        return Finding(package, f"also written by {names}", to_do, is_broken=True)
    ours, found = _home() / package, _found_here(package)
    if found is None:
        return Finding(package, "not found", f"install {_NAME} again", is_broken=True)
    if found == ours:
        return Finding(package, f"ours, in {ours.parent}")
    to_do = "rename that one, or work in another folder and without it on PYTHONPATH"
    return Finding(package, f"{found} hides ours in {ours.parent}", to_do, is_broken=True)


def _ours() -> Distribution | None:
    try:
        return distribution(_NAME)
    except PackageNotFoundError:
        return None


def _home() -> Path:
    """The folder that holds the six packages: where they were installed, or of the source."""
    ours = _ours()
    if ours is None:
        return Path(__file__).resolve().parents[1]
    origin = json.loads(ours.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(url2pathname(unquote(urlparse(origin["url"]).path))).resolve()
    return Path(str(ours.locate_file(""))).resolve()


def _found_here(package: str) -> Path | None:
    """Where a Python or a notebook that starts in this folder finds the package.

    This process may look elsewhere: a command does not look into the current folder.
    """
    code = (
        "import importlib.util as u, sys; s = u.find_spec(sys.argv[1]);"
        "print(s.origin or list(s.submodule_search_locations)[0] if s else '')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, package], capture_output=True, text=True, check=False
    )
    origin = run.stdout.strip()
    if not origin:
        return None
    path = Path(origin).resolve()
    return path.parent if path.name == "__init__.py" else path
