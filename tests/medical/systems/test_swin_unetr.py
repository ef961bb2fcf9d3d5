from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.augment.draws import Draws
from core.checkpoints import OURS
from core.data.checks import DataError
from core.distributed import rank
from medical.data.cases import Cases
from medical.data.prepared import Prepared, ResidentVolumes
from medical.segmentation import VolumeSegmentation, measure, segment
from medical.systems.swin_unetr import SwinUNETR, load_encoder
from medical.systems.velvet_med import swin_transformer
from tests.core.gloo import run_gloo

TINY = {
    "embed_dim": 12,
    "window": 4,
    "depths": [1, 1, 1, 1],
    "heads": [1, 2, 3, 6],
    "norm": "group",
    "checkpointing": False,
}
ENCODER = (12, 4, (1, 1, 1, 1), (1, 2, 3, 6), False)


def _cases(labels: list[torch.Tensor | None], size: int = 32) -> Cases:
    """One case for each label map; its volume is brighter where the class is higher."""
    prepared = []
    for label in labels:
        voxels = torch.zeros(40, 34, 33, dtype=torch.uint8) if label is None else label * 80
        whole = voxels[:size, :size, :size]
        affine = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0], dtype=torch.float64))
        prepared.append(Prepared(voxels, whole, affine, label))
    n, rows = len(labels), torch.arange(len(labels))
    return Cases(
        ids=[f"c{row}" for row in range(n)],
        patients=[f"p{row}" for row in range(n)],
        splits={"train": rows[: n - 2], "valid": rows[n - 2 : n - 1], "test": rows[n - 1 :]},
        reports=[""] * n,
        store=ResidentVolumes.of(prepared),
        size=size,
        classes=["background", "liver", "spleen"],
        findings=[None] * n,
        source=[""] * n,
    )


def _label(*blocks: tuple[int, int]) -> torch.Tensor:
    """Blocks (class, first voxel) of 10 voxels a side."""
    label = torch.zeros(40, 34, 33, dtype=torch.uint8)
    for number, first in blocks:
        label[first : first + 10, first : first + 10, first : first + 10] = number
    return label


class Bright(torch.nn.Module):
    """Says the class that the brightness of `_cases` gives away."""

    size, n_classes = 32, 3

    def scores(self, volume: torch.Tensor) -> torch.Tensor:
        classes = (volume * 255 / 80).round().long()[:, 0]
        return torch.nn.functional.one_hot(classes, 3).permute(0, 4, 1, 2, 3).float()


def test_whole_volumes_are_predicted_by_overlapping_cubes() -> None:
    data = _cases([_label((1, 2), (2, 20))] * 3)
    found = segment(Bright(), data.volume(0))
    assert torch.equal(found, data.segmentation(0))


def test_measures_against_what_blocks_must_give() -> None:
    truth = _label((1, 5), (2, 20)).long()
    predicted = torch.zeros_like(truth)
    predicted[7:17, 5:15, 5:15] = 1  # two voxels of 2 mm further
    found = measure(predicted, truth, 4, (2.0, 1.0, 3.0))
    assert found["dice"][0] == pytest.approx(0.8)
    assert found["hd95"][0] == pytest.approx(4.0)
    assert 0 < found["surface_dice"][0] < 1
    # The second class is lost, the third is not in the reference.
    assert found["dice"][1] == found["surface_dice"][1] == 0
    assert found["hd95"][1] == pytest.approx(np.linalg.norm([80.0, 34.0, 99.0]))
    assert all(np.isnan(values[2]) for values in found.values())
    right = measure(truth, truth, 3, (2.0, 1.0, 3.0))
    assert right["dice"].tolist() == right["surface_dice"].tolist() == [1, 1]
    assert right["hd95"].tolist() == [0, 0]


def test_metrics_are_means_over_cases_then_over_classes() -> None:
    both, liver = _label((1, 2), (2, 20)), _label((1, 9))
    data = _cases([both, both, liver, both, both])
    data.splits["test"] = torch.tensor([1, 2, 3])

    evaluation = VolumeSegmentation().evaluate(Bright(), data, "test")
    assert evaluation.metrics["dice"] == evaluation.metrics["dice/spleen"] == 1
    assert evaluation.metrics["hd95"] == 0
    assert evaluation.unit_ids.tolist() == ["c1", "c2", "c3"]
    assert [row["cases"] for row in evaluation.table] == [3, 2]

    class Blind(Bright):
        def scores(self, volume: torch.Tensor) -> torch.Tensor:
            scores = super().scores(volume)
            scores[:, 2] = -1
            return scores

    evaluation = VolumeSegmentation().evaluate(Blind(), data, "test")
    assert evaluation.metrics["dice/liver"] == 1
    assert evaluation.metrics["dice/spleen"] == 0
    assert evaluation.metrics["dice"] == 0.5
    assert evaluation.per_unit["dice"].mean() == pytest.approx(0.5)


