import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from core.data.checks import DataError
from core.evaluation.similarity import linear_cka, mutual_knn


def _rows(n=40, dim=6, seed=0, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _related():
    x = _rows()
    return x + 3, x @ _rows(6, 9, seed=1) + _rows(40, 9, seed=2)


def _cka_of_kernels(x, y):
    """The definition, with the n x n kernels."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return np.trace(k @ centring @ l @ centring) / np.sqrt(
        np.trace(k @ centring @ k @ centring) * np.trace(l @ centring @ l @ centring)
    )


def _unbiased_hsic_of_kernels(k, l):  # noqa: E741
    """Song et al. 2012, eq. 5, as printed."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def test_cka_is_that_of_the_kernels():
    x, y = _related()
    expected = _cka_of_kernels(x.numpy(), y.numpy())
    assert linear_cka(x, y).item() == pytest.approx(expected, rel=1e-10)


def test_debiased_cka_is_that_of_the_kernels():
    x, y = _related()
    k, l = (x @ x.T).numpy(), (y @ y.T).numpy()  # noqa: E741
    hsic = _unbiased_hsic_of_kernels
    expected = hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))
    assert linear_cka(x, y, debiased=True).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_invariances(debiased):
    x, y = _related()
    value = linear_cka(x, y, debiased)
    turn = torch.linalg.qr(_rows(9, 9, seed=3)).Q
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(linear_cka(x, 4 * y @ turn - 2, debiased), value)
    torch.testing.assert_close(linear_cka(x[order], y[order], debiased), value)
    torch.testing.assert_close(linear_cka(y, x, debiased), value)
    assert linear_cka(x, x @ torch.linalg.qr(_rows(6, 6)).Q, debiased).item() == pytest.approx(1)
    assert 0.1 < value < 0.99


def test_only_the_debiased_cka_of_unrelated_wide_features_is_small():
    pairs = [(_rows(50, 500, seed=i), _rows(50, 500, seed=i + 100)) for i in range(20)]
    plain = torch.stack([linear_cka(*pair) for pair in pairs])
    debiased = torch.stack([linear_cka(*pair, debiased=True) for pair in pairs])
    assert plain.min() > 0.85
    assert debiased.mean().abs() < 0.02
    assert linear_cka(torch.full((7, 3), 0.1), _rows(7, 3)).isnan()


@pytest.mark.parametrize("k", [1, 5, 39])
@pytest.mark.parametrize("block_rows", [None, 7])
def test_mutual_neighbours_are_those_of_scikit_learn(k, block_rows):
    x, y = _related()
    peer = NearestNeighbors(n_neighbors=k, metric="cosine")
    first, second = (peer.fit(z).kneighbors(return_distance=False) for z in (x, y))
    expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(first, second, strict=True)])
    assert mutual_knn(x, y, k, block_rows).item() == pytest.approx(expected)


def test_mutual_neighbours_of_the_same_and_of_unrelated_features():
    x = _rows(400, 8)
    assert mutual_knn(x, -3 * x).item() == 1
    # Twins have the cosine of a row with itself: each must find the other.
    twins = x[:20].repeat(2, 1)
    assert mutual_knn(twins, _rows(20, 3, seed=9).repeat(2, 1), k=1).item() == 1
    unrelated = mutual_knn(x, _rows(400, 8, seed=1))
    assert unrelated.item() == pytest.approx(10 / 399, abs=0.01)


def test_low_precision_is_measured_in_float32():
    x, y = (z.bfloat16() for z in _related())
    expected = linear_cka(x.double(), y.double()), mutual_knn(x.double(), y.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_cka(x, y), mutual_knn(x, y)
    for value, wanted in zip(found, expected, strict=True):
        assert value.item() == pytest.approx(wanted.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_cka(_rows(4), _rows(5)), "4 and 5 samples"),
        (lambda: linear_cka(_rows(3), _rows(3), debiased=True), "3 and 3 samples"),
        (lambda: mutual_knn(_rows(4), _rows(5)), "10 neighbours among 4 and 5"),
        (lambda: mutual_knn(_rows(4), _rows(4), k=4), "4 neighbours among 4"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(DataError, match=message):
        call()
