import pytest
import torch

from core.losses import coding_rate, simdino


def test_the_rate_is_half_the_log_determinant() -> None:
    z = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64))
    matrix = torch.eye(4, dtype=torch.float64) + 4 / (6 * 0.2) * z.T @ z
    expected = (4 + 6) / (4 * 6) * torch.linalg.slogdet(matrix).logabsdet / 2
    torch.testing.assert_close(coding_rate(z, 0.2), expected)


def test_spread_rows_have_the_higher_rate() -> None:
    collapsed = torch.nn.functional.normalize(torch.ones(8, 4))
    spread = torch.eye(4).repeat(2, 1)
    assert coding_rate(spread) > coding_rate(collapsed)


def test_equal_views_leave_the_rate() -> None:
    z = torch.randn(6, 4, dtype=torch.float64)
    views = z.repeat(2, 1, 1)
    rate = coding_rate(torch.nn.functional.normalize(z))
    assert simdino(views, views, expansion_weight=0.0).item() == pytest.approx(-1)
    torch.testing.assert_close(simdino(views, views), -1 - rate)
    torch.testing.assert_close(simdino(views, views, expanded="mean"), -1 - rate)