def test_only_some_labelled_cases_are_learnt_from_the_same_for_every_system() -> None:
    data = _cases(
        [_label((1, 2)), None, _label((1, 4)), _label((2, 6)), _label((1, 8)), None, None]
    )
    system = SwinUNETR(3, 32, **TINY)
    batches = list(VolumeSegmentation().train_loader(system, data, 2, seed=0))
    rows = torch.cat([batch["row"] for batch in batches]).sort().values
    assert rows.tolist() == [0, 2, 3, 4]
    chosen = []
    for seed in (1, 2):
        task = VolumeSegmentation(n_labelled=2)
        loader = task.train_loader(system, data, 2, seed=seed)
        chosen.append(sorted(torch.cat([batch["row"] for batch in loader]).tolist()))
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 2
    batch = batches[0]
    assert batch["label"].dtype == torch.int64
    assert batch["crop"].shape == batch["label"].shape == (2, 1, 32, 32, 32)
    with pytest.raises(DataError, match="no training case has a segmentation"):
        VolumeSegmentation().train_loader(system, _cases([None] * 4), 2, seed=0)


def test_cubes_and_classes_are_flipped_alike() -> None:
    label = torch.randint(0, 3, (64, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    draws = Draws(3, 64, slice(0, 64), torch.device("cpu"))
    drawn = SwinUNETR.draw(None, {"crop": label.float(), "label": label}, draws)
    shifted = drawn["crop"] - drawn["label"]
    # What is left is one number a cube.
    flat = shifted.flatten(1)
    assert (flat - flat[:, :1]).abs().max() < 1e-6
    assert flat[:, 0].abs().max() <= 0.1
    assert 10 < (flat[:, 0] != 0).sum() < 54
    changed = (drawn["label"] != label).flatten(1).any(1).sum()
    assert 5 < changed < 40


def test_the_objective_is_dice_and_cross_entropy_with_gradients_everywhere() -> None:
    torch.manual_seed(0)
    system = SwinUNETR(3, 32, **TINY)
    label = _label((1, 3), (2, 18))[None, None, :32, :32, :32].long()
    terms = system.objective({"crop": label.float() / 3, "label": label})
    scores = system.scores(label.float() / 3)
    shares = scores.softmax(1)
    truth = torch.nn.functional.one_hot(label[:, 0], 3).permute(0, 4, 1, 2, 3).float()
    overlap = (shares * truth).sum((2, 3, 4))
    sizes = (shares + truth).sum((2, 3, 4))
    dice = 1 - (2 * overlap + 1e-5) / (sizes + 1e-5)
    expected = dice.mean() + torch.nn.functional.cross_entropy(scores, label[:, 0])
    assert torch.allclose(terms["loss"], expected, atol=1e-5)
    assert torch.allclose(terms["dice"], dice.mean(), atol=1e-5)
    terms["loss"].backward()
    without = [name for name, p in system.named_parameters() if p.grad is None]
    assert without == []
    vectors = system.embed({"volume": torch.rand(2, 1, 32, 32, 32)})["volume"]
    assert vectors.shape == (2, 192)


def test_the_encoder_starts_from_the_pretrained_one_whatever_its_weights_are_called(
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    trained = swin_transformer(*ENCODER).state_dict()
    old = {
        f"module.{k.replace('linear1', 'fc1').replace('linear2', 'fc2')}": v
        for k, v in trained.items()
    }
    torch.save(
        {"state_dict": old | {"module.rotation_head.weight": torch.ones(4, 2)}}, tmp_path / "a.pt"
    )
    ours = {
        "state_dict": {f"vision.{k}": v for k, v in trained.items()} | {"text.word": torch.ones(2)},
        "epoch": 0,
        OURS: {
            "target": "medical.systems.velvet_med.VELVETMed",
            "arguments": {},
            "config": {},
            "loader": {},
            "monitor": "",
            "best_score": None,
            "best_epoch": 0,
        },
    }
    torch.save(ours, tmp_path / "b.ckpt")
    for name in ("a.pt", "b.ckpt"):
        torch.manual_seed(2)
        system = SwinUNETR(3, 32, **TINY, pretrained=str(tmp_path / name))
        before = system.network.swinViT.state_dict()["layers1.0.blocks.0.mlp.linear1.weight"]
        assert not torch.equal(before, trained["layers1.0.blocks.0.mlp.linear1.weight"])
        system.prepare(_cases([None] * 3))
        for key, values in system.network.swinViT.state_dict().items():
            assert torch.equal(values, trained[key]), key
    wider = swin_transformer(24, 4, (1, 1, 1, 1), (1, 2, 3, 6), False)
    with pytest.raises(DataError, match=r"not the encoder of this network[\s\S]*system.embed_dim"):
        load_encoder(wider, tmp_path / "a.pt")
    missing = {k: v for k, v in trained.items() if "layers4" not in k}
    torch.save(missing, tmp_path / "c.pt")
    with pytest.raises(DataError, match="Missing key"):
        load_encoder(swin_transformer(*ENCODER), tmp_path / "c.pt")
    with pytest.raises(DataError, match="no such file"):
        load_encoder(swin_transformer(*ENCODER), tmp_path / "absent")
    ours[OURS]["target"] = "medical.systems.uni.UNI"
    torch.save(ours, tmp_path / "b.ckpt")
    with pytest.raises(DataError, match="a checkpoint of medical"):
        load_encoder(swin_transformer(*ENCODER), tmp_path / "b.ckpt")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.size=32[\s\S]*system.norm=group"):
        SwinUNETR(3, 32)
    with pytest.raises(DataError, match=r"data.size=40"):
        SwinUNETR(3, 40, **TINY)
    with pytest.raises(DataError, match="dice or surface_dice"):
        VolumeSegmentation(monitor="miou")
    with pytest.raises(DataError, match="one case or more"):
        VolumeSegmentation(n_labelled=0)
    with pytest.raises(DataError, match="no case of the valid split"):
        VolumeSegmentation().evaluate(Bright(), _cases([None] * 3), "valid")


def test_overlays_are_drawn(tmp_path: Path) -> None:
    data = _cases([_label((1, 2), (2, 20))] * 3)
    (file,) = VolumeSegmentation().draw(Bright(), data, "test", tmp_path)
    assert file == tmp_path / "segmentation_test.png"
    assert file.stat().st_size > 5000


def _loss_and_gradient(own: slice) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    # Neither needs MONAI, which takes long to import in each process.
    system = SimpleNamespace(
        network=network, dice=lambda s, label: 1 - s.softmax(1).gather(1, label)
    )
    label = torch.randint(0, 3, (3, 1, 4, 4, 4))
    batch = {"crop": torch.rand(3, 1, 4, 4, 4)[own], "label": label[own]}
    loss = SwinUNETR.objective(system, batch)["loss"]
    loss.backward()
    return loss.detach(), network.weight.grad


def _on_a_rank() -> tuple[torch.Tensor, torch.Tensor]:
    return _loss_and_gradient(slice(0, 2) if rank() == 0 else slice(2, 3))


def test_two_processes_with_different_numbers_of_cubes_equal_one() -> None:
    alone, ranks = _loss_and_gradient(slice(None)), run_gloo(2, _on_a_rank)
    for one, *parts in zip(alone, *ranks, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), one)


def test_classes_that_are_not_those_of_the_system_are_refused() -> None:
    unnamed = {"classes": []}
    more = replace(_cases([_label((1, 2))] * 3 + [_label((3, 20))]), **unnamed)
    for act in (VolumeSegmentation().evaluate, partial(VolumeSegmentation().draw, folder=None)):
        with pytest.raises(DataError, match="class 3 in the segmentation of c3"):
            act(Bright(), more, "test")
    four = replace(more, classes=["background", "a", "b", "c"])
    with pytest.raises(DataError, match=r"4 classes in the data[\s\S]*3, as in training"):
        VolumeSegmentation().evaluate(Bright(), four, "test")
    # Where the data have fewer classes than the system and nobody names them, those of the system.
    fewer = replace(_cases([_label((1, 2))] * 3), **unnamed)
    assert VolumeSegmentation().evaluate(Bright(), fewer, "test").metrics["dice/1"] == 1
    with pytest.raises(DataError, match="are all background"):
        VolumeSegmentation().evaluate(Bright(), _cases([_label()] * 3), "test")
    with pytest.raises(DataError, match="no case for training or validation"):
        VolumeSegmentation().system_arguments(replace(_cases([None] * 3), **unnamed))
