"""Binary vectors of which two tell the third, and one alone tells nothing (Symile, section 4.1)."""

from pathlib import Path

import numpy as np


def write_xor(
    path: str | Path,
    p_hat: float = 1.0,
    dim: int = 5,
    n_train: int = 10_000,
    n_valid: int = 1_000,
    n_test: int = 5_000,
    seed: int = 0,
) -> None:
    """Writes `xor.npz` with the modalities a, b and c, float32 (n, dim) of 0 and 1.

    a and b are fair coins; c is a xor b with probability `p_hat`, for the sample as a whole, and a
    copy of a otherwise. With 1 all pairs of modalities are independent; with 0 b is of both others.

    Args:
        path: the folder.
        p_hat: probability, in [0, 1].
        dim: numbers in a vector.
        n_train: training samples.
        n_valid: validation samples.
        n_test: test samples.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    n = n_train + n_valid + n_test
    a, b = rng.integers(0, 2, (2, n, dim))
    c = np.where(rng.random((n, 1)) < p_hat, a ^ b, a)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "xor.npz",
        a=a.astype(np.float32),
        b=b.astype(np.float32),
        c=c.astype(np.float32),
        split=np.repeat([0, 1, 2], [n_train, n_valid, n_test]),
    )
