from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import nn
from torch.nn.functional import log_softmax

from core.augment.draws import Draws
from core.augment.multi_crop import MultiCrop
from core.data.checks import DataError
from core.losses import koleo
from core.losses.sinkhorn import sinkhorn
from core.trainers import fit
from medical.data.patches import load_patches
from medical.data.patches_demo import write_patches
from medical.patch_task import PatchProbing
from medical.systems.uni import UNI
from medical.systems.uni_encoder import MaskedViT, load_backbone
from tests.core.gloo import run_gloo

NET = {"image_size": 16, "patch": 4, "dim": 24, "depth": 2, "heads": 2, "layer_scale": 0.5}
HEAD = {"n_prototypes": 10, "hidden_dim": 12, "bottleneck_dim": 6}
SMALL = NET | HEAD | {"drop_path": 0.0}
CPU = torch.device("cpu")


def system(**changes: object) -> UNI:
    torch.manual_seed(0)
    return UNI(**SMALL | changes)


def batch(uni: UNI, rows: int = 6, own: slice | None = None) -> dict[str, torch.Tensor]:
    own = own or slice(0, rows)
    images = torch.rand(rows, 3, 20, 20, generator=torch.Generator().manual_seed(1))[own]
    draws = Draws(7, rows, own, CPU)
    crops = MultiCrop(16, 8, 2, blur_p=(0.0, 0.0, 0.0))(images, draws)
    made = {"views": crops.large, "local_views": crops.small}
    return made | uni.draw(made, draws)


def test_the_terms_are_those_of_the_paper() -> None:
    uni = system()
    given = batch(uni)
    terms = uni.objective(given)
    student, teacher = uni.student, uni.teacher.module

    def tokens(net: nn.Module, crops: torch.Tensor, hidden: torch.Tensor | None = None):
        return net.encoder((crops - uni.mean) / uni.std, hidden)

    targets, patch_logits = [], []
    for crop in given["views"]:
        classes, patches = tokens(teacher, crop)
        targets.append(teacher.head(classes))
        patch_logits.append(teacher.patch_head(patches))
    shares = sinkhorn(torch.cat(targets), 0.04).chunk(2)
    large = [tokens(student, c, h) for c, h in zip(given["views"], given["hidden"], strict=True)]
    every = [of[0] for of in large] + [tokens(student, crop)[0] for crop in given["local_views"]]
    pairs = [(t, s) for t in range(2) for s in range(4) if t != s]
    entropies = [
        -(shares[t] * log_softmax(student.head(every[s]) / 0.1, 1)).sum(1).mean() for t, s in pairs
    ]
    assert len(pairs) == 2 + 2 * 2
    torch.testing.assert_close(terms["dino"], torch.stack(entropies).mean())

    hidden = given["hidden"].flatten(0, 1)
    of_teacher = sinkhorn(torch.cat(patch_logits)[hidden], 0.04)
    of_student = torch.cat([student.patch_head(of[1]) for of in large])[hidden]
    losses = -(of_teacher * log_softmax(of_student / 0.1, 1)).sum(1)
    weights = (1 / hidden.sum(1))[hidden.nonzero()[:, 0]]
    torch.testing.assert_close(terms["ibot"], (losses * weights).sum() / 12)

    torch.testing.assert_close(terms["koleo"], koleo(every[0]) + koleo(every[1]))
    expected = terms["dino"] + terms["ibot"] + 0.1 * terms["koleo"]
    torch.testing.assert_close(terms["loss"], expected)


def test_a_masked_patch_says_nothing_of_its_pixels() -> None:
    encoder = system().student.encoder.eval()
    images = torch.rand(2, 3, 16, 16)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, 5] = True  # second row and column of patches
    changed = images.clone()
    changed[0, :, 4:8, 4:8] = 0
    for whole, other in zip(encoder(images, hidden), encoder(changed, hidden), strict=True):
        torch.testing.assert_close(whole, other)
    assert not torch.allclose(encoder(images)[0][0], encoder(changed)[0][0])


