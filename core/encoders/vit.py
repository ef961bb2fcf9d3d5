"""One vision transformer for images, volumes and stacks of frames."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.attention import Attention, DistanceBias, Rotation
from core.encoders.positions import Positions, grid_places


class PatchEmbed(nn.Module):
    """One linear map of every patch of a grid of any number of axes.

    Args:
        dim: width of the tokens.
        patch: size of a patch along each axis.
        channels: of the input.

    Attributes:
        dim: width of the tokens.
    """

    def __init__(self, dim: int, patch: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.dim = dim
        self.patch = tuple(patch)
        self.channels = channels
        self.projection = nn.Linear(channels * math.prod(self.patch), dim)

    def grid(self, x: Float[Tensor, "batch channels *sizes"]) -> tuple[int, ...]:
        """Patches along each axis.

        Raises:
            DataError: other axes or channels than these patches have, or no whole patches.
        """
        found = f"a batch of shape {tuple(x.shape)}"
        if x.ndim != 2 + len(self.patch) or x.shape[1] != self.channels:
            expected = f"(batch, {self.channels}, and {len(self.patch)} sizes)"
            raise DataError(found, expected=expected)
        sizes = tuple(x.shape[2:])
        if any(size % patch for size, patch in zip(sizes, self.patch, strict=True)):
            raise DataError(
                found,
                expected=f"sizes that are multiples of the patch {self.patch}",
                fix="crop, pad or resize the input, or choose another patch",
            )
        return tuple(size // patch for size, patch in zip(sizes, self.patch, strict=True))

    def patchify(
        self, x: Float[Tensor, "batch channels *sizes"]
    ) -> Float[Tensor, "batch patches values"]:
        """Patches row by row; the values of one are ordered channel, then axis by axis."""
        grid = self.grid(x)
        axes = len(grid)
        cells = [part for pair in zip(grid, self.patch, strict=True) for part in pair]
        order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
        cut = x.reshape(*x.shape[:2], *cells).permute(order)
        return cut.flatten(1 + axes).flatten(1, axes)

    def forward(
        self,
        x: Float[Tensor, "batch channels *sizes"],
        keep: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Tokens of the patches `keep`, or of all."""
        patches = self.patchify(x)
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1]))
        tokens: Tensor = self.projection(patches)
        return tokens


class PatchEmbed2d(PatchEmbed):
    """Square patches of images (B, channels, height, width).

    Args:
        dim: width of the tokens.
        patch: side of a patch in pixels.
        channels: of the images.
    """

    def __init__(self, dim: int, patch: int = 16, channels: int = 3) -> None:
        super().__init__(dim, (patch, patch), channels)


class PatchEmbed3d(PatchEmbed):
    """Boxes of volumes (B, channels, depth, height, width), tubelets of frames likewise in time.

    Args:
        dim: width of the tokens.
        patch: depth or frames, height and width of a patch.
        channels: of the volumes or frames.
    """

    def __init__(
        self, dim: int, patch: tuple[int, int, int] = (2, 16, 16), channels: int = 3
    ) -> None:
        super().__init__(dim, patch, channels)


class Block(nn.Module):
    """x + s₁ attention(norm(x)), then x + s₂ feedforward(norm(x)).

    Args:
        dim: width of the tokens.
        heads: of the attention.
        feedforward: maps (..., dim) to the same shape.
        qkv_bias: see `Attention`.
        layer_scale: where the learned s (one a channel) start; None: they are 1.
        eps: of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        feedforward: nn.Module,
        *,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.feedforward = feedforward
        if layer_scale is None:
            self.scale1 = self.scale2 = None
        else:
            self.scale1 = nn.Parameter(torch.full((dim,), layer_scale))
            self.scale2 = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        *,
        rotation: Rotation | None = None,
        bias: DistanceBias | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after attention and the feed-forward layers."""
        step: Tensor = self.attention(self.norm1(x), rotation=rotation, bias=bias)
        x = x + (step if self.scale1 is None else self.scale1 * step)
        step = self.feedforward(self.norm2(x))
        return x + (step if self.scale2 is None else self.scale2 * step)


class ViT(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021), pre-norm, with a layer norm at the end.

    Its tokens are the class token, the registers (Darcet et al. 2024), and the patches row by row.
    Patches that are dropped cost nothing: they are neither embedded nor attended to.

    Args:
        patches: cuts and embeds; gives the width.
        positions: of the patches; class token and registers have none.
        depth: number of blocks.
        heads: of each block.
        mlp_ratio: width of the hidden layer of Linear-GELU-Linear, in widths of the tokens.
        qkv_bias: see `Attention`.
        class_token: with one.
        registers: number of learned tokens that stand for no patch.
        layer_scale: see `Block`.
        eps: of the layer norms.
        feedforward: makes another feed-forward module from the width, e.g. a SwiGLU.

    Attributes:
        dim: width of the tokens.
        prefix: number of tokens before those of the patches.
    """

    def __init__(
        self,
        patches: PatchEmbed,
        positions: Positions,
        *,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        class_token: bool = True,
        registers: int = 0,
        layer_scale: float | None = None,
        eps: float = 1e-6,
        feedforward: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.dim = patches.dim
        self.prefix = int(class_token) + registers
        self.has_class_token = class_token
        self.patches = patches
        self.positions = positions

        def mlp(dim: int) -> nn.Module:
            hidden = int(mlp_ratio * dim)
            return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

        self.blocks = nn.ModuleList(
            Block(
                self.dim,
                heads,
                (feedforward or mlp)(self.dim),
                qkv_bias=qkv_bias,
                layer_scale=layer_scale,
                eps=eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.dim, eps=eps)
        self.prefix_tokens = nn.Embedding(self.prefix, self.dim)
        self.apply(_initialise)

    def forward(
        self,
        x: Float[Tensor, "batch channels *sizes"],
        keep: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """(B, prefix + kept, dim) tokens after the last norm.

        Args:
            x: (B, C, H, W), or (B, C, D, H, W), whatever `patches` cuts.
            keep: (B, K) indices of the patches that are looked at, in any order; None: all.

        Raises:
            DataError: the input has no whole patches.
        """
        return self.encode(self.patches(x, keep), self.patches.grid(x), keep)

    def encode(
        self,
        tokens: Float[Tensor, "batch kept dim"],
        grid: tuple[int, ...],
        keep: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """What `forward` does after the patches were embedded.

        A method that puts mask tokens in their place, or embeds patches of several kinds, starts
        here.

        Args:
            tokens: (B, K, dim) of the patches `keep`, without positions.
            grid: patches along each axis.
            keep: as in `forward`.
        """
        places = grid_places(grid, tokens)
        added = self.positions.embedding(places, grid)
        if added is not None:
            tokens = tokens + (added if keep is None else added[keep])
        places = places[None] if keep is None else places[keep]
        places = F.pad(places, (0, 0, self.prefix, 0), value=torch.nan)
        rotation = self.positions.rotation(places, grid)
        bias = self.positions.bias(places, places)
        before = self.prefix_tokens.weight.expand(len(tokens), -1, -1)
        tokens = torch.cat([before, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, rotation=rotation, bias=bias)
        normed: Tensor = self.norm(tokens)
        return normed

    def pool(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        """The class token, or without one the mean of the patches."""
        return tokens[:, 0] if self.has_class_token else tokens[:, self.prefix :].mean(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
