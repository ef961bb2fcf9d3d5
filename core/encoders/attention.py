"""Attention within a sequence or to another one, turned or biased by where the tokens are."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.data.checks import DataError


class Rotation(NamedTuple):
    """By which angles queries and keys are turned, a table for every token.

    Attributes:
        cos: (B or 1, N, head_dim), its second half equal to the first.
        sin: likewise.
    """

    cos: Float[Tensor, "#batch tokens head_dim"]
    sin: Float[Tensor, "#batch tokens head_dim"]

    def turn(
        self, x: Float[Tensor, "batch heads tokens head_dim"]
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """Turns the pair of channels (i, i + head_dim / 2) by the i-th angle (RoFormer, eq. 34)."""
        first, second = x.chunk(2, dim=-1)
        quarter_turn = torch.cat([-second, first], dim=-1)
        return (x * self.cos[:, None] + quarter_turn * self.sin[:, None]).to(x.dtype)


class DistanceBias(NamedTuple):
    """The bias -m_h d_ij of the logits, of which only some rows are ever held for every head.

    Attributes:
        slopes: (H,) m_h, one a head.
        distances: (B or 1, queries, keys) d_ij.
    """

    slopes: Float[Tensor, " heads"]
    distances: Float[Tensor, "#batch queries keys"]

    def rows(self, start: int, stop: int) -> Float[Tensor, "#batch heads rows keys"]:
        """The bias of the queries from `start` to `stop`."""
        return -self.slopes[:, None, None] * self.distances[:, None, start:stop]


class Attention(nn.Module):
    """Multi-head attention with the fused projection of queries, keys and values.

    Vaswani et al. 2017, section 3.2.2; no dropout.

    Args:
        dim: width of the tokens, a multiple of `heads`.
        heads: number of heads.
        qkv_bias: with a bias in the projections of queries, keys and values.

    Raises:
        DataError: the width is no multiple of the number of heads.
    """

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise DataError(
                f"{heads} heads of {dim} channels", expected="a divisor of the channels"
            )
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        context: Float[Tensor, "batch keys dim"] | None = None,
        *,
        rotation: Rotation | None = None,
        bias: DistanceBias | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Every token of `x` attends to all tokens of `context`.

        Args:
            x: (B, N, D) queries.
            context: (B, M, D) keys and values; None: those of `x`.
            rotation: of the queries and keys of `x`, for attention within a sequence.
            bias: added to the logits.
        """
        if context is None:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        else:
            dim = x.shape[-1]
            weight, offset = self.qkv.weight, self.qkv.bias
            query = F.linear(x, weight[:dim], None if offset is None else offset[:dim])
            projected = F.linear(context, weight[dim:], None if offset is None else offset[dim:])
            key, value = projected.chunk(2, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        if rotation is not None:
            query, key = rotation.turn(query), rotation.turn(key)
        attended = attend(query, key, value, bias)
        projected_out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return projected_out


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    value: Float[Tensor, "batch heads keys head_dim"],
    bias: DistanceBias | None = None,
    *,
    max_bias: int = 1 << 24,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(q k / √head_dim + bias) v.

    A bias of more than `max_bias` elements is made for some queries at a time, in the forward and
    again in the backward, so that it is never held as a whole. It is made in its own precision and
    rounded to that of the queries, whose products are rounded as much.

    Args:
        query: (B, H, N, E).
        key: (B, H, M, E).
        value: (B, H, M, E).
        bias: added to the logits.
        max_bias: elements of the bias that may be held at a time.
    """
    if bias is None:
        return F.scaled_dot_product_attention(query, key, value)
    queries = query.shape[2]
    samples, _, keys = bias.distances.shape
    step = max(1, max_bias // (samples * len(bias.slopes) * keys))
    if step >= queries:
        return _attend_rows(query, key, value, bias, 0, queries)
    blocks = []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        arguments = (query[:, :, start:stop], key, value, bias, start, stop)
        if torch.is_grad_enabled():
            block = checkpoint(
                _attend_rows, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:
            block = _attend_rows(*arguments)
        blocks.append(block)
    return torch.cat(blocks, dim=2)


def _attend_rows(
    query: Tensor, key: Tensor, value: Tensor, bias: DistanceBias, start: int, stop: int
) -> Tensor:
    rows = bias.rows(start, stop).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=rows)
