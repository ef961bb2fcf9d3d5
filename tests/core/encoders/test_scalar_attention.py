import pytest
import torch
from torch import Tensor, nn

from core.encoders import scalar_attention as module
from core.encoders.scalar_attention import ScalarAttention, scalar_attention

NAMES = ("in_proj_weight", "in_proj_bias", "out_proj_weight", "out_proj_bias")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[1, 100, 1 << 18])
def block(request, monkeypatch):
    monkeypatch.setattr(module, "_CPU_BLOCK", request.param)


def _reference(attention: ScalarAttention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(1, 1, batch_first=True).double()
    state = {name.replace("out_proj_", "out_proj."): getattr(attention, name) for name in NAMES}
    reference.load_state_dict(state)
    return reference


@pytest.mark.parametrize("scale", [0.1, 30.0])  # flat weights, and weights of one key
def test_it_is_multihead_attention_of_width_one(block, scale):
    attention = ScalarAttention().double()
    for number, parameter in enumerate(attention.parameters()):
        parameter.data.copy_(_normal(*parameter.shape, seed=number))
    reference = _reference(attention)
    inputs = [(scale * _normal(5, 7, seed=seed)).requires_grad_() for seed in (8, 9)]
    other = [x.detach().clone().requires_grad_() for x in inputs]
    out = attention(*inputs, drop=True)
    query, context = (x[:, :, None] for x in other)
    expected = reference(query, context, context)[0].squeeze(2)
    torch.testing.assert_close(out, expected)
    out.sin().sum().backward()
    expected.sin().sum().backward()
    for x, y in zip(inputs, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    theirs = dict(reference.named_parameters())
    for name in NAMES:
        grad = theirs[name.replace("out_proj_", "out_proj.")].grad
        torch.testing.assert_close(getattr(attention, name).grad, grad)


def test_it_starts_as_multihead_attention_does():
    torch.manual_seed(0)
    ours = [ScalarAttention() for _ in range(2000)]
    theirs = [nn.MultiheadAttention(1, 1) for _ in range(2000)]
    for inner in ("in_proj_weight", "out_proj_weight"):
        found = torch.cat([getattr(a, inner).detach().flatten() for a in ours])
        expected = torch.cat(
            [
                (a.in_proj_weight if inner[:2] == "in" else a.out_proj.weight).detach().flatten()
                for a in theirs
            ]
        )
        assert found.abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.01)
        assert found.std().item() == pytest.approx(expected.std().item(), rel=0.05)
    assert all((a.in_proj_bias == 0).all() and (a.out_proj_bias == 0).all() for a in ours)


def test_dropout_and_its_gradient_are_those_of_its_mask(block, monkeypatch):
    kept = (torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(3)) < 0.6).to(torch.uint8)
    monkeypatch.setattr(module, "_draw", lambda n, d, p, device: (kept, 1 / (1 - p)))
    inputs = [_normal(4, 6, seed=seed).requires_grad_() for seed in range(3)]

    def dense(query, key, value):
        weights = (query[:, :, None] * key[:, None, :]).softmax(2)
        return (weights * kept / 0.6 * value[:, None, :]).sum(2)

    other = [x.detach().clone().requires_grad_() for x in inputs]
    found, expected = scalar_attention(*inputs, dropout=0.4), dense(*other)
    torch.testing.assert_close(found, expected)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    for x, y in zip(inputs, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.9])
def test_weights_are_dropped_with_their_probability(dropout):
    torch.manual_seed(0)
    keep, growth = module._draw(50, 40, dropout, torch.device("cpu"))
    assert keep.shape == (50, 40, 40)
    assert set(keep.unique().tolist()) == {0, 1}
    spread = (dropout * (1 - dropout) / keep.numel()) ** 0.5
    assert keep.float().mean().item() == pytest.approx(1 - dropout, abs=4 * spread)
    assert growth == pytest.approx(1 / (1 - dropout), rel=1e-4)
    again, _ = module._draw(50, 40, dropout, torch.device("cpu"))
    assert (again != keep).any()
    torch.manual_seed(0)
    assert torch.equal(module._draw(50, 40, dropout, torch.device("cpu"))[0], keep)


def test_dropout_keeps_the_mean_and_is_left_out_on_demand():
    attention = ScalarAttention(dropout=0.5).double()
    x = _normal(1, 8).expand(20000, -1)
    whole = attention(x, x, drop=False)
    assert torch.equal(whole, attention(x, x, drop=False))
    dropped = attention(x, x, drop=True)
    assert not torch.equal(dropped, whole)
    torch.testing.assert_close(dropped.mean(0), whole[0], atol=0.02, rtol=0.02)


def test_dropout_of_all_leaves_the_output_bias():
    attention = ScalarAttention(dropout=1.0).double()
    attention.out_proj_bias.data.fill_(0.7)
    x = _normal(3, 5).requires_grad_()
    out = attention(x, x, drop=True)
    torch.testing.assert_close(out, torch.full_like(out, 0.7))
    out.sum().backward()
    assert (x.grad == 0).all()


def test_mixed_precision_attends_in_float32():
    attention, x = ScalarAttention(), _normal(3, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(x.bfloat16().float(), x, drop=False)
    assert out.dtype == torch.float32
    assert torch.equal(out, attention(x.bfloat16().float(), x, drop=False))
