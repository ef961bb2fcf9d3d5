from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.data.samples import Samples
from core.data.table import load_table
from core.data.xor import write_xor


def written(folder: Path, p_hat: float, **sizes: int) -> Samples:
    write_xor(folder, p_hat=p_hat, **{"n_train": 3000, "n_valid": 10, "n_test": 20} | sizes)
    return load_table(folder)


def share(of: Tensor) -> float:
    return of.float().mean().item()


@pytest.mark.parametrize("p_hat", [0.0, 0.5, 1.0])
def test_c_is_a_xor_b_for_a_share_of_the_samples(tmp_path: Path, p_hat: float) -> None:
    data = written(tmp_path, p_hat)
    a, b, c = (data.inputs[name].bool() for name in "abc")
    assert a.shape == b.shape == c.shape == (3030, 5)
    is_xor, is_copy = (c == (a ^ b)).all(1), (c == a).all(1)
    # The coin is one of the sample, not of each digit; for b = 0 both hold.
    assert (is_xor | is_copy).all()
    both = is_xor & is_copy
    assert torch.equal(both, ~b.any(1))
    assert share(is_xor[~both]) == pytest.approx(p_hat, abs=0.05 if p_hat == 0.5 else 0)


def test_no_pair_tells_anything_at_one(tmp_path: Path) -> None:
    data = written(tmp_path, 1.0)
    a, b, c = (data.inputs[name] for name in "abc")
    for one, two in ((a, b), (a, c), (b, c)):
        assert torch.corrcoef(torch.cat([one, two], 1).T)[:5, 5:].abs().max() < 0.08
    for x in (a, b, c):
        assert share(x) == pytest.approx(0.5, abs=0.03)


def test_sizes_and_seed(tmp_path: Path) -> None:
    data = written(tmp_path, 1.0, dim=3, n_train=7)
    assert {split: len(rows) for split, rows in data.splits.items()} == {
        "train": 7,
        "valid": 10,
        "test": 20,
    }
    assert data.shapes == {"a": [3], "b": [3], "c": [3]}
    assert written(tmp_path, 1.0, dim=3, n_train=7).digest() == data.digest()
    assert written(tmp_path, 1.0, dim=3, n_train=7, seed=1).digest() != data.digest()
