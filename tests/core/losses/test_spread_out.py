import torch

from core.losses import spread_out


def test_it_is_the_mean_squared_cosine_of_different_rows():
    x = torch.randn(7, 4, dtype=torch.float64)
    unit = torch.nn.functional.normalize(x, dim=1)
    cosines = [unit[i] @ unit[j] for i in range(7) for j in range(7) if i != j]
    torch.testing.assert_close(spread_out(x), torch.stack(cosines).square().mean())
    torch.testing.assert_close(spread_out(3 * x), spread_out(x))


def test_orthogonal_rows_are_spread_and_equal_ones_are_not():
    assert spread_out(torch.eye(4)).abs() < 1e-7
    torch.testing.assert_close(spread_out(torch.ones(5, 3)), torch.tensor(1.0))


def test_fewer_than_two_rows_have_nothing_to_spread():
    for rows in (0, 1):
        x = torch.randn(rows, 3, requires_grad=True)
        loss = spread_out(x)
        loss.backward()
        assert loss.abs() < 1e-6
        assert torch.isfinite(x.grad).all()
