"""The augmented copies in the batches of tasks on samples."""

import pytest
import torch
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError
from core.data.samples import Samples
from core.tasks.classification import Classification
from core.trainers.system import System


class OfViews(System):
    n_views = 2


def data() -> Samples:
    inputs = {"image": torch.rand(9, 1, 4, 4), "sound": torch.rand(9, 5)}
    rows = {"train": torch.arange(9), "valid": torch.arange(0), "test": torch.arange(0)}
    return Samples(inputs, {}, rows, [str(i) for i in range(9)])


def noise(x: Tensor, draws: Draws) -> Tensor:
    return x + draws.normal(*x.shape[1:])


def negated(x: Tensor, draws: Draws) -> Tensor:
    return -x


def batch_of(augment, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    loader = Classification(augment).train_loader(OfViews(), data(), 9, 0, rank, world_size)
    return next(iter(loader))


def test_each_modality_has_views_by_its_own_augmentation() -> None:
    batch = batch_of({"sound": negated, "image": noise})
    assert batch["views/image"].shape == (2, 9, 1, 4, 4)
    assert torch.equal(batch["views/sound"], -batch["sound"].expand(2, 9, 5))
    assert torch.equal(batch["views"], batch["views/image"])
    first, second = batch["views/image"] - batch["image"]
    assert not torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) == 9


def test_one_augmentation_is_of_the_first_modality() -> None:
    batch = batch_of(noise)
    assert batch["views"].shape == (2, 9, 1, 4, 4)
    assert not any(name.startswith("views/") for name in batch)


def test_processes_draw_the_views_of_one() -> None:
    augment = {"image": noise, "sound": noise}
    whole, *parts = batch_of(augment), batch_of(augment, 0, 2), batch_of(augment, 1, 2)
    for name in ("views/image", "views/sound"):
        assert {part[name].shape[1] for part in parts} == {4, 5}
        drawn = [whole, *parts]
        added = [batch[name] - batch[name.removeprefix("views/")] for batch in drawn]
        torch.testing.assert_close(torch.cat(added[1:], 1), added[0])


@pytest.mark.parametrize(
    ("augment", "missing"), [(None, "image"), ({"image": noise}, "sound"), ({}, "image")]
)
def test_a_modality_without_augmentation_is_named(augment, missing: str) -> None:
    with pytest.raises(DataError, match=f"OfViews learns from augmented views of {missing}"):
        batch_of(augment)
