"""Every reference case against the function that its adapter calls.

`pytest tests/goldens --goldens DIR` runs the same adapters on the cases of another folder.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.goldens.case import ADAPTERS, Arrays, Case, adapters, case_files

HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden" in metafunc.fixturenames:
        files = case_files(metafunc.config.getoption("--goldens"))
        metafunc.parametrize("golden", files, ids=[f"{p.parent.name}/{p.stem}" for p in files])


def test_golden(golden: Path) -> None:
    case = Case.read(golden)
    adapter = adapters(case.slug).get(case.name)
    assert adapter is not None, f"no function {case.name} in {ADAPTERS / case.slug}.py"
    case.check(adapter)


def test_the_folder_holds_cases(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--goldens")
    assert case_files(folder), f"no <slug>/<case>.json with .npz below {folder}"
    lonely = [
        path
        for path in folder.glob("*/*")
        if path.suffix in {".json", ".npz"}
        and not all(path.with_suffix(s).exists() for s in (".json", ".npz"))
    ]
    assert not lonely, f"json without npz, or npz without json: {lonely}"


def test_every_adapter_has_its_case() -> None:
    cases = {(path.parent.name, path.stem) for path in case_files(HERE)}
    written = {(p.stem, name) for p in ADAPTERS.glob("*.py") for name in adapters(p.stem)}
    assert written <= cases, f"adapters without a case: {sorted(written - cases)}"


def _case() -> Case:
    return Case(
        slug="made_up",
        name="double",
        params={"factor": 2},
        inputs={"x": np.arange(3.0)},
        expected={
            "out_y": np.array([0.0, 2.0, 4.0]),
            "out_finite": np.array([1.0, np.nan, np.inf]),
            "out_rank": np.array([2, 1, 0]),
        },
        rtol=1e-6,
        atol=1e-9,
    )


def _double(inputs: Arrays, params: dict[str, int]) -> Arrays:
    inputs["x"] *= params.pop("factor")
    return {
        "out_y": inputs["x"],
        "out_finite": np.array([1.0, np.nan, np.inf]),
        "out_rank": np.array([2, 1, 0]),
    }


def test_an_adapter_sees_copies_of_the_inputs_only() -> None:
    case = _case()
    seen: list[Arrays] = []
    case.check(lambda inputs, params: seen.append(inputs) or _double(inputs, params))
    assert set(seen[0]) == {"x"}
    np.testing.assert_array_equal(case.inputs["x"], np.arange(3.0))
    assert case.params == {"factor": 2}


@pytest.mark.parametrize("name", ["out_y", "out_finite", "out_rank"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_changed_number_fails(name: str, index: int) -> None:
    case = _case()
    case.expected[name][index] = case.expected[name][index] * 1.0001 + 1
    if name == "out_finite":
        case.expected[name] = np.where(np.arange(3) == index, -7.0, _case().expected[name])
    with pytest.raises(AssertionError, match=name):
        case.check(_double)


def test_names_and_shapes_must_match() -> None:
    case = _case()
    right = _double({"x": np.arange(3.0)}, {"factor": 2})
    case.compare(right)
    with pytest.raises(AssertionError, match="lacks"):
        case.compare({k: v for k, v in right.items() if k != "out_y"})
    with pytest.raises(AssertionError, match="unknown"):
        case.compare(right | {"out_more": np.zeros(1)})
    with pytest.raises(AssertionError, match="shape"):
        case.compare(right | {"out_y": right["out_y"][None]})


def _pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    # Names these two alone, so that the child run does not start children of its own.
    tests = [f"{__file__}::{name}" for name in ("test_golden", "test_the_folder_holds_cases")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--goldens", str(folder)]
    return subprocess.run(
        command + tests, cwd=HERE.parents[1], capture_output=True, text=True, timeout=300
    )


def test_another_folder_of_cases(tmp_path: Path) -> None:
    assert _pytest(tmp_path).returncode != 0, "a folder without cases must fail"

    copied = tmp_path / "core_losses"
    copied.mkdir()
    for suffix in (".json", ".npz"):
        shutil.copy(HERE / "core_losses" / f"non_contrastive{suffix}", copied)
    run = _pytest(tmp_path)
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout

    archive = copied / "non_contrastive.npz"
    with np.load(archive) as read:
        arrays = dict(read)
    arrays["grad_a_vicreg"][2, 3] *= 1.001
    np.savez(archive, **arrays)
    run = _pytest(tmp_path)
    assert run.returncode != 0
    assert "core_losses/non_contrastive grad_a_vicreg" in run.stdout
