"""One reference case: `<slug>/<case>.json` says what it is, `<case>.npz` holds its numbers.

The adapter `adapters/<slug>.py::<case>` gets the inputs and the params, never the expected arrays.
"""

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Adapter = Callable[[Arrays, dict[str, Any]], Arrays]
ADAPTERS = Path(__file__).parent / "adapters"
EXPECTED = ("out_", "grad_")


@dataclass(frozen=True)
class Case:
    """Inputs, params, expected arrays and the tolerance they are compared with."""

    slug: str
    name: str
    params: dict[str, Any]
    inputs: Arrays
    expected: Arrays
    rtol: float
    atol: float

    @classmethod
    def read(cls, path: Path) -> "Case":
        """Reads the case of the JSON file `path` and of the npz beside it."""
        about = json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return cls(
            slug=path.parent.name,
            name=path.stem,
            params=about["params"],
            inputs={k: v for k, v in arrays.items() if not k.startswith(EXPECTED)},
            expected={k: v for k, v in arrays.items() if k.startswith(EXPECTED)},
            rtol=float(about["rtol"]),
            atol=float(about["atol"]),
        )

    def check(self, adapter: Adapter) -> None:
        """Runs the adapter on copies of the inputs and compares all that it returns."""
        inputs = {name: array.copy() for name, array in self.inputs.items()}
        self.compare(adapter(inputs, copy.deepcopy(self.params)))

    def compare(self, actual: Mapping[str, np.ndarray]) -> None:
        """Raises AssertionError unless names, shapes, finite pattern and values agree."""
        where = f"{self.slug}/{self.name}"
        assert self.expected, f"{where} expects nothing: no out_* or grad_* array"
        missing, unknown = (
            self.expected.keys() - actual.keys(),
            actual.keys() - self.expected.keys(),
        )
        assert not missing, f"{where}: the adapter lacks {sorted(missing)}"
        assert not unknown, f"{where}: the adapter returns unknown {sorted(unknown)}"
        for name, expected in self.expected.items():
            found = np.asarray(actual[name])
            assert found.shape == expected.shape, (
                f"{where} {name}: shape {found.shape}, expected {expected.shape}"
            )
            if expected.dtype.kind in "fc":
                np.testing.assert_allclose(
                    found, expected, rtol=self.rtol, atol=self.atol, err_msg=f"{where} {name}"
                )
            else:
                np.testing.assert_array_equal(found, expected, err_msg=f"{where} {name}")


def case_files(folder: Path) -> list[Path]:
    """All `<slug>/<case>.json` below `folder`, in the order of their names."""
    return sorted(path for path in folder.glob("*/*.json") if path.with_suffix(".npz").exists())


def adapters(slug: str) -> dict[str, Adapter]:
    """The public functions that `adapters/<slug>.py` defines; none without such a file."""
    path = ADAPTERS / f"{slug}.py"
    if not path.exists():
        return {}
    # A name from which a child process can import the module again.
    module = importlib.import_module(f"tests.goldens.adapters.{slug}")
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    }
