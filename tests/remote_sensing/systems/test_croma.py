import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import Samples
from core.encoders.positions import ALiBiPositions, grid_places
from core.tasks.probing import Probing
from remote_sensing.systems.croma import CROMA, CrossEncoder, reconstruction_loss
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import Case, gradients

SHAPES = {"optical": [3, 24, 24], "radar": [2, 24, 24]}
TINY = {"patch": 4, "dim": 16, "depth": 4, "heads": 4, "decoder_dim": 16, "decoder_heads": 4}


def _system(scrambled: bool = True, shapes: dict[str, list[int]] = SHAPES, **more: Any) -> CROMA:
    torch.manual_seed(1)
    system = CROMA(shapes, **(TINY | more))
    if scrambled:  # large weights, so that no branch is too small to be seen
        with torch.no_grad():
            for parameter in system.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return system


def _images(height: int = 24, width: int = 24, rows: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.rand(rows, shape[0], height, width, generator=generator)
        for name, shape in SHAPES.items()
    }


def _draws(seed: int, rows: int = 5) -> Draws:
    return Draws(seed, rows, slice(0, rows), torch.device("cpu"))


def _batch(system: CROMA, seed: int = 3, **size: int) -> dict[str, Tensor]:
    images = _images(**size)
    return images | system.draw(images, _draws(seed))


