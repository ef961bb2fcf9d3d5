import pytest
import torch

from core.losses import vicreg


def test_collapse_costs_the_hinge_alone() -> None:
    x = torch.ones(6, 4, dtype=torch.float64)
    # Both views: relu(1 - sqrt(1e-4)) = 0.99, halved and summed.
    assert vicreg(x, x).item() == pytest.approx(25 * 0.99, rel=1e-9)


def test_each_term_alone() -> None:
    a, b = torch.randn(2, 8, 3, dtype=torch.float64) / 3
    off = dict.fromkeys(["invariance_weight", "variance_weight", "covariance_weight"], 0.0)
    torch.testing.assert_close(
        vicreg(a, b, **off | {"invariance_weight": 2.0}), 2 * (a - b).square().mean()
    )
    hinges = sum((1 - (x.var(0) + 1e-4).sqrt()).relu().mean() for x in (a, b))
    torch.testing.assert_close(vicreg(a, b, **off | {"variance_weight": 2.0}), hinges)
    covariances = [torch.cov(x.T) for x in (a, b)]
    outside = sum((c - c.diag().diag()).square().sum() / 3 for c in covariances)
    torch.testing.assert_close(vicreg(a, b, **off | {"covariance_weight": 2.0}), 2 * outside)


def test_one_row_is_finite() -> None:
    x = torch.randn(1, 3, requires_grad=True)
    vicreg(x, x.detach()).backward()
    assert torch.isfinite(x.grad).all()
