import torch

from core.losses import debiased, hard_negative, nt_xent


def test_nothing_hard_and_nothing_biased_is_nt_xent() -> None:
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(debiased(a, b, 0.5, tau_plus=0.0), nt_xent(a, b, 0.5))
    torch.testing.assert_close(hard_negative(a, b, 0.5, beta=0.0), debiased(a, b, 0.5))


def test_hard_negatives_weigh_more() -> None:
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    values = [hard_negative(a, b, beta=beta, tau_plus=0.0).item() for beta in (0.0, 0.5, 1.0, 2.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_the_floor_bounds_the_correction() -> None:
    a = torch.randn(4, 8, dtype=torch.float64)
    # Opposite negatives and a large prior would make the corrected sum negative.
    a = torch.cat([a[:1], -a[:1]])
    loss = debiased(a, a, 0.5, tau_plus=0.4)
    pos, floor = torch.tensor(2.0).exp(), 2 * torch.tensor(-2.0).exp()
    torch.testing.assert_close(loss, -(pos / (pos + floor)).log().double(), rtol=1e-6, atol=0)
