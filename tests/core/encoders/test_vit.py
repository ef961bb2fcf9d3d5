import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.data.checks import DataError
from core.encoders.attention import DistanceBias
from core.encoders.positions import (
    ALiBiPositions,
    LearnedPositions,
    Positions,
    RotaryPositions,
    SinCosPositions,
)
from core.encoders.vit import PatchEmbed2d, PatchEmbed3d, ViT

POSITIONS = [
    Positions(),
    SinCosPositions(24),
    LearnedPositions(24, (4, 4)),
    RotaryPositions(12),
    ALiBiPositions(2),
]


def _vit(positions: Positions, registers: int = 1, class_token: bool = True) -> ViT:
    torch.manual_seed(1)
    vit = ViT(
        PatchEmbed2d(24, patch=4),
        positions,
        depth=2,
        heads=2,
        registers=registers,
        class_token=class_token,
    )
    _scramble(vit)
    return vit


def _scramble(module: nn.Module) -> None:
    """Large random weights, so that no branch is too small to be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))


def _timm_weights(source: VisionTransformer) -> dict[str, Tensor]:
    """The weights of timm's transformer under our names."""
    weights = source.state_dict()
    position = weights.pop("pos_embed")[0]
    prefix = [weights.pop("cls_token")[0] + position[:1]]
    if "reg_token" in weights:
        prefix.append(weights.pop("reg_token")[0] + position[1:3])
    mapped = {
        "prefix_tokens.weight": torch.cat(prefix),
        "positions.table.weight": position[sum(map(len, prefix)) :],
        "patches.projection.weight": weights.pop("patch_embed.proj.weight").flatten(1),
        "patches.projection.bias": weights.pop("patch_embed.proj.bias"),
    }
    names = {
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.out",
        "mlp.fc1": "feedforward.0",
        "mlp.fc2": "feedforward.2",
        "ls1.gamma": "scale1",
        "ls2.gamma": "scale2",
    }
    for name, value in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        mapped[name] = value
    return mapped


@pytest.mark.parametrize(("registers", "layer_scale"), [(0, None), (2, 0.1)])
def test_equals_timm_with_the_same_weights(registers: int, layer_scale: float | None) -> None:
    size = {"embed_dim": 24, "depth": 3, "num_heads": 4, "patch_size": 4, "img_size": 16}
    theirs = VisionTransformer(
        **size, num_classes=0, init_values=layer_scale, reg_tokens=registers, dynamic_img_size=True
    ).eval()
    _scramble(theirs)
    ours = ViT(
        PatchEmbed2d(24, patch=4),
        LearnedPositions(24, (4, 4)),
        depth=3,
        heads=4,
        registers=registers,
        layer_scale=layer_scale,
    )
    ours.load_state_dict(_timm_weights(theirs))
    for side in (16, 24):  # the second with interpolated positions
        images = torch.randn(2, 3, side, side)
        tokens = ours(images)
        torch.testing.assert_close(tokens, theirs.forward_features(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.pool(tokens), theirs(images), rtol=1e-5, atol=1e-5)


class _OnlyThese(Positions):
    """All tokens there, the logits of removed patches at minus infinity."""

    def __init__(self, inner: Positions, keep: Tensor, patches: int, prefix: int) -> None:
        super().__init__()
        self.inner = inner
        self.away = torch.full((len(keep), prefix + patches), torch.inf)
        self.away[:, :prefix] = 0
        self.away.scatter_(1, keep + prefix, 0)

    def embedding(self, places: Tensor, grid: tuple[int, ...]) -> Tensor | None:
        return self.inner.embedding(places, grid)

    def rotation(self, places: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        return self.inner.rotation(places, grid)

    def bias(self, queries: Tensor, keys: Tensor) -> DistanceBias:
        inner = self.inner.bias(queries, keys)
        if inner is None:
            inner = DistanceBias(torch.ones(2), torch.zeros(1, queries.shape[1], keys.shape[1]))
        return DistanceBias(inner.slopes, inner.distances + self.away[:, None])


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda positions: type(positions).__name__)
def test_dropping_patches_equals_hiding_them_from_attention(positions: Positions) -> None:
    vit = _vit(positions)
    images = torch.randn(3, 3, 16, 16)
    keep = torch.stack([torch.randperm(16)[:5] for _ in range(3)])
    dropped = vit(images, keep)
    assert dropped.shape == (3, 2 + 5, 24)
    vit.positions = _OnlyThese(positions, keep, patches=16, prefix=2)
    hidden = vit(images)
    rows = torch.cat([torch.arange(2).expand(3, -1), keep + 2], dim=1)
    expected = hidden.gather(1, rows[..., None].expand(-1, -1, 24))
    torch.testing.assert_close(dropped, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS[1:], ids=lambda p: type(p).__name__)
def test_positions_tell_patches_apart(positions: Positions) -> None:
    """Exchanging two patches changes the tokens of the others, but not without positions."""
    images = torch.randn(2, 3, 16, 16)
    exchanged = images.clone()
    exchanged[..., :4, :4], exchanged[..., 8:12, 4:8] = (
        images[..., 8:12, 4:8],
        images[..., :4, :4],
    )
    others = [row for row in range(2 + 16) if row not in (2 + 0, 2 + 9)]

    def change(vit: ViT) -> float:
        return (vit(images) - vit(exchanged))[:, others].abs().max().item()

    assert change(_vit(Positions())) < 1e-4
    assert change(_vit(positions)) > 1e-3


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda p: type(p).__name__)
def test_other_sizes_and_all_patches_in_another_order(positions: Positions) -> None:
    vit = _vit(positions)
    images = torch.randn(1, 3, 12, 24)
    tokens = vit(images)
    assert tokens.shape == (1, 2 + 18, 24)
    order = torch.randperm(18)
    shuffled = vit(images, order[None])
    torch.testing.assert_close(shuffled[:, 2:], tokens[:, 2:][:, order], rtol=1e-4, atol=1e-4)


