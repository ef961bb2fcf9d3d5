import math

import torch

from core.encoders.abmil import ABMIL


def _abmil() -> ABMIL:
    torch.manual_seed(0)
    return ABMIL(input_dim=6, dim=5, hidden=4).eval()


def test_equals_an_explicit_sum_over_instances() -> None:
    model = _abmil()
    bag = torch.randn(7, 6)
    instances = [model.embedding(instance) for instance in bag]
    scores = [
        (model.score.weight[0] * model.values(h).tanh() * model.gates(h).sigmoid()).sum().item()
        for h in instances
    ]
    total = sum(math.exp(score) for score in scores)
    expected = sum(math.exp(s) / total * h for s, h in zip(scores, instances, strict=True))
    torch.testing.assert_close(model(bag[None])[0], expected)


def test_the_order_of_instances_does_not_matter() -> None:
    model, bags = _abmil(), torch.randn(2, 9, 6)
    order = torch.randperm(9)
    torch.testing.assert_close(model(bags[:, order]), model(bags))
    torch.testing.assert_close(model.attention(bags[:, order]), model.attention(bags)[:, order])


def test_padding_changes_nothing() -> None:
    model, bags = _abmil(), torch.randn(2, 9, 6)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    bags[1, 4:] = torch.nan  # whatever padding holds
    pooled = model(bags, mask)
    torch.testing.assert_close(pooled[:1], model(bags[:1]))
    torch.testing.assert_close(pooled[1:], model(bags[1:, :4]))
    weights = model.attention(bags.nan_to_num(3.0), mask)
    assert (weights[1, 4:] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_an_empty_bag_is_zero_and_leaves_gradients_finite() -> None:
    model = _abmil().train()
    bags = torch.randn(2, 3, 6, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    pooled = model(bags, mask)
    assert (pooled[1] == 0).all()
    pooled.square().sum().backward()
    assert bags.grad is not None and bags.grad.isfinite().all()
    assert (bags.grad[~mask] == 0).all()
