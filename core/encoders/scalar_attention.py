"""Self- and cross-attention over sequences of single numbers, without the matrices of weights."""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

# Logits at a time: in the CPU's cache every pass over them costs a tenth of one through memory.
_CPU_BLOCK, _DEVICE_BLOCK = 1 << 18, 1 << 27


class ScalarAttention(nn.Module):
    """`nn.MultiheadAttention` with one head over tokens of width 1, initialised as that is.

    The logit of tokens i and j is the product q_i k_j of two numbers, so that the n x d x d
    weights are made block by block, in the forward and again in the backward.

    Args:
        dropout: p of the attention weights.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3, 1))
        self.in_proj_bias = nn.Parameter(torch.zeros(3))
        self.out_proj_weight = nn.Parameter(torch.empty(1, 1))
        self.out_proj_bias = nn.Parameter(torch.zeros(1))
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.kaiming_uniform_(self.out_proj_weight, a=math.sqrt(5))

    def forward(
        self, query: Float[Tensor, "n d"], context: Float[Tensor, "n d"], drop: bool
    ) -> Float[Tensor, "n d"]:
        """Each row of `query` attends to the d numbers of the same row of `context`.

        Args:
            query: sequences of d tokens.
            context: sequences of keys and values.
            drop: whether weights are dropped.
        """
        with torch.autocast(query.device.type, enabled=False):
            dtype = torch.promote_types(query.dtype, torch.float32)
            query, context = query.to(dtype), context.to(dtype)
            weight, bias = self.in_proj_weight, self.in_proj_bias
            attended = scalar_attention(
                query * weight[0] + bias[0],
                context * weight[1] + bias[1],
                context * weight[2] + bias[2],
                self.dropout if drop else 0.0,
            )
            return attended * self.out_proj_weight[0] + self.out_proj_bias


def scalar_attention(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    value: Float[Tensor, "n d"],
    dropout: float = 0.0,
) -> Float[Tensor, "n d"]:
    """out_i = sum_j softmax_j(q_i k_j) v_j in each row, each weight dropped with p = dropout.

    Args:
        query: in float32 or float64.
        key: of the same dtype and shape.
        value: of the same dtype and shape.
        dropout: 0 to 1; the weights that stay grow by 1 / (1 - p), and at 1 all are dropped.
    """
    keep, growth = None, 1.0
    if dropout > 0:
        keep, growth = _draw(len(query), query.shape[1], dropout, query.device)
    attended: Tensor = _ScalarAttention.apply(query, key, value, keep, growth)
    return attended


def _draw(
    n: int, d: int, dropout: float, device: torch.device
) -> tuple[UInt8[Tensor, "n d d"], float]:
    """1 where a weight stays, and the factor that keeps their mean."""
    if device.type != "cpu":
        keep = torch.rand(n, d, d, device=device) >= dropout
        return keep.view(torch.uint8), 0.0 if dropout == 1 else 1 / (1 - dropout)
    # torch draws the CPU's numbers six times as slowly; p is rounded to 16 bits, the factor too.
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 2**64, math.ceil(n * d * d / 4), dtype=np.uint64
    )
    threshold = round((1 - dropout) * 2**16)
    kept = np.less(words.view(np.uint16)[: n * d * d], threshold).view(np.uint8)
    return torch.from_numpy(kept).view(n, d, d), 2**16 / threshold if threshold else 0.0


class _ScalarAttention(torch.autograd.Function):
    """With a = softmax and m = kept * growth: sums over j forward, over i backward."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keep: Tensor | None,
        growth: float,
    ) -> Tensor:
        steep = query / math.log(2)  # exp2 is some three times as fast as exp
        smallest, largest = key.aminmax(dim=1, keepdim=True)
        peak = torch.maximum(steep * smallest, steep * largest)
        out, log_sum, mean_key, mean_product = (torch.empty_like(query) for _ in range(4))
        product = value * key
        for rows in _blocks(query):
            weights = _powers(steep[rows], key[rows], peak[rows])
            total = weights.sum(2)
            log_sum[rows] = total.log2() + peak[rows]
            mean_key[rows] = _over_j(weights, key[rows]) / total
            if keep is not None:
                weights *= keep[rows]
                total /= growth or 1.0
            out[rows] = _over_j(weights, value[rows]) / total
            mean_product[rows] = _over_j(weights, product[rows]) / total
        saved = query, key, value, keep, out, log_sum, mean_key, mean_product
        ctx.save_for_backward(*saved)  # type: ignore[arg-type]
        ctx.growth = growth  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        query, key, value, keep, out, log_sum, mean_key, mean_product = saved
        growth: float = ctx.growth  # type: ignore[attr-defined]
        steep, pull = query / math.log(2), grad * out
        grad_query = grad * mean_product - pull * mean_key
        grad_key, grad_value = torch.empty_like(key), torch.empty_like(value)
        gains, pulls = grad * query * growth, pull * query
        for rows in _blocks(query):
            weights = _powers(steep[rows], key[rows], log_sum[rows])
            pulled = _over_i(weights, pulls[rows])
            if keep is not None:
                weights *= keep[rows]
            grad_key[rows] = value[rows] * _over_i(weights, gains[rows]) - pulled
            grad_value[rows] = _over_i(weights, grad[rows]) * growth
        return grad_query, grad_key, grad_value, None, None


def _blocks(x: Float[Tensor, "n d"]) -> list[slice]:
    size = _CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK
    rows = max(1, size // x.shape[1] ** 2)
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _powers(
    steep: Float[Tensor, "n d"], key: Float[Tensor, "n d"], shift: Float[Tensor, "n d"]
) -> Float[Tensor, "n d d"]:
    """2 ** (steep_i key_j - shift_i)."""
    return torch.addcmul(-shift[:, :, None], steep[:, :, None], key[:, None, :]).exp2_()


def _over_j(weights: Float[Tensor, "n d d"], x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return (weights * x[:, None, :]).sum(2)


def _over_i(weights: Float[Tensor, "n d d"], x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    return (weights * x[:, :, None]).sum(1)