def _flops(vit: ViT, images: Tensor, keep: Tensor | None = None) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vit(images, keep)
    return counter.get_total_flops()


def test_dropped_patches_cost_nothing() -> None:
    vit = _vit(SinCosPositions(24), registers=0, class_token=False)
    keep = torch.stack([torch.randperm(64)[:16] for _ in range(2)])
    large, small = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16)
    kept = _flops(vit, large, keep)
    assert kept == _flops(vit, small) > 0
    assert _flops(vit, large) >= 4 * kept


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda p: type(p).__name__)
def test_half_precision_stays_close(positions: Positions) -> None:
    torch.manual_seed(1)
    vit = ViT(PatchEmbed2d(24, patch=4), positions, depth=2, heads=2, registers=1)
    images = torch.randn(2, 3, 16, 16)
    keep = torch.stack([torch.randperm(16)[:9] for _ in range(2)])
    with torch.autocast("cpu", torch.bfloat16):
        half = vit(images, keep)
    torch.testing.assert_close(half.float(), vit(images, keep), atol=0.06, rtol=0)


def test_gradients_reach_every_weight() -> None:
    vit = ViT(
        PatchEmbed2d(24, patch=4),
        LearnedPositions(24, (4, 4)),
        depth=2,
        heads=2,
        registers=1,
        layer_scale=1e-5,
    )
    weights = torch.randn(2, 18, 24)
    (vit(torch.randn(2, 3, 16, 16)) * weights).sum().backward()
    for name, parameter in vit.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_patches_of_images_and_volumes_are_convolutions() -> None:
    torch.manual_seed(0)
    flat, deep = PatchEmbed2d(8, patch=4, channels=2), PatchEmbed3d(8, (2, 4, 3), channels=2)
    image, volume = torch.randn(2, 2, 8, 12), torch.randn(2, 2, 4, 8, 9)
    weight, bias = flat.projection.weight.view(8, 2, 4, 4), flat.projection.bias
    expected = nn.functional.conv2d(image, weight, bias, stride=4)
    torch.testing.assert_close(flat(image), expected.flatten(2).mT)
    weight, bias = deep.projection.weight.view(8, 2, 2, 4, 3), deep.projection.bias
    expected = nn.functional.conv3d(volume, weight, bias, stride=(2, 4, 3))
    torch.testing.assert_close(deep(volume), expected.flatten(2).mT)
    keep = torch.tensor([[3, 0], [1, 2]])
    torch.testing.assert_close(flat(image, keep)[1], flat(image)[1, keep[1]])


@pytest.mark.parametrize(
    "positions",
    [SinCosPositions(24), RotaryPositions(12), ALiBiPositions(2), LearnedPositions(24, (3, 3, 2))],
    ids=lambda p: type(p).__name__,
)
def test_volumes_and_frames(positions: Positions) -> None:
    torch.manual_seed(1)
    vit = ViT(PatchEmbed3d(24, (2, 4, 4), channels=1), positions, depth=2, heads=2)
    _scramble(vit)
    volumes = torch.randn(2, 1, 6, 12, 8)
    tokens = vit(volumes)
    assert tokens.shape == (2, 1 + 18, 24)
    later = volumes.roll(2, dims=2)
    assert (vit.pool(tokens) - vit.pool(vit(later))).abs().max() > 1e-3


def test_without_a_class_token_patches_are_averaged() -> None:
    vit = _vit(SinCosPositions(24), registers=2, class_token=False)
    tokens = vit(torch.randn(2, 3, 8, 8))
    assert tokens.shape == (2, 2 + 4, 24)
    torch.testing.assert_close(vit.pool(tokens), tokens[:, 2:].mean(1))


def test_mask_tokens_stand_in_for_patches() -> None:
    vit = _vit(SinCosPositions(24))
    images = torch.randn(2, 3, 16, 16)
    mask = torch.rand(2, 16) < 0.5
    tokens = torch.where(mask[..., None], torch.zeros(24), vit.patches(images))
    elsewhere = images.clone()
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    elsewhere[hidden.expand_as(images)] = 9.0
    same = torch.where(mask[..., None], torch.zeros(24), vit.patches(elsewhere))
    torch.testing.assert_close(vit.encode(tokens, (4, 4)), vit.encode(same, (4, 4)))


def test_another_feed_forward_module() -> None:
    vit = ViT(PatchEmbed2d(24), Positions(), depth=2, heads=2, feedforward=nn.Identity)
    assert all(isinstance(block.feedforward, nn.Identity) for block in vit.blocks)
    assert vit(torch.randn(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 18), "multiples of the patch"),
        ((1, 1, 16, 16), "(batch, 3, and 2 sizes)"),
        ((1, 3, 16, 16, 16), "(batch, 3, and 2 sizes)"),
    ],
)
def test_inputs_without_whole_patches_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=r"shape \(1, ") as error:
        _vit(Positions())(torch.zeros(shape))
    assert message in str(error.value)
