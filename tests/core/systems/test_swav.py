from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax, normalize

from core.augment.draws import Draws
from core.augment.images import SimCLRViews
from core.data.checks import DataError
from core.data.digit_shards import write_digit_shards
from core.data.images import load_images
from core.losses.sinkhorn import sinkhorn
from core.systems.swav import SwAV
from core.tasks.probing import Probing
from core.trainers import fit
from tests.core.gloo import run_gloo

SIZES = {"shapes": {"image": [3, 8, 8]}}
SMALL = {"dim": 8, "hidden_dim": 8, "n_prototypes": 5, "batch_norm": False, "n_local_views": 3}
ENCODER = {"_target_": "core.encoders.small_convolutions.PooledConvNet"}


def batch(rows: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "views": torch.rand(2, rows, 3, 8, 8, generator=generator),
        "local_views": torch.rand(3, rows, 3, 4, 4, generator=generator),
    }


def test_clusters_of_both_full_views_are_predicted_from_all_others() -> None:
    torch.manual_seed(0)
    system = SwAV(**SIZES, **SMALL).eval()
    views = batch()
    every = [*views["views"], *views["local_views"]]
    scores = [
        normalize(system.head(system.encoder(view)), dim=1) @ system.prototypes.weight.T
        for view in every
    ]
    terms = [
        -(sinkhorn(scores[v].detach()) * log_softmax(scores[w] / 0.1, 1)).sum(1).mean()
        for v in (0, 1)
        for w in range(5)
        if w != v
    ]
    assert len(terms) == 8
    torch.testing.assert_close(system.objective(views)["loss"], torch.stack(terms).mean())


def test_local_views_are_small_crops_that_do_not_depend_on_the_processes() -> None:
    crop = SimCLRViews(scale=(0.05, 0.14), size=5, jitter_p=0, grey_p=0)
    across = torch.linspace(0, 1, 20).expand(6, 3, 20, 20)
    everyone = crop(across, Draws(1, 6, slice(0, 6), torch.device("cpu")))
    assert everyone.shape == (6, 3, 5, 5)
    # A crop of 14 % of the area at most sees less than half of the width.
    assert (everyone.amax((1, 2, 3)) - everyone.amin((1, 2, 3))).max() < 0.5
    some = crop(across[2:5], Draws(1, 6, slice(2, 5), torch.device("cpu")))
    torch.testing.assert_close(some, everyone[2:5])


def test_a_system_of_local_views_says_so_where_nothing_makes_them(tmp_path: Path) -> None:
    write_digit_shards(tmp_path, size=8)
    data = load_images(tmp_path)
    with pytest.raises(DataError, match=r"local views[\s\S]*task.local_augment"):
        Probing(SimCLRViews()).train_loader(SwAV(**SIZES, **SMALL), data, 64, 0)
    task = Probing(SimCLRViews(), local_augment=SimCLRViews(size=4))
    first = next(iter(task.train_loader(SwAV(**SIZES, **SMALL), data, 64, 0)))
    assert first["views"].shape == (2, 64, 3, 8, 8)
    assert first["local_views"].shape == (3, 64, 3, 4, 4)


def test_prototypes_wait_for_an_epoch_and_stay_of_unit_length(tmp_path: Path) -> None:
    write_digit_shards(tmp_path / "data", size=8)
    data = load_images(tmp_path / "data")
    task = Probing(SimCLRViews(), local_augment=SimCLRViews(size=4))

    def trained(epochs: int) -> torch.Tensor:
        torch.manual_seed(0)
        system = SwAV.of(task.system_arguments(data), **SMALL, encoder=ENCODER)
        start = system.prototypes.weight.detach().clone()
        options = {"max_epochs": epochs, "batch_size_global": 512, "validate_every": epochs}
        fit(system, data, task, tmp_path / str(epochs), **options, progress=False)
        return torch.stack([start, system.prototypes.weight.detach()])

    start, after_one = trained(1)
    torch.testing.assert_close(after_one, start)
    _, after_two = trained(2)
    assert not torch.allclose(after_two, start, atol=1e-5)
    torch.testing.assert_close(after_two.norm(dim=1), torch.ones(5))


def gradients() -> dict[str, torch.Tensor]:
    from core.distributed import rank, world_size

    torch.manual_seed(0)
    system = SwAV(**SIZES, **SMALL, encoder=ENCODER).eval()
    own = slice(7 * rank() // world_size(), 7 * (rank() + 1) // world_size())
    parts = {name: views[:, own] for name, views in batch(7).items()}
    system.objective(parts)["loss"].backward()
    return {name: p.grad / world_size() for name, p in system.named_parameters()}


def test_two_processes_give_what_one_gives() -> None:
    alone, (first, second) = gradients(), run_gloo(2, gradients)
    for name, expected in alone.items():
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(first[name] + second[name], expected, rtol=1e-3, atol=1e-6)
