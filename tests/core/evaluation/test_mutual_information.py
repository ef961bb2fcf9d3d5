import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from core.evaluation.mutual_information import corrected_mutual_information, mutual_information


@pytest.fixture
def codes() -> torch.Tensor:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 300)
    b = np.where(rng.random(300) < 0.7, 10 * a - 7, rng.integers(-3, 3, 300))
    return torch.from_numpy(np.stack([a, b, rng.integers(0, 4, 300)], 1))


def test_it_is_that_of_scikit_learn(codes):
    information = mutual_information(codes)
    for a in range(3):
        for b in range(3):
            expected = mutual_info_score(codes[:, a].numpy(), codes[:, b].numpy())
            assert information[a, b].item() == pytest.approx(expected, abs=1e-12)


def test_it_does_not_depend_on_names_or_order(codes):
    renamed = (codes * 7_919 + 13) * torch.tensor([1, -1, 10**6])
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mutual_information(renamed[order]), mutual_information(codes))


def test_correction_takes_away_what_many_values_make():
    rng = np.random.default_rng(1)
    n = 500
    signal = rng.integers(0, 4, n)
    number = np.arange(n)
    codes = torch.from_numpy(np.stack([signal, signal // 2, rng.integers(0, 60, n), number], 1))
    plain = mutual_information(codes)
    corrected = corrected_mutual_information(codes, torch.Generator().manual_seed(0))
    # The number of the row tells all about every column, in the plain estimate.
    assert plain[3, 0].item() == pytest.approx(plain[0, 0].item())
    assert plain[3, 0] > plain[0, 1]
    assert corrected[3, :3].abs().max() < 1e-9
    assert plain[0, 2] > 0.1
    assert abs(corrected[0, 2]) < 0.05
    assert corrected[0, 1].item() == pytest.approx(math.log(2), abs=0.03)
    torch.testing.assert_close(corrected.diagonal(), plain.diagonal())