def _kept_pixels(noise: Tensor, height: int = 24, width: int = 24) -> Tensor:
    """(B, 1, height, width) True on the quarter of the patches with the least noise."""
    kept = torch.zeros_like(noise, dtype=torch.bool)
    kept.scatter_(1, noise.argsort(1)[:, : noise.shape[1] // 4], True)
    grid = kept.view(-1, 1, height // 4, width // 4)
    return grid.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize("objectives", ["both", "masked", "contrastive"])
@pytest.mark.parametrize("positions", ["alibi", "sincos"])
def test_every_parameter_of_every_arm_is_trained(objectives: Any, positions: Any) -> None:
    system = _system(objectives=objectives, positions=positions)
    terms = system.objective(_batch(system))
    named = {"both": {"contrastive", "reconstruction"}, "masked": {"reconstruction"}}
    assert terms.keys() - {"loss"} == named.get(objectives, {"contrastive"})
    torch.testing.assert_close(terms["loss"], sum(v for k, v in terms.items() if k != "loss"))
    terms["loss"].backward()
    for name, parameter in system.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_sensors_are_masked_on_their_own() -> None:
    system = _system()
    batch = _batch(system)
    loss = system.objective(batch)
    assert not torch.equal(batch["noise/optical"], batch["noise/radar"])
    shared = system.objective(batch | {"noise/radar": batch["noise/optical"]})
    for name in ("contrastive", "reconstruction"):
        assert (loss[name] - shared[name]).abs() > 1e-3, name


@pytest.mark.parametrize("sensor", ["optical", "radar"])
def test_removed_pixels_are_seen_by_the_reconstruction_alone(sensor: str) -> None:
    system = _system()
    batch = _batch(system)
    kept = _kept_pixels(batch[f"noise/{sensor}"])
    assert kept.float().mean() == 0.25
    before = system.objective(batch)
    removed = system.objective(batch | {sensor: torch.where(kept, batch[sensor], 0.9)})
    torch.testing.assert_close(before["contrastive"], removed["contrastive"], rtol=0, atol=0)
    assert (before["reconstruction"] - removed["reconstruction"]).abs() > 1e-2
    seen = system.objective(batch | {sensor: torch.where(kept, 0.9, batch[sensor])})
    assert (before["contrastive"] - seen["contrastive"]).abs() > 1e-3


def test_only_kept_patches_are_encoded() -> None:
    flops = {}
    for ratio in (0.0, 0.75):
        system = _system(objectives="contrastive", mask_ratio=ratio)
        batch = _batch(system)
        with FlopCounterMode(display=False) as counter:
            system.objective(batch)
        flops[ratio] = counter.get_total_flops()
    assert flops[0.75] < 0.3 * flops[0.0]


class _Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_no_bias_of_all_patches_is_made_in_training() -> None:
    system = _system()
    batch = _batch(system, height=48, width=48)
    with _Largest() as largest:
        system.objective(batch)["loss"].backward()
    samples, heads, patches = 5, 4, 144
    assert largest.elements < samples * heads * patches**2 / 2
    assert largest.elements >= samples * patches * 5 * 16  # the patches themselves


def test_the_reconstruction_is_the_sum_of_two_masked_means() -> None:
    generator = torch.Generator().manual_seed(4)
    predicted, optical, radar = (
        torch.rand(3, 6, size, generator=generator, dtype=torch.float64) for size in (20, 12, 8)
    )
    masks = [torch.rand(3, 6, generator=generator) < 0.7 for _ in range(2)]
    expected = 0.0
    for mask, own, columns in zip(masks, (optical, radar), (slice(12), slice(12, 20)), strict=True):
        total, count = 0.0, 0
        for row in range(3):
            for patch in range(6):
                if mask[row, patch]:
                    both = torch.cat([optical[row, patch], radar[row, patch]])
                    mean, deviation = both.mean(), (both.var() + 1e-6).sqrt()
                    true = (own[row, patch] - mean) / deviation
                    total += float((predicted[row, patch, columns] - true).square().mean())
                    count += 1
        expected += total / count
    found = reconstruction_loss(predicted, optical, radar, *(mask.double() for mask in masks))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert found.dtype == torch.float64
    half = reconstruction_loss(predicted.bfloat16(), optical, radar, *(m.float() for m in masks))
    assert half.dtype == torch.float64


def test_the_scale_of_the_contrast_has_no_maximum() -> None:
    system = _system(objectives="contrastive", mask_ratio=0.0)
    with torch.no_grad():
        system.scale.log_scale.fill_(math.log(250))
    batch = _batch(system)
    optical, radar = system.project(batch).values()
    logits = 250 * optical @ radar.T
    target = torch.arange(len(logits))
    expected = torch.nn.functional.cross_entropy(logits, target)
    expected = (expected + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(system.objective(batch)["loss"], expected, rtol=1e-4, atol=1e-4)
    assert CROMA(SHAPES, **TINY).scale().item() == pytest.approx(1 / 0.07, rel=1e-5)


def test_the_bias_of_the_self_attention_matters_only_under_masks() -> None:
    generator = torch.Generator().manual_seed(6)
    radar, optical = torch.randn(2, 2, 9, 8, generator=generator).unbind()
    places = grid_places((4, 4), radar)
    encoders = {}
    for self_bias in ("cross", "own"):
        torch.manual_seed(0)
        encoders[self_bias] = CrossEncoder(8, 2, 2, ALiBiPositions(2), self_bias)
    whole, others = places[None, :9], places[None, 5:14]

    def gap(*at: Tensor) -> float:
        made = [encoder(radar, optical, *at) for encoder in encoders.values()]
        return float((made[0] - made[1]).abs().max())

    assert gap(whole, whole) == 0
    assert gap(whole, others) > 1e-3


def test_one_sensor_alone_gives_what_it_gives_beside_the_other() -> None:
    system = _system().eval()
    images = _images()
    both = system.embed(images)
    assert both.keys() == {"optical", "radar", "joint"}
    for name in ("optical", "radar"):
        alone = system.embed({name: images[name]})
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name], both[name])
        unit = system.project({name: images[name]})
        torch.testing.assert_close(unit[name], system.project(images)[name])
        torch.testing.assert_close(unit[name].norm(dim=1), torch.ones(5))
    assert system.tokens(images)["joint"].shape == (5, 36, 16)


def _mirrored(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """The patches from right to left, each as it is."""
    return {name: of.unflatten(3, (-1, 4)).flip(3).flatten(3) for name, of in images.items()}


@pytest.mark.parametrize(("positions", "same"), [("alibi", True), ("sincos", False)])
def test_distances_alone_say_where_a_patch_is(positions: Any, same: bool) -> None:
    system = _system(positions=positions).eval()
    images = _images(height=16, width=72)  # another size and shape than in training
    vectors, mirrored = system.embed(images), system.embed(_mirrored(images))
    for name, of in vectors.items():
        assert ((of - mirrored[name]).abs().max() < 1e-4) == same, name
    mixed = torch.randperm(72, generator=torch.Generator().manual_seed(0))
    shuffled = {name: of[..., mixed] for name, of in images.items()}
    assert (vectors["joint"] - system.embed(shuffled)["joint"]).abs().max() > 1e-2


def test_large_images_in_bfloat16() -> None:
    system = _system(scrambled=False).eval()
    images = _images(height=128, width=128, rows=1)
    exact = system.embed(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = system.embed(images)
    for name, of in exact.items():
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], of, rtol=0.05, atol=0.05)


def test_what_is_reconstructed_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    system = _system()
    batch = _batch(system, height=24, width=32)
    made = system.reconstruct(batch)
    for name in ("optical", "radar"):
        kept = _kept_pixels(batch[f"noise/{name}"], 24, 32).expand_as(batch[name])
        torch.testing.assert_close(made[name][kept], batch[name][kept])
        assert (made[name][~kept] - batch[name][~kept]).abs().mean() > 0.01
        torch.testing.assert_close(made[f"{name}/seen"], batch[name] * kept)
    patches = [system.encoders[name].patches.patchify(batch[name]) for name in SHAPES]
    both = torch.cat(patches, -1)
    true = (both - both.mean(-1, keepdim=True)) / (both.var(-1, keepdim=True) + 1e-6).sqrt()
    monkeypatch.setattr(system.decoder, "forward", lambda *_: true)
    for name in ("optical", "radar"):
        torch.testing.assert_close(system.reconstruct(batch)[name], batch[name])
    assert system.objective(batch)["reconstruction"] < 1e-9


def test_masked_only_pools_by_the_mean() -> None:
    system = _system(objectives="masked").eval()
    images = _images()
    vectors = system.embed(images)
    torch.testing.assert_close(vectors["optical"], system.tokens(images)["optical"].mean(1))
    unit = torch.nn.functional.normalize(vectors["radar"], dim=1)
    torch.testing.assert_close(system.project(images)["radar"], unit)


def test_contrastive_only_fuses_nothing() -> None:
    system = _system(objectives="contrastive")
    assert system.embed(_images()).keys() == {"optical", "radar"}
    with pytest.raises(DataError, match="reconstructs nothing"):
        system.reconstruct(_batch(system))


def test_a_saved_system_is_the_same(tmp_path: Any) -> None:
    system = _system().eval()
    system.save_pretrained(tmp_path)
    loaded = CROMA.from_pretrained(tmp_path).eval()
    for name, vectors in system.embed(_images()).items():
        torch.testing.assert_close(loaded.embed(_images())[name], vectors, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shapes": {"optical": [3, 24, 24]}}, "no radar images"),
        ({"shapes": {"optical": [3, 24, 24], "radar": [2, 22, 22]}}, "multiples of the patch"),
        ({"shapes": {"optical": [3, 24, 24], "radar": [2, 48, 48]}}, "radar \\(12, 12\\)"),
        ({"depth": 3}, "even number"),
        ({"objectives": "mask"}, "system.objectives=mask"),
        ({"positions": "rope"}, "one of alibi, sincos"),
        ({"self_bias": "both"}, "system.self_bias=both"),
    ],
)
def test_what_cannot_be_built_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        _system(**arguments)


def test_sensors_of_other_sizes_are_named() -> None:
    system = _system()
    images = _images()
    with pytest.raises(DataError, match="align the sensors"):
        system.embed(images | {"radar": images["radar"][..., :12]})
    with pytest.raises(DataError, match="no sensor"):
        system.embed({})


def _case() -> Case:
    images = {name: (255 * of).byte() for name, of in _images(rows=8).items()}
    rows = {"train": torch.arange(7), "valid": torch.arange(7, 8), "test": torch.arange(0)}
    labels = {"label": torch.zeros(8, dtype=torch.int64)}
    data = Samples(images, labels, rows, [str(n) for n in range(8)])
    return (CROMA, dict(TINY), Probing(), data, 4, 2)  # the second batch has three rows


def test_two_processes_have_the_gradients_of_one() -> None:
    (expected,) = gradients([_case()])
    for (found,) in run_gloo(2, gradients, [_case()]):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert sum(float(gradient.abs().sum()) for gradient in expected.values()) > 1
