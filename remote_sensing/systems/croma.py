"""CROMA: contrastive radar-optical masked autoencoders (Fuller, Millard, Green, NeurIPS 2023).

arXiv 2311.00566. One encoder reads the optical patches that are left of an image, one the radar
patches, of which others are left; a third lets the radar tokens look at the optical ones. The two
first are contrasted; from the third a light decoder reconstructs what was removed of both sensors.
Where a patch is, only the logits of the attention know: they fall with the distance of two patches
(2D-ALiBi), also between the sensors (X-ALiBi), so that images of any size can be read.

As in the authors' code: the self-attention of the third encoder has the bias of the
cross-attention, although its keys are radar tokens (`self_bias="own"` gives it its own); a patch is
standardised over both sensors at once; the multiplier of the cosines has no maximum. Unlike it: a
pair gets its gradient from both sides on every process, and biases are made from the places of the
kept patches, so that no table of all patches is ever held.

The objectives alone are the paper's baselines. Masked only, no vector is pooled by a network that
nothing has trained: it is the mean of the tokens. Contrastive only, there is no third encoder, and
both sensors side by side are the joint vector.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.augment.draws import Draws
from core.data.checks import DataError
from core.encoders.attention import Attention, DistanceBias
from core.encoders.positions import ALiBiPositions, Positions, SinCosPositions, grid_places
from core.encoders.vit import Block, PatchEmbed2d, ViT
from core.losses import LogitScale, info_nce, mae
from core.losses.mae import random_masking
from core.losses.precision import full_precision
from core.trainers.system import Batch, System

OPTICAL, RADAR = "optical", "radar"
SENSORS = (OPTICAL, RADAR)
_EPS = 1e-5  # of the layer norms
_VARIANCE_EPS = 1e-6  # of a standardised patch

Places = Float[Tensor, "#batch kept 2"]


def feedforward(dim: int) -> nn.Sequential:
    """Linear-GELU-Linear, four times as wide inside."""
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


class CrossBlock(nn.Module):
    """Attention within the tokens, attention to those of the other sensor, feed-forward layers.

    Args:
        dim: width of the tokens.
        heads: of both attentions.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_within = nn.LayerNorm(dim, eps=_EPS)
        self.within = Attention(dim, heads, qkv_bias=False)
        self.norm_across = nn.LayerNorm(dim, eps=_EPS)  # of both sensors
        self.across = Attention(dim, heads, qkv_bias=False)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.feedforward = feedforward(dim)

    def forward(
        self,
        x: Float[Tensor, "batch kept dim"],
        context: Float[Tensor, "batch others dim"],
        within: DistanceBias | None,
        across: DistanceBias | None,
    ) -> Float[Tensor, "batch kept dim"]:
        """The tokens of `x` after a look at those of `context`."""
        x = x + self.within(self.norm_within(x), bias=within)
        x = x + self.across(self.norm_across(x), self.norm_across(context), bias=across)
        return x + self.feedforward(self.norm(x))


