from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from core.checkpoints import read_checkpoint
from core.data.checks import DataError
from core.encoders.positions import LearnedPositions
from core.encoders.vit import PatchEmbed2d, ViT
from core.trainers import System, schedules
from core.trainers.layer_decay import layer_decay
from tests.core.trainers.tiny import Tiny, train


class Pretrained(System):
    """timm's ViT of three blocks under a head, frozen in part."""

    def __init__(self, decay: float = 0.5) -> None:
        super().__init__()
        self.decay = decay
        self.head = nn.Linear(8, 2)
        self.encoder = timm.models.VisionTransformer(
            img_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=0, reg_tokens=1
        )
        self.encoder.blocks[1].requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return layer_decay(super().parameter_groups(), self.encoder, self.decay)


def _scales(system: System) -> dict[str, float]:
    scales = {p: g["lr_scale"] for g in system.parameter_groups() for p in g["params"]}
    return {name: scales[p] for name, p in system.named_parameters() if p.requires_grad}


def test_the_earlier_the_smaller() -> None:
    scales = _scales(Pretrained())
    layers = {
        1 / 16: ("encoder.cls_token", "encoder.reg_token", "encoder.pos_embed", "encoder.patch"),
        1 / 8: ("encoder.blocks.0.",),
        1 / 2: ("encoder.blocks.2.",),
        1.0: ("encoder.norm.", "head."),
    }
    for scale, starts in layers.items():
        for start in starts:
            found = {name for name in scales if name.startswith(start)}
            assert found, start
            assert {scales.pop(name) for name in found} == {scale}, start
    assert scales == {}


def test_the_tokens_of_our_own_vit_come_first() -> None:
    class Ours(Pretrained):
        def __init__(self) -> None:
            super().__init__()
            positions = LearnedPositions(8, (2, 2))
            self.encoder = ViT(PatchEmbed2d(8, 4), positions, depth=2, heads=2, registers=1)

    scales = _scales(Ours())
    assert {n for n, scale in scales.items() if scale == 1 / 8} == {
        n for n in scales if n.startswith("encoder.p")
    }
    assert {"encoder.prefix_tokens.weight", "encoder.patches.projection.weight"} <= scales.keys()
    assert {scales["encoder.norm.weight"], scales["head.weight"]} == {1.0}


def test_groups_keep_their_options_and_parameters() -> None:
    system = Pretrained()
    plain, split = System.parameter_groups(system), system.parameter_groups()
    assert len(split) == 8  # four layers with something to train, with decay and without
    for group in plain:
        decay = group.get("weight_decay")
        parts = [part for part in split if part.get("weight_decay") == decay]
        found = [p for part in parts for p in part["params"]]
        assert len(found) == len(group["params"])
        assert set(found) == set(group["params"])


def test_a_decay_of_one_changes_no_rate() -> None:
    assert set(_scales(Pretrained(1.0)).values()) == {1.0}


class Halved(Tiny):
    """The rate of the first layer is half that of the second."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        rest = [*self.norm.parameters(), *self.out.parameters()]
        return [{"params": [*self.hidden.parameters()], "lr_scale": 0.5}, {"params": rest}]


def test_the_optimizer_and_its_schedule_scale_the_rates(tmp_path: Path) -> None:
    rates = []

    class Recorded(Halved):
        def objective(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
            return super().objective(batch)

    options = {
        "system": Recorded,
        "optimizer": partial(torch.optim.SGD, lr=0.2),
        "schedule": partial(schedules.linear, warmup=0.0),
    }
    train(tmp_path / "run", **options)
    full = [0.2 * (1 - step / 9) for step in range(9)]
    assert [rate for _, rate in rates] == pytest.approx(full)
    assert [rate for rate, _ in rates] == pytest.approx([rate / 2 for rate in full])

    # A resumed run does not scale them once more.
    before, rates[:] = [*rates], []
    train(tmp_path / "parts", **options)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 9
    train(tmp_path / "parts", **options, resume=last, max_epochs=4)
    assert len(rates) == 12
    assert rates[:9] == before
    assert all(half == full / 2 for half, full in rates[9:])


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_a_decay_that_is_no_factor_is_refused(decay: float) -> None:
    with pytest.raises(DataError, match=rf"layer_decay={decay}"):
        Pretrained(decay).parameter_groups()


def test_an_encoder_without_blocks_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no list of layers named blocks"):
        layer_decay([], nn.Linear(2, 2), 0.5)
