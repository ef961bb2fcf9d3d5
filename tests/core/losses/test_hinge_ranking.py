import torch

from core.losses import hinge_ranking

UNIT = torch.eye(3, dtype=torch.float64)


def test_only_the_anchors_are_ranked_for():
    anchors = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # Anchor 0 sees 1 and 0; anchor 1 sees its own at 0.6 and the other's at 0.8.
    expected = (max(0, 0.6 - 1 + 0) + max(0, 0.6 - 0.6 + 0.8)) / 2
    torch.testing.assert_close(hinge_ranking(anchors, candidates), torch.tensor(expected))
    assert (hinge_ranking(candidates, anchors) - expected).abs() > 0.1


def test_the_pair_itself_is_no_wrong_answer():
    # The diagonal would add the margin for every pair.
    assert hinge_ranking(UNIT, UNIT, margin=0.9) == 0
    torch.testing.assert_close(
        hinge_ranking(UNIT, UNIT, margin=1.5), torch.tensor(0.5, dtype=torch.float64)
    )


def test_a_collapsed_embedding_costs_the_margin():
    torch.testing.assert_close(hinge_ranking(torch.ones(5, 3), torch.ones(5, 3)), torch.tensor(0.6))


def test_a_single_pair_costs_nothing_and_has_a_gradient():
    a = torch.randn(1, 3, requires_grad=True)
    hinge_ranking(a, torch.randn(1, 3)).backward()
    assert torch.equal(a.grad, torch.zeros(1, 3))
