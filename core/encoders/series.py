"""Encoders of padded series: a transformer and a temporal convolution network."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from core.data.checks import DataError
from core.encoders.positions import SinCosPositions, grid_places


def masked_mean(
    tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch dim"]:
    """Mean over the steps where `mask` is True, over all without a mask; 0 where there are none."""
    if mask is None:
        return tokens.mean(1)
    total = tokens.masked_fill(~mask[..., None], 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


class SeriesTransformer(nn.Module):
    """Patches of time, sinusoidal positions, `nn.TransformerEncoder`.

    A patch of `patch` steps is one token; the last one is filled up with zeros, and is a real token
    if any of its steps is real. Padding is set to zero first and never attended to, so that a
    padded series gives what the unpadded one gives.

    Args:
        channels: of the series.
        dim: width of the tokens and of the pooled vector.
        depth: number of layers.
        heads: of each layer.
        hidden: width of the feed-forward layers.
        patch: steps of a token.
        dropout: in every layer and after the positions.
        pre_norm: layer norm before attention and feed-forward, and one at the end; False: after
            them, as in the paper (Vaswani et al. 2017).

    Attributes:
        dim: width of the tokens and of the pooled vector.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 128,
        *,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 512,
        patch: int = 1,
        dropout: float = 0.1,
        pre_norm: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.patch = patch
        self.channels = channels
        self.projection = nn.Linear(channels * patch, dim)
        self.positions = SinCosPositions(dim)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            dim, heads, hidden, dropout, F.gelu, batch_first=True, norm_first=pre_norm
        )
        norm = nn.LayerNorm(dim) if pre_norm else None
        # Its packing of padded batches would cut the tokens off, in evaluation only.
        self.layers = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)

    def forward(
        self,
        x: Float[Tensor, "batch channels time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) mean of the real tokens.

        Args:
            x: (B, C, T) series.
            mask: (B, T) True for real steps, False for padding; None: all are real.

        Raises:
            DataError: the series has another number of channels.
        """
        return masked_mean(self.tokens(x, mask), self.token_mask(mask))

    def tokens(
        self,
        x: Float[Tensor, "batch channels time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """(B, ceil(T / patch), dim) tokens; those of padding mean nothing."""
        x = _real(x, mask, self.channels)
        x = F.pad(x, (0, -x.shape[-1] % self.patch)).unflatten(-1, (-1, self.patch))
        tokens = self.projection(x.transpose(1, 2).flatten(2))
        grid = (tokens.shape[1],)
        tokens = self.dropout(tokens + self.positions.embedding(grid_places(grid, tokens), grid))
        padding, real = None, self.token_mask(mask)
        if real is not None:
            # A series without a real step attends to everything: to nothing would be NaN.
            padding = ~real & real.any(1, keepdim=True)
        encoded: Tensor = self.layers(tokens, src_key_padding_mask=padding)
        return encoded

    def token_mask(
        self, mask: Bool[Tensor, "batch time"] | None
    ) -> Bool[Tensor, "batch tokens"] | None:
        """(B, ceil(T / patch)) True where a token holds a real step."""
        if mask is None:
            return None
        steps: Tensor = F.pad(mask, (0, -mask.shape[1] % self.patch))
        real: Tensor = steps.unflatten(1, (-1, self.patch)).any(-1)
        return real


class TCN(nn.Module):
    """Temporal convolution network of dilated residual blocks (Bai et al. 2018, section 3).

    A block is twice (weight-normalised convolution, ReLU, dropout), added to its input, ReLU; the
    i-th block is dilated by 2^i. Unlike in the paper convolutions look both ways unless `causal`:
    an embedding of a whole series has no future to hide. Padding is zero before every convolution,
    as beyond the ends, so that a padded series gives what the unpadded one gives.

    Args:
        channels: of the series.
        dim: width of the tokens and of the pooled vector.
        depth: number of blocks; they see (kernel - 1) (2^depth - 1) steps to either side.
        kernel: steps of a convolution, odd.
        dropout: after each ReLU, of whole channels.
        causal: a step sees no later one; the blocks then see twice as far back.

    Attributes:
        dim: width of the tokens and of the pooled vector.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 128,
        *,
        depth: int = 6,
        kernel: int = 3,
        dropout: float = 0.1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise DataError(f"a convolution over {kernel} steps", expected="an odd number")
        self.dim = dim
        self.channels = channels
        self.blocks = nn.ModuleList(
            _Dilated(dim if i else channels, dim, kernel, 2**i, dropout, causal)
            for i in range(depth)
        )

    def forward(
        self,
        x: Float[Tensor, "batch channels time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) mean of the real steps.

        Args:
            x: (B, C, T) series.
            mask: (B, T) True for real steps, False for padding; None: all are real.

        Raises:
            DataError: the series has another number of channels.
        """
        return masked_mean(self.tokens(x, mask), mask)

    def tokens(
        self,
        x: Float[Tensor, "batch channels time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """(B, T, dim), a token a step; those of padding are 0."""
        x = _real(x, mask, self.channels)
        for block in self.blocks:
            x = block(x, mask)
        return x.transpose(1, 2)


class _Dilated(nn.Module):
    def __init__(
        self, inputs: int, dim: int, kernel: int, dilation: int, dropout: float, causal: bool
    ) -> None:
        super().__init__()
        reach = dilation * (kernel - 1)
        self.ends = (reach, 0) if causal else (reach // 2, reach // 2)
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(width, dim, kernel, dilation=dilation)) for width in (inputs, dim)
        )
        self.shortcut = nn.Conv1d(inputs, dim, 1) if inputs != dim else nn.Identity()
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        branch = x
        for convolution in self.convolutions:
            branch = self.dropout(convolution(F.pad(branch, self.ends)).relu())
            if mask is not None:
                branch = branch.masked_fill(~mask[:, None], 0)
        x = (self.shortcut(x) + branch).relu()
        return x if mask is None else x.masked_fill(~mask[:, None], 0)


def _real(x: Tensor, mask: Tensor | None, channels: int) -> Tensor:
    """The series with its padding set to zero."""
    if x.ndim != 3 or x.shape[1] != channels:
        raise DataError(f"series of shape {tuple(x.shape)}", expected=f"(batch, {channels}, time)")
    return x if mask is None else x.masked_fill(~mask[:, None], 0)
