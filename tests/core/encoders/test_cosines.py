import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.encoders import cosines
from core.encoders.cosines import Cosines

N, N_BAGS = 40, 30


@pytest.fixture(params=["kept", "in tiles", "not kept"])
def places(request, monkeypatch):
    """The matrix as a whole, in tiles that do not fill it, and never held."""
    if request.param == "in tiles":
        monkeypatch.setattr(cosines, "_TILE", 7)
        monkeypatch.setattr(cosines, "_CPU_MEANS", 4)
    if request.param == "not kept":
        monkeypatch.setattr(cosines, "_KEPT", N * N - 1)
    return request.param


def _features(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # Rows of unequal length: a mean is not the mean of the directions.
    lengths = torch.linspace(0.1, 5, N, dtype=dtype)[:, None]
    return torch.randn(N, 6, generator=generator, dtype=dtype) * lengths


def _bags() -> tuple[Tensor, Tensor]:
    taken = torch.rand(N_BAGS, N, generator=torch.Generator().manual_seed(1)) < 0.15
    taken[4] = False
    bags, rows = taken.nonzero(as_tuple=True)
    shuffled = torch.randperm(len(bags), generator=torch.Generator().manual_seed(2))
    return bags[shuffled], rows[shuffled]


def test_nearest_rows_are_those_of_the_dense_cosines(places):
    found = Cosines(_features())
    assert (found.matrix is None) == (places == "not kept")
    values, ids = found.nearest(5)
    unit = normalize(_features(), dim=1)
    expected = (unit @ unit.T).topk(5)
    torch.testing.assert_close(values, expected.values)
    assert torch.equal(ids, expected.indices)
    assert torch.equal(ids[:, 0], torch.arange(N))


@pytest.mark.parametrize("k", [1, 6, N_BAGS])
def test_nearest_means_are_those_of_the_dense_means(places, k):
    bags, rows = _bags()
    values, ids = Cosines(_features()).nearest_means(bags, rows, N_BAGS, k)
    means = torch.stack([_features()[rows[bags == bag]].sum(0) for bag in range(N_BAGS)])
    unit = normalize(means, dim=1)
    products = unit @ unit.T
    torch.testing.assert_close(values, products.topk(k).values)
    torch.testing.assert_close(products.gather(1, ids), values)
    assert all(len(set(row.tolist())) == k for row in ids)
    full = torch.arange(N_BAGS) != 4
    assert torch.equal(ids[full, 0], torch.arange(N_BAGS)[full])


def test_an_empty_bag_and_a_row_of_zeros_have_cosine_zero(places):
    bags, rows = _bags()
    values, _ = Cosines(_features()).nearest_means(bags, rows, N_BAGS, 3)
    assert values[4].tolist() == [0, 0, 0]
    features = _features()
    features[7] = 0
    values, _ = Cosines(features).nearest(3)
    assert values[7].tolist() == [0, 0, 0]
    assert values.isfinite().all()


def test_float32_is_close_to_float64(places):
    bags, rows = _bags()
    low, _ = Cosines(_features().float()).nearest_means(bags, rows, N_BAGS, 6)
    high, _ = Cosines(_features()).nearest_means(bags, rows, N_BAGS, 6)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), high, rtol=0, atol=2e-6)


def test_an_impossible_k_is_refused():
    with pytest.raises(DataError, match="41 neighbours"):
        Cosines(_features()).nearest(N + 1)
    with pytest.raises(DataError, match="31 neighbours"):
        Cosines(_features()).nearest_means(*_bags(), N_BAGS, N_BAGS + 1)
