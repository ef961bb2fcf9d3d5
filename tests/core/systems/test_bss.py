import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.augment.styles import ChannelJitter, RandomCrop, StyledViews
from core.checkpoints import read_checkpoint
from core.consilience import main
from core.data.checks import DataError
from core.data.samples import Samples
from core.losses import nt_xent, poly_view
from core.systems.bss import BSSSimCLR, same_style
from core.systems.bss_swav import BSSSwAV
from core.tasks.probing import Probing
from core.trainers import System, fit
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients

# Without batch norm, whose statistics are each process's own.
SMALL = {
    "encoder": {"_target_": "core.encoders.mlp.MLP", "hidden": [8], "dim": 6},
    "hidden_dim": 8,
    "dim": 4,
}


def samples(n: int = 22) -> Samples:
    images = torch.rand(n, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    parts = torch.arange(n).tensor_split([n - 8, n - 4])
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    label = torch.arange(n) % 2
    return Samples({"image": images}, {"label": label}, splits, [str(i) for i in range(n)])


def task(styles: str | None = "batch") -> Probing:
    views = StyledViews(styles, (0.05, 0.5), RandomCrop((0.8, 1.0)), ChannelJitter(0.1, 0.1))
    return Probing(views, "knn_accuracy", k=3)


def views(n_views: int = 3, n: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.randn(n_views, n, 4, generator=g, dtype=torch.float64)


def test_the_negatives_are_those_of_the_anchor_s_view() -> None:
    z = torch.nn.functional.normalize(views(), dim=2)
    terms = []
    for a in range(3):
        for b in set(range(3)) - {a}:
            for i in range(5):
                positive = np.exp(float(z[a, i] @ z[b, i]) / 0.3)
                negative = sum(np.exp(float(z[a, i] @ z[a, j]) / 0.3) for j in range(5) if j != i)
                terms.append(-np.log(positive / (positive + negative)))
    assert same_style(views(), 0.3).item() == pytest.approx(np.mean(terms))


def test_all_negatives_of_two_views_are_simclr() -> None:
    two = views(2)
    torch.testing.assert_close(poly_view(two, 0.3), nt_xent(*two, 0.3))
    assert not torch.allclose(poly_view(two, 0.3), same_style(two, 0.3))
    shapes = {"image": [3, 10, 10]}
    for negatives, loss in (("all", nt_xent), ("same_style", lambda a, b, t: same_style(two, t))):
        system = BSSSimCLR(shapes, **SMALL, negatives=negatives, temperature=0.3)
        system.views = lambda batch: two  # type: ignore[method-assign]
        torch.testing.assert_close(system.objective({})["loss"], loss(*two, 0.3))
    with pytest.raises(DataError, match="negatives=other"):
        BSSSimCLR(shapes, **SMALL, negatives="other")  # type: ignore[arg-type]


def test_a_style_that_all_rows_of_a_view_share_pushes_no_rows_apart() -> None:
    """With all negatives, the other view's style makes them easy; with the same style it cannot."""
    z = views(2, 6)
    z[:, :, 0] = 0
    styled = z.clone()
    styled[0, :, 0], styled[1, :, 0] = 3.0, -3.0
    one = torch.nn.functional.normalize(styled, dim=2)
    other_view = (one[0] @ one[1].T)[~torch.eye(6, dtype=torch.bool)]
    own_view = (one[0] @ one[0].T)[~torch.eye(6, dtype=torch.bool)]
    assert other_view.max() < own_view.min()
    hard = same_style(styled, 0.2) - same_style(z, 0.2)
    assert hard > poly_view(styled, 0.2) - poly_view(z, 0.2)


@pytest.mark.parametrize(("shape", "width"), [([3, 24, 24], 96), ([3, 8, 8], 128)])
def test_the_usual_encoder_follows_the_size(shape: list[int], width: int) -> None:
    for system in (BSSSimCLR({"x": shape}), BSSSwAV({"x": shape})):
        assert system.encoder.dim == width


def run(system: System, folder: Path, epochs: int, resume: bool = False) -> System:
    last = folder / "checkpoints" / "last.ckpt"
    fit(
        system,
        samples(),
        task(),
        folder,
        seed=3,
        max_epochs=epochs,
        batch_size_global=9,
        accelerator="cpu",
        progress=False,
        resume=last if resume else None,
    )
    return system


def swav() -> BSSSwAV:
    torch.manual_seed(0)
    return BSSSwAV.of(task().system_arguments(samples()), **SMALL, n_prototypes=5)


def test_prototypes_stand_still_for_an_epoch_and_stay_of_length_1(tmp_path: Path) -> None:
    begin = swav().prototypes.weight.detach().clone()
    first = run(swav(), tmp_path / "first", 1)
    torch.testing.assert_close(first.prototypes.weight.detach(), begin)
    assert not torch.equal(first.head.layers[3].weight, swav().head.layers[3].weight)
    second = run(swav(), tmp_path / "second", 2)
    moved = second.prototypes.weight.detach()
    assert not torch.allclose(moved, begin, atol=1e-4)
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(5))


def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path) -> None:
    unbroken = run(swav(), tmp_path / "unbroken", 3)
    run(swav(), tmp_path / "run", 1)
    resumed = run(swav(), tmp_path / "run", 3, resume=True)
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)
    resumed.save_pretrained(tmp_path / "hub")
    again = BSSSwAV.from_pretrained(tmp_path / "hub")
    torch.testing.assert_close(again.state_dict(), unbroken.state_dict(), rtol=0, atol=0)


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 5 rows: 2 for the one, 3 for the other.
    cases = [
        (BSSSimCLR, SMALL, task("batch"), samples(), 9, 2),
        (BSSSimCLR, SMALL | {"negatives": "all", "n_views": 3}, task("image"), samples(), 9, 2),
        (BSSSwAV, SMALL | {"n_prototypes": 5}, task("batch"), samples(), 9, 2),
    ]
    alone, together = gradients(cases), run_gloo(2, gradients, cases)
    for expected, *found in zip(alone, *together, strict=True):
        for name, gradient in expected.items():
            if name != "head.layers.3.bias":
                assert gradient.abs().max() > 0, name
            for one in found:
                torch.testing.assert_close(one[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def consilience(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["consilience", *shlex.split(line)])
    main()


@pytest.mark.parametrize("system", ["bss", "bss_swav"])
def test_the_command_trains_and_goes_on(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = "trainer.batch_size_global=500 trainer.accelerator=cpu system.dim=8"
    consilience(
        f"train system={system} data=domains_demo trainer.max_epochs=1 {small}", monkeypatch
    )
    consilience(f"train system={system} resume=last trainer.max_epochs=2", monkeypatch)
    (folder,) = tmp_path.glob(f"runs/core/{system}/*")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert "seen_accuracy" in capsys.readouterr().out
