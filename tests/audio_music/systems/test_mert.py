from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audio_music.systems.mert import MERT, masked_prediction, mixed
from audio_music.systems.mert_weights import load_published, read_published
from core.augment.draws import Draws
from core.data.checks import DataError
from tests.audio_music.recordings import TINY, Tones


def _system(**changes: object) -> MERT:
    torch.manual_seed(0)
    system = MERT(8000, **TINY | changes)
    system.prepare(Tones())
    return system


def _still(**changes: object) -> MERT:
    """Without anything random in its layers."""
    return _system(dropout=0.0, attention_dropout=0.0, layer_drop=0.0, **changes)


def _batch(system: MERT, rows: int = 4, samples: int = 8000, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {"wave": 0.1 * torch.randn(rows, samples, generator=generator)}
    draws = Draws(seed, rows, slice(0, rows), torch.device("cpu"))
    return batch | system.draw(batch, draws)


def test_the_gradient_of_the_objective_reaches_the_convolutions_scaled() -> None:
    gradients = []
    for factor in (1.0, 0.1):
        system = _still(feature_gradient=factor, mixture=0.0)
        system.objective(_batch(system))["loss"].backward()
        gradients.append([p.grad for p in system.encoder.convolutions.parameters()])
        assert all(p.grad is not None for p in system.parameters() if p.requires_grad)
    for whole, tenth in zip(*gradients, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(tenth, 0.1 * whole, rtol=1e-3, atol=1e-8)


def _heads() -> tuple[nn.Linear, Tensor, nn.Linear]:
    return nn.Linear(6, 3 * 4), torch.randn(3, 5, 4), nn.Linear(6, 7)


def _targets() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randint(0, 5, (2, 9, 3)), torch.rand(2, 9, 7), torch.rand(2, 9) < 0.5


def test_frames_that_are_not_predicted_have_no_gradient() -> None:
    states = torch.randn(2, 9, 6, requires_grad=True)
    projection, codes, cqt_head = _heads()
    labels, cqt, frames = _targets()
    terms = masked_prediction(
        states, torch.randn(2, 9, 5), projection, codes, cqt_head, labels, cqt, frames
    )
    terms["loss"].backward()
    moved = states.grad.abs().sum(-1) > 0
    assert torch.equal(moved, frames)


def test_permuted_codebooks_permute_their_losses_only() -> None:
    states, features = torch.randn(2, 9, 6), torch.randn(2, 9, 5)
    projection, codes, cqt_head = _heads()
    labels, cqt, frames = _targets()
    order = torch.tensor([2, 0, 1])
    permuted = nn.Linear(6, 12)
    permuted.weight = nn.Parameter(projection.weight.unflatten(0, (3, 4))[order].flatten(0, 1))
    permuted.bias = nn.Parameter(projection.bias.unflatten(0, (3, 4))[order].flatten(0, 1))
    first = masked_prediction(states, features, projection, codes, cqt_head, labels, cqt, frames)
    again = masked_prediction(
        states, features, permuted, codes[order], cqt_head, labels[..., order], cqt, frames
    )
    for name in ("loss", "codes", "cqt", "penalty"):
        torch.testing.assert_close(again[name], first[name])
    for place, number in enumerate(order.tolist()):
        torch.testing.assert_close(again[f"code_{place}"], first[f"code_{number}"])
    assert len({round(float(first[f"code_{k}"].detach()), 4) for k in range(3)}) == 3


def test_padding_leaves_the_loss_as_it_is() -> None:
    system = _still(mixture=0.0)
    batch = _batch(system, 3)
    samples = torch.tensor([8000, 6000, 7000])
    batch["wave"] = batch["wave"] * (torch.arange(8000) < samples[:, None])
    batch["samples"] = samples
    once = system.objective(batch)
    frames = system.encoder.n_frames(12000)
    longer = {"wave": nn.functional.pad(batch["wave"], (0, 4000)), "samples": samples}
    mask = nn.functional.pad(batch["mask"], (0, frames - batch["mask"].shape[1]))
    twice = system.objective(longer | {"mask": mask, "mixture": batch["mixture"]})
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_targets_are_those_of_the_clean_wave() -> None:
    system = _still(mixture=1.0)
    batch = _batch(system)
    seen: list[Tensor] = []
    for teacher in (system.cqt, system.teacher):
        call = "forward" if teacher is system.cqt else "encode"
        original = getattr(teacher, call)

        def spied(wave: Tensor, original: object = original) -> Tensor:
            seen.append(wave)
            return original(wave)  # type: ignore[operator]

        setattr(teacher, call, spied)
    system.objective(batch)
    assert len(seen) == 2
    assert all(torch.equal(wave, batch["wave"]) for wave in seen)
    longest = TINY["mixture_samples"][1]
    assert not torch.equal(mixed(batch["wave"], batch["mixture"], longest), batch["wave"])


def test_an_impulse_is_in_the_frame_of_its_feature() -> None:
    system = _still()
    at = 40 * 80
    wave = torch.zeros(1, 8000)
    wave[0, at + 40] = 1.0
    features = system.encoder.convolutions(wave)[0]
    silent = system.encoder.convolutions(torch.zeros(1, 8000))[0]
    feature_frame = int((features - silent).abs().sum(0).argmax())
    cqt_frame = int(system.cqt(wave)[0, :, -1].argmax())
    assert abs(feature_frame - cqt_frame) <= 1
    assert abs(cqt_frame - 40) <= 1


def test_excerpts_are_drawn_within_their_bounds() -> None:
    system = _system(mixture=0.5)
    n_clips, n_samples = 400, 1000
    wave = torch.randn(n_clips, n_samples)
    drawn = system.draw({"wave": wave}, Draws(3, n_clips, slice(0, n_clips), torch.device("cpu")))
    start, length, place = drawn["mixture"].unbind(-1)
    assert int(length[length > 0].min()) >= TINY["mixture_samples"][0]
    assert int(length.max()) <= TINY["mixture_samples"][1]
    assert bool((start + TINY["mixture_samples"][1] <= (n_clips - 1) * n_samples).all())
    assert bool((place + length <= n_samples).all())
    count = (length > 0).sum(1)
    assert (count > 0).float().mean() == pytest.approx(0.5, abs=0.08)
    shares = torch.bincount(count, minlength=4)[1:] / (count > 0).sum()
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.1, rtol=0)


def test_a_batch_of_one_clip_has_nothing_to_mix() -> None:
    system = _system(mixture=1.0)
    batch = _batch(system, rows=1)
    assert torch.equal(mixed(batch["wave"], batch["mixture"], 100), batch["wave"])
    assert system.objective(batch)["loss"].isfinite()


def test_layers_are_means_over_the_time_of_each_wave() -> None:
    system = _still().eval()
    wave = 0.1 * torch.randn(2, 8000)
    alone = system.layers({"wave": wave[1:, :5000]})
    batch = {"wave": wave * (torch.arange(8000) < torch.tensor([[8000], [5000]]))}
    both = system.layers(batch | {"samples": torch.tensor([8000, 5000])})
    assert both.shape == (2, 3, 16)
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
    embedded = system.embed({"wave": wave})["audio"]
    torch.testing.assert_close(embedded, system.layers({"wave": wave}).mean(1))


def _published(dim: int, depth: int, hidden: int, **changes: object) -> nn.Module:
    """A model whose state dict has the layout of the published files."""
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(1)
    config = HubertConfig(
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=dim // 64,
        intermediate_size=hidden,
        conv_dim=[512] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        attn_implementation="eager",
        **changes,
    )
    model = HubertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("old_names", [False, True])
def test_published_weights_give_the_states_of_transformers(old_names: bool, tmp_path: Path) -> None:
    model = _published(128, 2, 96)
    weights = dict(model.state_dict())
    if old_names:
        for kind, number in (("g", 0), ("v", 1)):
            new = f"encoder.pos_conv_embed.conv.parametrizations.weight.original{number}"
            weights[f"encoder.pos_conv_embed.conv.weight_{kind}"] = weights.pop(new)
        weights["final_proj.weight"] = torch.zeros(3)  # a head that is not of the trunk
    torch.save(weights, tmp_path / "pytorch_model.bin")
    system = read_published(tmp_path)
    wave = 0.1 * torch.randn(2, 4000)
    states = model(wave, output_hidden_states=True).hidden_states
    found = system.encoder(wave).states
    assert len(found) == len(states) == 3
    for ours, expected in zip(found, states, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_another_size_and_no_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="not the published weights of MERT"):
        read_published(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_published(_system().encoder, tmp_path / "pytorch_model.bin")
    large = _published(128, 1, 96, conv_bias=True, feat_extract_norm="layer")
    torch.save(large.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"conv_layers\.0\.conv\.bias is more than they have"):
        read_published(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no weights"):
        read_published(empty)
