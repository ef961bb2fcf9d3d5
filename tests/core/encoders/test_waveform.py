import pytest
import torch
from torch import nn

from core.augment.draws import Draws
from core.data.checks import DataError
from core.encoders.span_masks import span_masks, spans
from core.encoders.waveform import (
    ConvPositions,
    TimeNorm,
    WaveConvolutions,
    WaveEncoder,
    relaxed_attention,
)

SMALL = {
    "convolutions": [(8, 10, 5), (8, 8, 8), (8, 4, 4), (8, 2, 2)],
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "hidden": 32,
    "position_kernel": 8,
    "position_groups": 4,
}


def _encoder(**changes: object) -> WaveEncoder:
    torch.manual_seed(0)
    return WaveEncoder(**SMALL | changes)


def _copy_torchaudio(ours: WaveEncoder, theirs: nn.Module) -> None:
    """Their weights into ours."""
    found = theirs.state_dict()
    extractor, encoder = "feature_extractor.conv_layers", "encoder.transformer"
    projection = "encoder.feature_projection"
    names = {"norm": f"{encoder}.layer_norm", "feature_norm": f"{projection}.layer_norm"}
    names |= {"projection": f"{projection}.projection"}
    names |= {"convolutions.norm": f"{extractor}.0.layer_norm"}
    for number in range(len(ours.convolutions.convolutions)):
        names[f"convolutions.convolutions.{number}"] = f"{extractor}.{number}.conv"
    names["positions.convolution"] = f"{encoder}.pos_conv_embed.conv"
    blocks = {"attention.out": "attention.out_proj", "attention_norm": "layer_norm"}
    blocks |= {"up": "feed_forward.intermediate_dense", "down": "feed_forward.output_dense"}
    blocks |= {"final_norm": "final_layer_norm"}
    for number in range(len(ours.blocks)):
        layer = f"{encoder}.layers.{number}"
        names |= {f"blocks.{number}.{k}": f"{layer}.{v}" for k, v in blocks.items()}
    weights = {}
    for name in ours.state_dict():
        module, _, leaf = name.rpartition(".")
        if "parametrizations" in module:
            module, _, middle = module.partition(".parametrizations")
            leaf = f"parametrizations{middle}.{leaf}"
        if module.endswith("attention.qkv"):
            layer = f"{encoder}.layers.{module.split('.')[1]}.attention"
            parts = [found[f"{layer}.{part}_proj.{leaf}"] for part in "qkv"]
            weights[name] = torch.cat(parts)
        elif name != "mask_vector":
            weights[name] = found[f"{names[module]}.{leaf}"]
    ours.load_state_dict(weights | {"mask_vector": ours.mask_vector.detach()})


@pytest.mark.parametrize("pre_norm", [False, True])
def test_it_is_the_trunk_of_torchaudio(pre_norm: bool) -> None:
    from torchaudio.models import hubert_pretrain_model

    ours = _encoder(pre_norm=pre_norm).eval()
    theirs = hubert_pretrain_model(
        extractor_mode="group_norm",
        extractor_conv_layer_config=SMALL["convolutions"],
        extractor_conv_bias=False,
        encoder_embed_dim=SMALL["dim"],
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=SMALL["position_kernel"],
        encoder_pos_conv_groups=SMALL["position_groups"],
        encoder_num_layers=SMALL["depth"],
        encoder_num_heads=SMALL["heads"],
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=SMALL["hidden"],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.1,
        encoder_layer_norm_first=pre_norm,
        encoder_layer_drop=0.0,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=5,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=4,
        final_dim=4,
        feature_grad_mult=None,
    ).wav2vec2.eval()
    with torch.no_grad():  # so that no norm is the identity
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    _copy_torchaudio(ours, theirs)
    wave = torch.randn(3, 4000)
    states = ours(wave).states
    assert states[0].shape == (3, ours.n_frames(4000), 16)
    last, _ = theirs(wave)
    torch.testing.assert_close(states[-1], last)
    layers, _ = theirs.extract_features(wave)
    torch.testing.assert_close(states[1], layers[0])


def test_padding_changes_nothing() -> None:
    encoder = _encoder().eval()
    wave, samples = torch.randn(2, 3000), torch.tensor([3000, 2100])
    alone = encoder(wave[1:, :2100])
    for padding in (0, 3000):
        padded = torch.cat([wave, torch.randn(2, padding)], 1)
        padded[1, 2100:] += 5
        found = encoder(padded, samples)
        n_frames = encoder.n_frames(2100)
        assert found.valid is not None
        assert found.valid.sum(1).tolist() == [encoder.n_frames(3000), n_frames]
        for ours, expected in zip(found.states, alone.states, strict=True):
            torch.testing.assert_close(ours[1:, :n_frames], expected, rtol=1e-4, atol=1e-5)


