import torch

from core.losses import barlow_twins


def test_decorrelated_equal_views_cost_nothing() -> None:
    # Columns of a Hadamard matrix: zero mean, unit variance, uncorrelated.
    x = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert barlow_twins(x, 5 * x + 3, eps=0.0).item() < 1e-12
    assert barlow_twins(x, -x, eps=0.0).item() == 12.0


def test_weight_of_the_off_diagonal() -> None:
    a, b = torch.randn(2, 8, 3, dtype=torch.float64)
    za, zb = ((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in (a, b))
    c = za.T @ zb / 8
    off = c.square().sum() - c.diagonal().square().sum()
    expected = (1 - c.diagonal()).square().sum() + 0.3 * off
    torch.testing.assert_close(barlow_twins(a, b, 0.3), expected)
