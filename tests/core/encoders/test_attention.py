import pytest
import torch
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.attention import Attention, DistanceBias, attend
from core.encoders.positions import ALiBiPositions


def _torch_twin(attention: Attention, dim: int) -> nn.MultiheadAttention:
    twin = nn.MultiheadAttention(
        dim, attention.heads, bias=attention.qkv.bias is not None, batch_first=True
    )
    with torch.no_grad():
        twin.in_proj_weight.copy_(attention.qkv.weight)
        twin.out_proj.weight.copy_(attention.out.weight)
        if attention.qkv.bias is not None:
            twin.in_proj_bias.copy_(attention.qkv.bias)
            twin.out_proj.bias.copy_(attention.out.bias)
    return twin


@pytest.mark.parametrize("bias", [True, False])
def test_equals_that_of_torch_within_and_across_sequences(bias: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, qkv_bias=bias)
    if not bias:
        nn.init.zeros_(attention.out.bias)
    twin = _torch_twin(attention, 12)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(attention(x), twin(x, x, x)[0])
    torch.testing.assert_close(attention(x, context), twin(x, context, context)[0])


def _places(count: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return 9 * torch.rand(samples, count, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_bias_equals_an_explicit_softmax(samples: int) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 4, n, 6, dtype=torch.float64) for n in (5, 7, 7))
    bias = ALiBiPositions(4).bias(_places(5, samples), _places(7, samples))
    logits = torch.einsum("bhie,bhje->bhij", query, key) / 6**0.5 + bias.rows(0, 5)
    expected = torch.einsum("bhij,bhje->bhie", logits.softmax(-1), value)
    torch.testing.assert_close(attend(query, key, value, bias), expected)


class _Recorded:
    """A bias that remembers how many of its elements were made at a time."""

    def __init__(self, bias: DistanceBias) -> None:
        self.slopes, self.distances = bias
        self.bias = bias
        self.sizes: list[int] = []

    def rows(self, start: int, stop: int) -> Tensor:
        rows = self.bias.rows(start, stop)
        self.sizes.append(rows.numel())
        return rows


def test_a_large_bias_is_never_held_and_changes_nothing() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(2, 4, n, 6, dtype=torch.float64) for n in (11, 7, 7)]
    weights = torch.randn(2, 4, 11, 6, dtype=torch.float64)
    bias = ALiBiPositions(4).bias(_places(11, 2), _places(7, 2))
    results = []
    for limit in (1 << 24, 2 * 4 * 7 * 3):  # the second holds 3 of 11 queries
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        recorded = _Recorded(bias)
        out = attend(*leaves, recorded, max_bias=limit)  # type: ignore[arg-type]
        (out * weights).sum().backward()
        assert max(recorded.sizes) <= limit
        # In blocks of 3, 3, 3, 2, made once more in the backward.
        assert len(recorded.sizes) == (1 if limit == 1 << 24 else 8)
        with torch.no_grad():
            assert torch.equal(attend(*leaves, bias, max_bias=limit), out)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for whole, blocks in zip(*results, strict=True):
        torch.testing.assert_close(blocks, whole)


def test_a_bias_in_half_precision_stays_close() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 8, n, 16) for n in (20, 30, 30))
    bias = ALiBiPositions(8).bias(9 * _places(20, 1).float(), 9 * _places(30, 1).float())
    half = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), bias)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend(query, key, value, bias), atol=0.04, rtol=0)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(DataError, match="5 heads of 12 channels"):
        Attention(12, 5)