def test_masked_frames_show_nothing_of_themselves() -> None:
    encoder = _encoder(depth=0).eval()
    wave = torch.randn(1, 3520)
    mask = torch.ones(1, encoder.n_frames(3520), dtype=torch.bool)
    first, second = encoder(wave, mask=mask), encoder(torch.randn(1, 3520), mask=mask)
    assert torch.equal(first.states[0], second.states[0])
    assert not torch.equal(encoder(wave).states[0], first.states[0])


@pytest.mark.parametrize("recompute", [0, 2])
def test_the_gradient_of_the_convolutions_is_scaled(recompute: int) -> None:
    wave, gradients = torch.randn(2, 3000), {}
    for factor in (1.0, 0.1):
        encoder = _encoder(
            feature_gradient=factor,
            dropout=0.0,
            attention_dropout=0.0,
            layer_drop=0.0,
            recompute=recompute,
        )
        encoder(wave).states[-1].square().sum().backward()
        gradients[factor] = [p.grad for p in encoder.parameters() if p.grad is not None]
    convolutions = 4 + 2  # and the norm
    for number, (whole, tenth) in enumerate(zip(*gradients.values(), strict=True)):
        assert whole.abs().sum() > 0
        scale = 0.1 if number in range(convolutions) else 1
        torch.testing.assert_close(tenth, scale * whole, rtol=1e-4, atol=1e-7)


def test_every_weight_has_a_gradient_whatever_blocks_are_dropped() -> None:
    encoder = _encoder(layer_drop=1.0)
    found = encoder(torch.randn(2, 3000), mask=torch.ones(2, 9, dtype=torch.bool))
    assert torch.equal(found.states[0], found.states[-1])
    sum(state.sum() for state in found.states).backward()
    assert all(p.grad is not None for p in encoder.blocks.parameters())


def test_the_norm_over_time_is_group_norm() -> None:
    x = torch.randn(2, 4, 30)
    norm = TimeNorm(4)
    torch.testing.assert_close(norm(x, torch.tensor([30, 30])), norm(x))
    torch.testing.assert_close(norm(x, torch.tensor([30, 20]))[1, :, :20], norm(x[1:, :, :20])[0])


def test_frames_of_the_published_convolutions() -> None:
    convolutions = WaveConvolutions()
    assert (convolutions.hop, convolutions.window, convolutions.dim) == (320, 400, 512)
    assert convolutions.n_frames(24000) == 74
    with pytest.raises(DataError, match="400 for one frame"):
        convolutions(torch.zeros(1, 300))


def test_positions_keep_the_number_of_frames() -> None:
    for kernel in (7, 8):
        assert ConvPositions(16, kernel, 4)(torch.randn(1, 5, 16)).shape == (1, 5, 16)


def test_relaxed_attention_is_attention() -> None:
    query, key = torch.randn(2, 2, 3, 7, 8, dtype=torch.float64).unbind(0)
    seen = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    seen[1, ..., 5:] = False
    scores = (query @ key.transpose(-1, -2) / 8**0.5).masked_fill(~seen, -torch.inf)
    torch.testing.assert_close(relaxed_attention(query, key, 32.0, seen), scores.softmax(-1))


def test_relaxed_attention_stays_in_the_range_of_half_precision() -> None:
    # The largest score is about 2e5, the largest number of float16 is 65504.
    query = 250 * torch.randn(1, 1, 16, 64).half()
    key = 250 * torch.randn(1, 1, 16, 64).half()
    scores = query.double() @ key.double().transpose(-1, -2) / 8
    assert scores.abs().max() > 65504
    assert not (query @ key.transpose(-1, -2) / 8).isfinite().all()
    weights = relaxed_attention(query, key, 32.0)
    assert weights.isfinite().all()
    # Scores of this size are apart by more than half precision rounds.
    assert torch.equal(weights.argmax(-1), scores.argmax(-1))


def _draws(seed: int, rows: int) -> Draws:
    return Draws(seed, rows, slice(0, rows), torch.device("cpu"))


def test_spans_are_as_many_and_as_long_as_said() -> None:
    order = torch.rand(64, 100)
    chance = torch.full((64, 1), 0.5)
    mask = spans(chance, order, 0.5, 5, 2)
    # Ten spans each: starts are the places of the ten smallest of the first 95.
    starts = order[:, :95].argsort(1)[:, :10]
    expected = torch.zeros(64, 100, dtype=torch.bool)
    for row in range(64):
        for start in starts[row].tolist():
            expected[row, start : start + 5] = True
    assert torch.equal(mask, expected)


def test_the_share_that_is_masked() -> None:
    mask = span_masks(375, _draws(0, 512))
    assert mask.float().mean() == pytest.approx(1 - (1 - 0.8 / 5) ** 5, abs=0.01)


def test_spans_keep_to_the_wave() -> None:
    frames = torch.tensor([40, 100, 7, 3])
    mask = span_masks(100, _draws(1, 4), probability=0.1, frames=frames)
    time = torch.arange(100)
    assert not (mask & (time >= frames[:, None])).any()
    assert (mask.sum(1) >= torch.tensor([6, 6, 6, 3])).all()  # two spans of 5, that may overlap
