"""The layer of BERT, with attention to another sequence where it fuses two."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.data.checks import DataError

_EPSILON = 1e-12  # of BERT's layer norms


class BertLayer(nn.Module):
    """Self-attention, attention to a context where there is one, two dense layers; norms come last.

    Devlin et al. 2019; with a context Vaswani et al. 2017, section 3.1, without the causal mask.

    Args:
        dim: width of the tokens, a multiple of `heads`.
        heads: number of heads.
        hidden: width within the dense layers.
        dropout: after every part and on attention weights.
        context_dim: width of the context; None: no attention to any.

    Raises:
        DataError: the width is no multiple of the number of heads.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float = 0.1,
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = _BertAttention(dim, dim, heads, dropout)
        self.cross = None
        if context_dim is not None:
            self.cross = _BertAttention(dim, context_dim, heads, dropout)
        self.dense = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        mask: Bool[Tensor, "#batch #tokens tokens"] | None = None,
        context: Float[Tensor, "batch keys context_dim"] | None = None,
        context_mask: Bool[Tensor, "#batch 1 keys"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """One layer.

        Args:
            x: (B, T, D).
            mask: True where a row may attend to a column; every row to one at least.
            context: (B, M, C), for a layer that has attention to it.
            context_mask: True where a key of the context is real.
        """
        x = self.attention(x, x, mask)
        if self.cross is not None:
            assert context is not None
            x = self.cross(x, context, context_mask)
        normed: Tensor = self.norm(x + self.dropout(self.out(F.gelu(self.dense(x)))))
        return normed


class _BertAttention(nn.Module):
    """Attention, its projection, the residual and the norm."""

    def __init__(self, dim: int, context_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise DataError(
                f"{heads} heads of {dim} channels", expected="a divisor of the channels"
            )
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(context_dim, dim)
        self.value = nn.Linear(context_dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        out = self.out(attended.transpose(1, 2).flatten(2))
        normed: Tensor = self.norm(x + self.dropout(out))
        return normed