class CrossEncoder(nn.Module):
    """Radar tokens that have seen the optical ones.

    Args:
        dim: width of the tokens.
        depth: number of blocks.
        heads: of each attention.
        positions: what biases the logits.
        self_bias: "cross": attention among the radar tokens has the bias from radar to optical
            places, as published; "own": that among radar places. Equal where nothing is masked.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        positions: Positions,
        self_bias: Literal["cross", "own"] = "cross",
    ) -> None:
        super().__init__()
        self.positions, self.self_bias = positions, self_bias
        self.blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(
        self,
        radar: Float[Tensor, "batch kept dim"],
        optical: Float[Tensor, "batch kept dim"],
        radar_places: Places,
        optical_places: Places,
    ) -> Float[Tensor, "batch kept dim"]:
        """Joint tokens at the places of the radar tokens."""
        across = self.positions.bias(radar_places, optical_places)
        within = across
        if self.self_bias == "own":
            within = self.positions.bias(radar_places, radar_places)
        for block in self.blocks:
            radar = block(radar, optical, within, across)
        return self.norm(radar)


class Decoder(nn.Module):
    """What all patches of both sensors hold, from the joint tokens of a few.

    Args:
        dim: width of the joint tokens.
        values: numbers in a patch of both sensors.
        width: of the tokens inside.
        depth: number of blocks.
        heads: of each.
    """

    def __init__(self, dim: int, values: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.positions = SinCosPositions(width)
        self.blocks = nn.ModuleList(
            Block(width, heads, feedforward(width), qkv_bias=False, eps=_EPS) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.values = nn.Linear(width, values)

    def forward(
        self,
        joint: Float[Tensor, "batch kept dim"],
        restore: Int[Tensor, "batch patches"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "batch patches values"]:
        """Standardised values of every patch of a grid.

        Args:
            joint: tokens in the order in which patches were kept.
            restore: see `random_masking`; of the radar patches.
            grid: rows and columns of patches.
        """
        tokens = self.narrow(joint)
        removed = restore.shape[1] - tokens.shape[1]
        masks = self.mask_token.to(tokens.dtype).expand(len(tokens), removed, -1)
        tokens = torch.cat([tokens, masks], dim=1)
        tokens = tokens.gather(1, restore[..., None].expand(-1, -1, tokens.shape[-1]))
        tokens = tokens + self.positions.embedding(grid_places(grid, tokens), grid)
        for block in self.blocks:
            tokens = block(tokens)
        values: Tensor = self.values(self.norm(tokens))
        return values


def standardised(
    patches: Float[Tensor, "batch patches values"],
) -> tuple[Float[Tensor, "batch patches values"], Tensor, Tensor]:
    """Every patch at mean 0 and (unbiased) variance 1, with its mean and deviation before."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    deviation = (variance + _VARIANCE_EPS).sqrt()
    return (patches - mean) / deviation, mean, deviation


@full_precision
def reconstruction_loss(
    predicted: Float[Tensor, "batch patches values"],
    optical: Float[Tensor, "batch patches optical_values"],
    radar: Float[Tensor, "batch patches radar_values"],
    optical_mask: Float[Tensor, "batch patches"],
    radar_mask: Float[Tensor, "batch patches"],
) -> Float[Tensor, ""]:
    """Mean square error over the removed optical patches, plus that over the removed radar ones.

    A patch is standardised over the values of both sensors at once.
    """
    split = [optical.shape[-1], radar.shape[-1]]
    target = standardised(torch.cat([optical, radar], dim=-1))[0]
    parts = zip(
        predicted.split(split, -1), target.split(split, -1), (optical_mask, radar_mask), strict=True
    )
    losses = [mae(own, true, mask, normalize_target=False) for own, true, mask in parts]
    return torch.stack(losses).sum()


