import pytest
import torch

from core.losses import draw_mixup, info_nce, m3co, mix, soft_clip


def test_weights_are_of_the_sample_and_half_are_mixed() -> None:
    torch.manual_seed(0)
    partner, weight = draw_mixup(4000)
    assert torch.equal(partner.sort().values, torch.arange(4000))
    assert ((weight >= 0) & (weight <= 1)).all()
    assert (weight == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    mixed = weight[weight < 1]
    # Beta(0.15, 0.15) has its mass at both ends.
    assert mixed.mean().item() == pytest.approx(0.5, abs=0.05)
    assert ((mixed < 0.05) | (mixed > 0.95)).float().mean() > 0.5


def test_mixing_leaves_its_input_alone() -> None:
    x = torch.randn(3, 2, 2)
    before = x.clone()
    mixed = mix(x, torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.25, 0.0]))
    assert torch.equal(x, before)
    torch.testing.assert_close(mixed[0], x[0])
    torch.testing.assert_close(mixed[1], 0.25 * x[1] + 0.75 * x[2])
    torch.testing.assert_close(mixed[2], x[0])


def test_unmixed_samples_are_info_nce() -> None:
    a, b = torch.randn(2, 5, 4)
    partner = torch.tensor([1, 2, 3, 4, 0])
    torch.testing.assert_close(m3co(a, b, partner, torch.ones(5), 0.1), info_nce(a, b, 0.1))
    # A sample that is its own partner has the whole mass, whatever its weight.
    itself = torch.arange(5)
    torch.testing.assert_close(m3co(a, b, itself, torch.rand(5), 0.1), info_nce(a, b, 0.1))


def test_soft_targets_by_definition() -> None:
    a, b = (torch.nn.functional.normalize(x) for x in torch.randn(2, 5, 4))
    targets = (b @ b.T / 0.2).softmax(1)
    scores = a @ b.T / 0.2
    there = -(targets * scores.log_softmax(1)).sum(1).mean()
    back = -(targets * scores.T.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_clip(a, b, 0.2), (there + back) / 2)
