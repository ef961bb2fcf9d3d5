import torch

from core.losses import debiased, hard_negative, info_nce, nt_xent


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


def test_negatives_of_the_other_view_alone_make_it_info_nce() -> None:
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    plain = hard_negative(a, b, 0.1, beta=0.0, tau_plus=0.0, negatives="cross")
    torch.testing.assert_close(plain, info_nce(a, b, 0.1))
    harder = hard_negative(a, b, 0.1, beta=1.0, tau_plus=0.0, negatives="cross")
    assert harder > plain


def test_an_anchor_on_the_floor_gets_no_gradient_from_its_negatives() -> None:
    torch.manual_seed(0)
    a = torch.randn(4, 8, dtype=torch.float64)
    b = (a + 0.1 * torch.randn(4, 8, dtype=torch.float64)).requires_grad_()
    z = torch.nn.functional.normalize(a, dim=1)
    # With a prior near 1 the positive explains more than all that the negatives have.
    loss = hard_negative(z, b, 0.5, tau_plus=0.99, negatives="cross")
    pos = (z * torch.nn.functional.normalize(b, dim=1)).sum(1) / 0.5
    floor = 3 * torch.tensor(-1 / 0.5, dtype=torch.float64).exp()
    of_positives_alone = (1 + floor * (-pos).exp()).log().mean()
    torch.testing.assert_close(loss, of_positives_alone)
    (gradient,) = torch.autograd.grad(loss, b)
    (of_positives,) = torch.autograd.grad(of_positives_alone, b)
    torch.testing.assert_close(gradient, of_positives)
