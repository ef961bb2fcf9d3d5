import math

import pytest
import torch
from torch.nn.functional import normalize

from core.evaluation.alignment import alignment, modality_gap, uniformity


def _rows(n=53, dim=4, seed=0, dtype=torch.float64):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_the_definition(alpha):
    x, y = _rows(), _rows(seed=1)
    expected = sum(
        torch.dist(a / a.norm(), b / b.norm()).item() ** alpha for a, b in zip(x, y, strict=True)
    )
    assert alignment(x, y, alpha).item() == pytest.approx(expected / 53)
    assert alignment(x, 5 * x, alpha).item() == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x, alpha).item() == pytest.approx(2**alpha)


@pytest.mark.parametrize("tile_pairs", [1, 50, 400, 53 * 53, None])
@pytest.mark.parametrize("t", [0.5, 2.0, 500.0])
def test_uniformity_is_that_of_all_pairs(t, tile_pairs):
    x = _rows()
    distances = torch.pdist(normalize(x))
    expected = (-t * distances.square()).logsumexp(0) - math.log(len(distances))
    found = uniformity(3 * x, t, tile_pairs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_uniformity_at_its_ends():
    same = _rows(1).expand(20, 4)
    assert uniformity(same.float()).item() == pytest.approx(0, abs=1e-5)
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item() == pytest.approx(-8)
    assert uniformity(_rows(1)).isnan()
    sphere = uniformity(_rows(2000, 8))
    assert uniformity(_rows(2000, 8) + 1) > sphere + 0.5


def test_uniformity_of_the_whole_sphere():
    # Mean of exp(-t |u - v|^2) over two points of the 2-sphere: (1 - exp(-4t)) / (4t).
    expected = math.log((1 - math.exp(-8)) / 8)
    assert uniformity(_rows(3000, 3), 2.0).item() == pytest.approx(expected, abs=0.02)


def test_gap_is_that_of_the_means():
    x, y = _rows(), _rows(31, seed=1) + 2
    expected = (normalize(x).mean(0) - normalize(y).mean(0)).square().sum().sqrt()
    torch.testing.assert_close(modality_gap(x, 7 * y), expected)
    assert modality_gap(x, x.flip(0)).item() == pytest.approx(0, abs=1e-12)
    one = torch.tensor([[1.0, 0]])
    assert modality_gap(one, -one).item() == pytest.approx(2)


def test_low_precision_is_measured_in_float32():
    x, y = _rows(dtype=torch.bfloat16), _rows(seed=1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [alignment(x, y), uniformity(x), modality_gap(x, y)]
    x, y = x.double(), y.double()
    for value, expected in zip(
        found, [alignment(x, y), uniformity(x), modality_gap(x, y)], strict=True
    ):
        assert value.dtype in (torch.float32, torch.float64)
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)
