"""The trunk of wav2vec 2.0 and HuBERT: convolutions of a wave, then a transformer of its frames."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from core.data.checks import DataError

# (channels, kernel, stride) of the published models: a frame every 320 samples.
CONVOLUTIONS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)


class WaveStates(NamedTuple):
    """What the trunk makes of a batch of waves.

    Attributes:
        features: (B, T, C) outputs of the convolutions.
        states: (B, T, D) input of the first block, and output of each.
        valid: (B, T) True at frames that lie in the wave as a whole; None: all do.
    """

    features: Float[Tensor, "batch time channels"]
    states: list[Float[Tensor, "batch time dim"]]
    valid: Bool[Tensor, "batch time"] | None


class TimeNorm(nn.GroupNorm):
    """Every channel of a wave normalised over the time that the wave lasts.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(
        self, x: Float[Tensor, "batch channels time"], steps: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels time"]:
        """What is beyond `steps` takes no part in mean and variance."""
        if steps is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inside = torch.arange(x.shape[2], device=x.device) < steps[:, None, None]
        count = steps.clamp(min=1)[:, None, None]
        mean = (wide * inside).sum(2, keepdim=True) / count
        variance = ((wide - mean).square() * inside).sum(2, keepdim=True) / count
        normal = ((wide - mean) * (variance + self.eps).rsqrt()).to(x.dtype)
        scaled: Tensor = normal * self.weight[:, None] + self.bias[:, None]
        return scaled


class WaveConvolutions(nn.Module):
    """Strided convolutions with GELU, without bias; the first is normalised over time.

    Baevski et al. 2020, section 2.1, with the group norm of the base models. A padded wave gives
    the frames that it gives without padding.

    Args:
        layers: (channels, kernel, stride) of each.
        recompute: so many of the first layers keep no activations for the backward pass; theirs
            are the largest.

    Attributes:
        dim: channels of the result.
        hop: samples from one frame to the next.
        window: samples that a frame sees.
    """

    def __init__(self, layers: Sequence[Sequence[int]] = CONVOLUTIONS, recompute: int = 0) -> None:
        super().__init__()
        self.layers = [(kernel, stride) for _, kernel, stride in layers]
        widths = [1, *(channels for channels, _, _ in layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride, bias=False)
            for before, after, (kernel, stride) in zip(
                widths[:-1], widths[1:], self.layers, strict=True
            )
        )
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight)  # type: ignore[arg-type]
        self.norm = TimeNorm(widths[1])
        self.recompute = recompute
        self.dim = widths[-1]
        self.hop = math.prod(stride for _, stride in self.layers)
        self.window = 1
        for kernel, stride in reversed(self.layers):
            self.window = (self.window - 1) * stride + kernel

    def n_frames(self, samples: int) -> int:
        """Frames of a wave."""
        return max((samples - self.window) // self.hop + 1, 0)

    def forward(
        self, wave: Float[Tensor, "batch samples"], samples: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch channels time"]:
        """Frames of waves, of which the first `samples` count, all by default.

        Raises:
            DataError: the waves are shorter than one frame.
        """
        if wave.shape[1] < self.window:
            raise DataError(
                f"waves of {wave.shape[1]} samples",
                expected=f"{self.window} for one frame at least",
            )
        x = wave[:, None]
        for number in range(len(self.layers)):
            if number < self.recompute and self.training:
                x = checkpoint(self._layer, number, x, samples, use_reentrant=False)
            else:
                x = self._layer(number, x, samples)
        return x

    def _layer(self, number: int, x: Tensor, samples: Tensor | None) -> Tensor:
        x = self.convolutions[number](x)
        if number == 0:
            kernel, stride = self.layers[0]
            x = self.norm(x, None if samples is None else (samples - kernel) // stride + 1)
        return F.gelu(x)


class ConvPositions(nn.Module):
    """A wide grouped convolution, whose result tells a frame where it is.

    Baevski et al. 2020, section 2.2; the weights are normalised for each place of the kernel.

    Args:
        dim: width of the frames.
        kernel: frames that it spans.
        groups: of channels.
        dropout: of the model, which the first weights allow for, as in the authors' code.
    """

    def __init__(self, dim: int, kernel: int = 128, groups: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        convolution = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(convolution.weight, std=math.sqrt(4 * (1 - dropout) / (kernel * dim)))
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        self.convolution = weight_norm(convolution, name="weight", dim=2)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """What is added to the frames."""
        convolved = self.convolution(x.transpose(1, 2))[..., : x.shape[1]]
        return F.gelu(convolved).transpose(1, 2)


class FrameAttention(nn.Module):
    """Multi-head self-attention with dropout of the weights, and optionally relaxed.

    Args:
        dim: width of the frames.
        heads: number of heads.
        dropout: of the attention weights.
        relaxation: c of `relaxed_attention`; None leaves the range to the dtype.
    """

    def __init__(
        self, dim: int, heads: int, dropout: float = 0.0, relaxation: float | None = None
    ) -> None:
        super().__init__()
        if dim % heads:
            raise DataError(
                f"{heads} heads of {dim} channels", expected="a divisor of the channels"
            )
        self.heads, self.dropout, self.relaxation = heads, dropout, relaxation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        valid: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Frames that have attended to all valid ones."""
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        seen = None if valid is None else valid[:, None, None]
        dropout = self.dropout if self.training else 0.0
        if self.relaxation is None:
            attended = F.scaled_dot_product_attention(query, key, value, seen, dropout)
        else:
            weights = relaxed_attention(query, key, self.relaxation, seen)
            attended = F.dropout(weights, dropout) @ value
        projected: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return projected


def relaxed_attention(
    query: Float[Tensor, "batch heads time head_dim"],
    key: Float[Tensor, "batch heads time head_dim"],
    relaxation: float = 32.0,
    seen: Bool[Tensor, "batch 1 1 time"] | None = None,
) -> Float[Tensor, "batch heads time time"]:
    """Attention weights softmax((S/c - max(S/c)) c) of S = q k^T / sqrt(head_dim).

    In exact arithmetic this is softmax(S). In half precision it holds for scores that are c times
    as large as the largest number there is, as queries are divided by c before the product
    (Li et al. 2024, MERT, section 3.3; Ding et al. 2021, CogView).

    Args:
        query: (B, H, T, d).
        key: likewise.
        relaxation: c.
        seen: False at frames that nobody attends to.
    """
    scaled = query * (query.shape[-1] ** -0.5 / relaxation)
    scores = scaled @ key.transpose(-1, -2)
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights: Tensor = ((scores - scores.amax(-1, keepdim=True)) * relaxation).softmax(-1)
    return weights


class FrameBlock(nn.Module):
    """Attention and a feed-forward network, each added to its input.

    Args:
        dim: width of the frames.
        heads: of the attention.
        hidden: width of the feed-forward network.
        pre_norm: layer norm before each of them; else after the sum.
        dropout: of what is added.
        attention_dropout: of the attention weights.
        relaxation: see `FrameAttention`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        pre_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        relaxation: float | None = None,
    ) -> None:
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, dropout
        self.attention = FrameAttention(dim, heads, attention_dropout, relaxation)
        self.attention_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.final_norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        valid: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """The frames after the block."""
        if self.pre_norm:
            x = x + self._dropped(self.attention(self.attention_norm(x), valid))
            return x + self._dropped(self.down(F.gelu(self.up(self.final_norm(x)))))
        x = self.attention_norm(x + self._dropped(self.attention(x, valid)))
        after: Tensor = self.final_norm(x + self._dropped(self.down(F.gelu(self.up(x)))))
        return after

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class WaveEncoder(nn.Module):
    """Convolutions, layer norm, projection, masking, positions, transformer.

    The trunk of wav2vec 2.0 (Baevski et al. 2020), HuBERT (Hsu et al. 2021) and MERT (Li et al.
    2024): frames to be predicted are replaced by one learned vector after the projection. Padding
    changes nothing: frames that do not lie in the wave as a whole are zero and not attended to.

    Args:
        convolutions: (channels, kernel, stride) of each.
        dim: width of the frames.
        depth: number of blocks.
        heads: of the attention.
        hidden: width of the feed-forward networks.
        pre_norm: layer norm at the start of each block and at the end, else at the start of the
            transformer and after each sum.
        dropout: of the projected frames, of the frames with positions and in the blocks.
        attention_dropout: of the attention weights.
        layer_drop: how often a block is passed over in training.
        relaxation: see `FrameAttention`.
        feature_gradient: factor of the gradient that reaches the convolutions.
        position_kernel: of `ConvPositions`.
        position_groups: likewise.
        recompute: see `WaveConvolutions`.

    Attributes:
        dim: width of the frames.
        n_states: number of states, one more than blocks.
    """

    def __init__(
        self,
        convolutions: Sequence[Sequence[int]] = CONVOLUTIONS,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        *,
        pre_norm: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        layer_drop: float = 0.05,
        relaxation: float | None = None,
        feature_gradient: float = 1.0,
        position_kernel: int = 128,
        position_groups: int = 16,
        recompute: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.n_states = dim, depth + 1
        self.pre_norm, self.dropout, self.layer_drop = pre_norm, dropout, layer_drop
        self.feature_gradient = feature_gradient
        self.convolutions = WaveConvolutions(convolutions, recompute)
        self.feature_norm = nn.LayerNorm(self.convolutions.dim)
        self.projection = nn.Linear(self.convolutions.dim, dim)
        self.mask_vector = nn.Parameter(torch.rand(dim))
        self.positions = ConvPositions(dim, position_kernel, position_groups, dropout)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            FrameBlock(dim, heads, hidden, pre_norm, dropout, attention_dropout, relaxation)
            for _ in range(depth)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                # BERT's from its width on; narrower layers start with the gain that it has there.
                gain = max(768 / module.in_features, 1) ** 0.5
                nn.init.normal_(module.weight, std=0.02 * gain)
                nn.init.zeros_(module.bias)

    def n_frames(self, samples: int) -> int:
        """Frames of a wave."""
        return self.convolutions.n_frames(samples)

    def valid_frames(
        self, samples: Int[Tensor, " batch"], n_frames: int
    ) -> Bool[Tensor, "batch time"]:
        """True at the frames that lie in waves of so many samples."""
        frames = (samples - self.convolutions.window) // self.convolutions.hop + 1
        return torch.arange(n_frames, device=samples.device) < frames[:, None]

    def forward(
        self,
        wave: Float[Tensor, "batch samples"],
        samples: Int[Tensor, " batch"] | None = None,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> WaveStates:
        """States of waves.

        Args:
            wave: (B, S).
            samples: (B,) how many of them each wave has, the rest is padding; None: all.
            mask: True at the frames to be replaced by the learned vector.
        """
        features = self.convolutions(wave, samples).transpose(1, 2)
        if self.feature_gradient != 1 and features.requires_grad:
            features.register_hook(lambda gradient: gradient * self.feature_gradient)
        valid = None if samples is None else self.valid_frames(samples, features.shape[1])
        x = self._dropped(self.projection(self.feature_norm(features)))
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_vector.to(x.dtype), x)
        if valid is not None:
            x = x * valid[..., None]
        x = x + self.positions(x)
        x = self._dropped(x if self.pre_norm else self.norm(x))
        states = [x]
        for block in self.blocks:
            after = block(x, valid)
            if self.training and self.layer_drop:
                # Chosen on the device, and the block is run all the same: in a group of processes
                # every weight must have a gradient in every step.
                keeps = torch.rand((), device=x.device) >= self.layer_drop
                after = torch.where(keeps, after, x)
            x = after
            states.append(x)
        if self.pre_norm:
            states[-1] = self.norm(x)
        return WaveStates(features, states, valid)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