def test_the_teacher_has_no_drop_path_and_gets_no_gradient() -> None:
    uni = system(drop_path=0.5)
    rates = [
        [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
        for net in (uni.student, uni.teacher)
    ]
    assert rates == [[0.5] * 4, [0.0] * 4]
    uni.objective(batch(uni))["loss"].backward()
    assert all(p.grad is None for p in uni.teacher.parameters())
    without = {name for name, p in uni.student.named_parameters() if p.grad is None}
    assert without == set()


def test_checkpointing_gives_the_same_gradients() -> None:
    found = []
    for checkpointing in (False, True):
        uni = system(checkpointing=checkpointing)
        uni.objective(batch(uni))["loss"].backward()
        found.append([p.grad for p in uni.student.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain)


def test_rates_and_decay_by_layer() -> None:
    uni = system(layer_decay=0.5)
    groups = uni.parameter_groups()
    scale = {p: group["lr_scale"] for group in groups for p in group["params"]}
    encoder = uni.student.encoder
    assert scale[encoder.patch_embed.proj.weight] == pytest.approx(0.5**3 * 0.2)
    assert scale[encoder.cls_token] == scale[encoder.mask_token] == 0.5**3
    assert scale[encoder.blocks[0].attn.qkv.weight] == 0.5**2
    assert scale[encoder.blocks[1].mlp.fc1.weight] == 0.5
    assert scale[encoder.norm.weight] == scale[uni.student.head.prototypes] == 1
    kept = {p for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    for name, parameter in uni.student.named_parameters():
        exempt = name.endswith("bias") or "norm" in name or "gamma" in name
        assert (parameter in kept) == exempt, name
    assert len(scale) == len(list(uni.student.parameters()))


def test_temperature_momentum_and_decay_move_with_the_training(tmp_path: Path) -> None:
    write_patches(tmp_path / "data", train=4, valid=2, test=2, patients=4, size=16)
    data = load_patches(tmp_path / "data")
    task = PatchProbing(MultiCrop(16, 8, 1), k=3)
    seen: list[tuple[float, float, float]] = []

    class Watched(UNI):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            super().on_before_optimizer_step(optimizer)
            decays = {group["weight_decay"] for group in optimizer.param_groups} - {0.0}
            moved = (self.student.head.prototypes - self.start).abs().max().item()
            seen.append((self._teacher_temperature(), *decays, moved))

    torch.manual_seed(0)
    uni = Watched.of(task.system_arguments(data), **SMALL)
    uni.start = uni.student.head.prototypes.detach().clone()
    optimizer = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.04)
    options = {"max_epochs": 5, "batch_size_global": 12, "validate_every": 5}
    fit(uni, data, task, tmp_path / "run", optimizer=optimizer, **options, progress=False)
    temperature, decay, moved = zip(*seen, strict=True)
    assert len(seen) == 10
    assert temperature == pytest.approx([0.04, 0.05, 0.06] + [0.07] * 7)
    assert decay[0] == pytest.approx(0.04)
    assert decay[5] == pytest.approx(0.22)
    assert 0.38 < decay[9] < 0.4
    assert moved[:3] == (0.0, 0.0, 0.0), "prototypes wait for an epoch of two steps"
    assert moved[3] > 0
    student, teacher = uni.student.encoder.norm.bias, uni.teacher.module.encoder.norm.bias
    assert 0 < teacher.abs().max() < student.abs().max()


def _gradients() -> dict[str, torch.Tensor]:
    from core.distributed import rank, world_size

    uni = system(momentum=0.5)
    own = slice(7 * rank() // world_size(), 7 * (rank() + 1) // world_size())
    uni.objective(batch(uni, 7, own))["loss"].backward()
    return {name: p.grad / world_size() for name, p in uni.student.named_parameters()}


def test_two_processes_give_what_one_gives() -> None:
    alone, (first, second) = _gradients(), run_gloo(2, _gradients)
    for name, expected in alone.items():
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(first[name] + second[name], expected, rtol=2e-3, atol=2e-6)


def published(**changes: object) -> nn.Module:
    torch.manual_seed(5)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    vit = timm.create_model(
        "vit_large_patch16_224",
        init_values=1e-5,
        num_classes=0,
        dynamic_img_size=True,
        **sizes | changes,
    )
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return vit.eval()


def test_released_weights_load_by_name_and_give_timms_features(tmp_path: Path) -> None:
    vit = published()
    torch.save(vit.state_dict(), tmp_path / "pytorch_model.bin")
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    # As checkpoints of DINOv2's training have it: a teacher, chunks of blocks, a mask token.
    chunked = {
        "teacher.backbone."
        + name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.0.1."): value
        for name, value in vit.state_dict().items()
    }
    chunked |= {
        "teacher.backbone.mask_token": torch.ones(1, 24),
        "teacher.dino_head.x": torch.ones(1),
    }
    torch.save({"teacher": chunked}, tmp_path / "teacher.pth")
    images = torch.randn(2, 3, 16, 16)
    larger = torch.randn(2, 3, 24, 20)
    for name in ("pytorch_model.bin", "model.safetensors", "teacher.pth"):
        encoder = MaskedViT(**NET).eval()
        load_backbone(encoder, tmp_path / name)
        with torch.no_grad():
            torch.testing.assert_close(encoder(images)[0], vit(images))
            torch.testing.assert_close(encoder(larger)[0], vit(larger))
    assert (encoder.mask_token == 1).all()

    uni = system(weights=str(tmp_path / "model.safetensors"))
    uni.prepare(None)
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = vit((pixels - uni.mean) / uni.std)
    torch.testing.assert_close(uni.eval().embed({"image": pixels})["image"], expected)


def test_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    vit = published(img_size=24)
    torch.save(vit.state_dict(), tmp_path / "weights.pth")
    encoder = MaskedViT(**NET).eval()
    load_backbone(encoder, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images)[0], vit(images))


def test_what_a_run_saved_can_be_started_from(tmp_path: Path) -> None:
    uni = system()
    nn.init.ones_(uni.teacher.module.encoder.pos_embed)
    uni.save_pretrained(tmp_path)
    encoder = MaskedViT(**NET)
    load_backbone(encoder, tmp_path / "model.safetensors")
    assert (encoder.pos_embed == 1).all(), "the teacher's weights, not the student's"


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    encoder = MaskedViT(**NET)
    (tmp_path / "note.pth").write_text("no weights")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    torch.save(published(embed_dim=36).state_dict(), tmp_path / "wide.pth")
    torch.save(published(depth=1).state_dict(), tmp_path / "short.pth")
    for name, message in (
        ("note.pth", "cannot be read as weights"),
        ("gone.pth", "cannot be read as weights"),
        ("other.pth", r"holds no patch_embed.proj.weight"),
        ("wide.pth", r"another backbone[\s\S]*width 24, 2 blocks"),
        ("short.pth", r"another backbone: Missing key"),
    ):
        with pytest.raises(DataError, match=message):
            load_backbone(encoder, tmp_path / name)
    with pytest.raises(DataError, match=r"15 x 16 pixels[\s\S]*multiples of the patch, 4"):
        encoder(torch.rand(1, 3, 15, 16))
