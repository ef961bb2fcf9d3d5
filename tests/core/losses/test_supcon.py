import torch

from core.losses import nt_xent, supcon


def test_classes_of_one_sample_are_nt_xent() -> None:
    views = torch.randn(2, 5, 3)
    loss = supcon(views, torch.arange(5), 0.3, base_temperature=0.3)
    torch.testing.assert_close(loss, nt_xent(*views, 0.3))


def test_the_definition_with_three_views() -> None:
    views = torch.nn.functional.normalize(torch.randn(3, 4, 5, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 0, 2])
    z, y = views.flatten(0, 1), labels.repeat(3)
    terms = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        log_share = (z[others] @ z[i] / 0.2).log_softmax(0)
        terms.append(-log_share[y[others] == y[i]].mean())
    terms = torch.stack(terms) * 0.2 / 0.07
    torch.testing.assert_close(supcon(views, labels, 0.2), terms.mean())
    first = supcon(views, labels, 0.2, anchors="first")
    torch.testing.assert_close(first, terms[:4].mean())


def test_an_anchor_without_positives_counts_as_zero() -> None:
    one_view = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    alone = supcon(one_view, torch.tensor([0, 1, 2]))
    assert alone.item() == 0
    pair_and_single = supcon(one_view, torch.tensor([0, 0, 1]))
    pair_and_single.backward()
    assert torch.isfinite(one_view.grad).all()
    z = torch.nn.functional.normalize(one_view.detach()[0], dim=1)
    log_share = (z @ z.T / 0.07).fill_diagonal_(-torch.inf).log_softmax(1)
    expected = -(log_share[0, 1] + log_share[1, 0]) / 3
    torch.testing.assert_close(pair_and_single.detach(), expected)


def test_a_single_row_is_finite() -> None:
    x = torch.randn(1, 1, 4, requires_grad=True)
    supcon(x, torch.tensor([0])).backward()
    assert torch.isfinite(x.grad).all()