class CROMA(System):
    """Contrast of the sensors and reconstruction of both, from a quarter of their patches.

    Args:
        shapes: "optical" and "radar" -> (bands, height, width) of one chip, the same height and
            width; any multiple of `patch` may be embedded later.
        patch: side of a patch in pixels.
        dim: width of the tokens; 768 is the base size, 1024 the large one.
        depth: blocks of the optical encoder, an even number: 12 or 24; the radar encoder and the
            cross encoder have half of them.
        heads: of every attention of the encoders.
        decoder_dim: width of the decoder.
        decoder_depth: its blocks.
        decoder_heads: of each of them.
        mask_ratio: share of the patches that are removed, of each sensor on its own.
        objectives: both, or one of them alone.
        positions: "alibi", or "sincos": fixed waves added to the patches instead.
        self_bias: see `CrossEncoder`.

    Raises:
        DataError: a choice is unknown; a sensor is missing, has no whole patches, or not those of
            the other.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        patch: int = 8,
        dim: int = 768,
        depth: int = 12,
        heads: int = 16,
        decoder_dim: int = 512,
        decoder_depth: int = 1,
        decoder_heads: int = 8,
        mask_ratio: float = 0.75,
        objectives: Literal["both", "masked", "contrastive"] = "both",
        positions: Literal["alibi", "sincos"] = "alibi",
        self_bias: Literal["cross", "own"] = "cross",
    ) -> None:
        super().__init__()
        missing = [name for name in SENSORS if name not in shapes]
        if missing:
            raise DataError(
                f"no {missing[0]} images among {', '.join(shapes)}",
                expected="both sensors in training; either may be embedded alone",
            )
        choices = {
            "objectives": (objectives, ("both", "masked", "contrastive")),
            "positions": (positions, ("alibi", "sincos")),
            "self_bias": (self_bias, ("cross", "own")),
        }
        for key, (value, known) in choices.items():
            if value not in known:
                raise DataError(f"system.{key}={value}", expected=f"one of {', '.join(known)}")
        if depth % 2:
            raise DataError(f"system.depth={depth}", expected="an even number")
        self.mask_ratio = mask_ratio
        self.contrastive, self.masked = objectives != "masked", objectives != "contrastive"
        channels = {name: int(shapes[name][0]) for name in SENSORS}

        def encoder(name: str, blocks: int) -> ViT:
            places = ALiBiPositions(heads) if positions == "alibi" else SinCosPositions(dim)
            return ViT(
                PatchEmbed2d(dim, patch, channels[name]),
                places,
                depth=blocks,
                heads=heads,
                qkv_bias=False,
                class_token=False,
                eps=_EPS,
            )

        self.encoders = nn.ModuleDict(
            {OPTICAL: encoder(OPTICAL, depth), RADAR: encoder(RADAR, depth // 2)}
        )
        for module in self.encoders.modules():
            # The narrow start that is usual for ViTs keeps the contrast on its first plateau for
            # hundreds of steps at the small size.
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        self._grid({name: torch.empty(1, *shapes[name], device="meta") for name in SENSORS})
        if self.contrastive:
            self.pools = nn.ModuleDict(
                {
                    name: nn.Sequential(nn.LayerNorm(dim, eps=_EPS), *feedforward(dim))
                    for name in SENSORS
                }
            )
            self.projections = nn.ModuleDict({name: nn.Linear(dim, dim) for name in SENSORS})
            self.scale = LogitScale(maximum=math.inf)
        if self.masked:
            between = ALiBiPositions(heads) if positions == "alibi" else Positions()
            self.cross = CrossEncoder(dim, depth // 2, heads, between, self_bias)
            values = sum(channels.values()) * patch**2
            self.decoder = Decoder(dim, values, decoder_dim, decoder_depth, decoder_heads)

    def _grid(self, batch: Batch) -> tuple[int, int]:
        """Rows and columns of patches, the same of all sensors that are there."""
        grids = {n: e.patches.grid(batch[n]) for n, e in self.encoders.items() if n in batch}
        if len(set(grids.values())) != 1:
            found = ", ".join(f"{name} {grid}" for name, grid in grids.items()) or "no sensor"
            raise DataError(
                f"patches of {found}",
                expected="optical, radar, or both, of one size",
                fix="align the sensors on one grid of pixels",
            )
        grid: tuple[int, int] = next(iter(grids.values()))
        return grid

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Noise that says which patches of each sensor are kept: `noise/SENSOR` (B, N)."""
        count = math.prod(self._grid(batch))
        return {f"noise/{name}": draws.uniform(0, 1, count) for name in SENSORS}

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The contrast, the reconstruction, and their sum (equation 1), of a batch with noise."""
        kept, restore, mask, tokens = self._masked_tokens(batch)
        terms: dict[str, Tensor] = {}
        if self.contrastive:
            pooled = {name: self.pools[name](of.mean(1)) for name, of in tokens.items()}
            optical, radar = (self.projections[name](of) for name, of in pooled.items())
            self.latest = {"features": pooled[OPTICAL].detach()}
            terms["contrastive"] = info_nce(optical, radar, 1 / self.scale())
        if self.masked:
            joint, predicted = self._decoded(batch, kept, restore, tokens)
            if not self.contrastive:
                self.latest = {"features": joint.mean(1).detach()}
            terms["reconstruction"] = reconstruction_loss(
                predicted,
                *(self.encoders[name].patches.patchify(batch[name]) for name in SENSORS),
                *(mask[name] for name in SENSORS),
            )
        return {"loss": torch.stack(list(terms.values())).sum()} | terms

    def _masked_tokens(
        self, batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Of each sensor: kept patches, how they are put back, the mask, and the kept tokens."""
        kept, restore, mask, tokens = {}, {}, {}, {}
        for name in SENSORS:
            noise = batch[f"noise/{name}"]
            kept[name], mask[name], restore[name] = random_masking(noise, self.mask_ratio)
            tokens[name] = self.encoders[name](batch[name], kept[name])
        return kept, restore, mask, tokens

    def _decoded(
        self,
        batch: Batch,
        kept: dict[str, Tensor],
        restore: dict[str, Tensor],
        tokens: dict[str, Tensor],
    ) -> tuple[Float[Tensor, "batch kept dim"], Float[Tensor, "batch patches values"]]:
        """Joint tokens, and the standardised patches that the decoder makes of them."""
        grid = self._grid(batch)
        places = grid_places(grid, batch[OPTICAL])
        joint = self.cross(
            tokens[RADAR], tokens[OPTICAL], places[kept[RADAR]], places[kept[OPTICAL]]
        )
        return joint, self.decoder(joint, restore[RADAR], grid)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> dict[str, Float[Tensor, "batch bands height width"]]:
        """What the model sees of a batch with noise, and what it makes of it.

        Returns:
            `SENSOR/seen`: removed patches are 0; `SENSOR`: they are as the decoder has them, in
            the units of the input. Its mean and deviation a patch are those of the true patch:
            they are no part of what is learnt.

        Raises:
            DataError: the system was built without the reconstruction.
        """
        if not self.masked:
            raise DataError(
                "system.objectives=contrastive reconstructs nothing", expected="both or masked"
            )
        kept, restore, mask, tokens = self._masked_tokens(batch)
        predicted = self._decoded(batch, kept, restore, tokens)[1].float()
        patches = [self.encoders[name].patches.patchify(batch[name]) for name in SENSORS]
        _, mean, deviation = standardised(torch.cat(patches, dim=-1))
        made = (predicted * deviation + mean).split([own.shape[-1] for own in patches], -1)
        images = {}
        for name, true, own in zip(SENSORS, patches, made, strict=True):
            removed = mask[name].bool()[..., None]
            images[name] = self._image(name, torch.where(removed, own, true), batch)
            images[f"{name}/seen"] = self._image(name, true.masked_fill(removed, 0), batch)
        return images

    def _image(self, name: str, patches: Tensor, batch: Batch) -> Tensor:
        """Patches put together again."""
        grid, cut = self._grid(batch), self.encoders[name].patches
        cells = patches.unflatten(1, grid).unflatten(3, (cut.channels, *cut.patch))
        return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch[name].shape)

    def tokens(self, batch: Batch) -> dict[str, Float[Tensor, "batch patches dim"]]:
        """Tokens of all patches, row by row: of each sensor that is there, and `joint` of both."""
        grid = self._grid(batch)
        tokens = {n: encoder(batch[n]) for n, encoder in self.encoders.items() if n in batch}
        if self.masked and len(tokens) == len(SENSORS):
            places = grid_places(grid, batch[OPTICAL])[None]
            tokens["joint"] = self.cross(tokens[RADAR], tokens[OPTICAL], places, places)
        return tokens

    def embed(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """One vector a chip of each sensor that is there, and `joint` of both; not of unit length.

        A sensor's is its pooled vector, the joint one the mean of the joint tokens.
        """
        means = {name: of.mean(1).float() for name, of in self.tokens(batch).items()}
        pools = self.pools if self.contrastive else {}
        return {n: pools[n](of).float() if n in pools else of for n, of in means.items()}

    def project(self, batch: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
        """Unit vectors whose cosines compare chips across the sensors.

        Masked only, the sensors have no common space: their embeddings at unit length.
        """
        found = {}
        for name in SENSORS:
            if name not in batch:
                continue
            vectors = self.embed({name: batch[name]})[name]
            if self.contrastive:
                vectors = self.projections[name](vectors).float()
            found[name] = nn.functional.normalize(vectors, dim=1)
        return found
