"""Features of volumes and reports in which it is known where each finding lies."""

from pathlib import Path

import numpy as np

N_FINDINGS, DIM, REGIONS, IN_A_CASE = 40, 32, 27, 3
_AMPLITUDE, _TEXT_NOISE = 1.5, 0.3


def write_planted_findings(
    path: str | Path, seed: int = 0, n_train: int = 1024, n_valid: int = 200, n_test: int = 200
) -> None:
    """Writes `features.npz`, as a frozen encoder of volumes and one of texts would leave it.

    Each of 40 findings has a random prototype of 32 numbers to be seen and one to be read. A
    volume, `regions` (27, 32), is standard normal noise, and 1.5 times the seen prototypes of
    three findings are added, each in another region (`places`). Its report, `units` (3, 32), is the
    read prototypes of these findings in any order, with noise of deviation 0.3.

    Args:
        path: the folder.
        seed: of everything.
        n_train: pairs.
        n_valid: pairs.
        n_test: pairs.
    """
    random = np.random.default_rng(seed)
    seen, read = random.standard_normal((2, N_FINDINGS, DIM))
    n = n_train + n_valid + n_test
    findings = random.random((n, N_FINDINGS)).argsort(1)[:, :IN_A_CASE]
    places = random.random((n, REGIONS)).argsort(1)[:, :IN_A_CASE]
    regions = random.standard_normal((n, REGIONS, DIM))
    regions[np.arange(n)[:, None], places] += _AMPLITUDE * seen[findings]
    units = read[findings] + _TEXT_NOISE * random.standard_normal((n, IN_A_CASE, DIM))
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "features.npz",
        regions=regions.astype(np.float32),
        units=units.astype(np.float32),
        places=places,
        split=np.repeat([0, 1, 2], [n_train, n_valid, n_test]),
        id=np.char.add("case", np.arange(n).astype(str)),
    )
