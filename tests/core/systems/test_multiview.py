from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.augment.small_images import SmallImageViews
from core.data.checks import DataError
from core.data.digits import write_digits
from core.data.samples import Samples
from core.data.table import load_table
from core.distributed import rank
from core.systems.multiview import MultiView
from core.systems.simclr import SimCLR
from core.tasks.probing import Probing
from core.trainers import fit
from tests.core.gloo import run_gloo

SHAPES = {"image": [1, 8, 8]}
TASK = Probing(SmallImageViews())
CONTRASTS = ["mv_dhel", "mv_info_nce", "pairwise", "average", "poly_view"]


def _system(**arguments) -> MultiView:
    torch.manual_seed(0)
    return MultiView(SHAPES, **arguments)


def _views(n_views: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(n_views, 6, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def _gradients(system: torch.nn.Module, views: Tensor) -> dict[str, Tensor]:
    system.zero_grad()
    loss = system.objective({"views": views})["loss"]
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in system.named_parameters()}


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("contrast", ["pairwise", "average"])
def test_pairs_of_two_views_are_simclr(contrast: str) -> None:
    torch.manual_seed(0)
    simclr = SimCLR(SHAPES, temperature=0.5)
    system = _system(n_views=2, contrast=contrast)
    _assert_close(_gradients(system, _views(2)), _gradients(simclr, _views(2)))


def test_dhel_by_hand() -> None:
    system, views = _system(n_views=3, temperature=0.2), _views(3)
    h = system.encoder(views.flatten(0, 1))
    # View after view: a row is a sample of one view.
    z = torch.nn.functional.normalize(system.head(h), dim=1).reshape(3, 6, -1)
    losses = []
    for i in range(6):
        pairs = [z[a, i] @ z[b, i] for a in range(3) for b in range(a)]
        loss = -torch.stack(pairs).div(0.2).logsumexp(0)
        for view in z:
            others = [view[i] @ view[j] for j in range(6) if j != i]
            loss = loss + torch.stack(others).div(0.2).logsumexp(0)
        losses.append(loss)
    found = system.objective({"views": views})["loss"]
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_order_of_views_and_of_samples_does_not_matter(contrast: str) -> None:
    system, views = _system(contrast=contrast), _views()
    expected = _gradients(system, views)
    _assert_close(_gradients(system, views.flip(0)), expected)
    _assert_close(_gradients(system, views[:, torch.randperm(6)]), expected)
    mixed = views.flatten(0, 1).unflatten(0, (6, 4)).transpose(0, 1)
    other = system.objective({"views": mixed})["loss"]
    assert not torch.allclose(other, expected["loss"], rtol=1e-4), "rows of other samples paired"


def test_the_contrasts_are_different_ones() -> None:
    losses = {
        name: float(_gradients(_system(contrast=name), _views())["loss"]) for name in CONTRASTS
    }
    assert len({round(loss, 4) for loss in losses.values()}) == len(CONTRASTS), losses


def test_many_views_at_a_small_temperature_stay_finite() -> None:
    system = _system(n_views=8, temperature=0.01)
    assert all(value.isfinite().all() for value in _gradients(system, _views(8)).values())


def test_rank_is_measured_on_the_sphere_and_representations_are_raw() -> None:
    system = _system().eval()
    batch = {"image": _views()[0]}
    norms = system.project(batch)["image"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(6))
    assert not torch.allclose(system.embed(batch)["image"].norm(dim=1), torch.ones(6), atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"n_views": 1}, "system.n_views=1"), ({"contrast": "dhel"}, "one of mv_dhel, mv_info_nce")],
)
def test_what_cannot_be_meant_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _system(**arguments)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, tail=0.05)
    return load_table(folder)


def test_the_batches_have_as_many_views_and_each_is_another(digits: Samples) -> None:
    system = _system(n_views=6)
    batch = next(iter(TASK.train_loader(system, digits, 32, seed=0)))
    assert batch["views"].shape == (6, 32, 1, 8, 8)
    assert len(batch["views"].flatten(1).unique(dim=0)) == 6


def _run(folder: Path, data: Samples, epochs: int, resume: Path | None = None) -> MultiView:
    system = _system(n_views=3)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    fit(
        system,
        data.without_test(),
        TASK,
        folder,
        seed=3,
        max_epochs=epochs,
        batch_size_global=64,
        accelerator="cpu",
        progress=False,
        resume=resume,
    )
    return system


def test_a_resumed_run_is_the_unbroken_one(digits: Samples, tmp_path: Path) -> None:
    unbroken = _run(tmp_path / "unbroken", digits, 3)
    _run(tmp_path / "run", digits, 1)
    resumed = _run(tmp_path / "run", digits, 3, tmp_path / "run" / "checkpoints" / "last.ckpt")
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)
    resumed.save_pretrained(tmp_path / "hub")
    again = MultiView.from_pretrained(tmp_path / "hub")
    assert (again.n_views, again.contrast) == (3, "mv_dhel")
    torch.testing.assert_close(again.state_dict(), unbroken.state_dict(), rtol=0, atol=0)


def _of_a_rank() -> dict[str, dict[str, Tensor]]:
    rows = slice(0, 2) if rank() == 0 else slice(2, 6)
    return {name: _gradients(_system(contrast=name), _views()[:, rows]) for name in CONTRASTS}


def test_two_processes_are_one() -> None:
    first, second = run_gloo(2, _of_a_rank)
    for name in CONTRASTS:
        mean = {key: (first[name][key] + second[name][key]) / 2 for key in first[name]}
        _assert_close(mean, _gradients(_system(contrast=name), _views()))


@pytest.mark.claim
def test_repelling_within_views_keeps_more_dimensions(tmp_path: Path) -> None:
    """The rank grows with the views for MV-DHEL alone; the accuracy of digits does not tell."""
    write_digits(tmp_path / "digits")
    data = load_table(tmp_path / "digits")
    ranks = {}
    for contrast, n_views in (("mv_dhel", 4), ("mv_dhel", 2), ("pairwise", 4), ("pairwise", 2)):
        torch.manual_seed(0)
        arguments = TASK.system_arguments(data)
        system = MultiView.of(arguments, n_views=n_views, contrast=contrast)
        folder = tmp_path / f"{contrast}{n_views}"
        (folder / "checkpoints").mkdir(parents=True)
        fit(
            system,
            data.without_test(),
            TASK,
            folder,
            seed=0,
            max_epochs=50,
            validate_every=50,
            batch_size_global=128,
            accelerator="cpu",
            progress=False,
        )
        ranks[contrast, n_views] = TASK.evaluate(system.eval(), data, "test").metrics["rankme"]
    assert ranks["mv_dhel", 4] > 1.2 * ranks["mv_dhel", 2]
    assert ranks["mv_dhel", 2] > 1.4 * ranks["pairwise", 4]
    assert ranks["pairwise", 4] < 1.1 * ranks["pairwise", 2]
