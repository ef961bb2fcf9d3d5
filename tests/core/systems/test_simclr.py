from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, normalize

from core.augment.small_images import SmallImageViews
from core.checkpoints import load_system
from core.data.digits import write_digits
from core.data.table import load_table
from core.systems.simclr import SimCLR
from core.tasks.probing import Probing
from core.trainers import fit

SIZES = {"shapes": {"image": [1, 8, 8]}}


def test_the_objective_is_the_papers_with_every_view_an_anchor() -> None:
    torch.manual_seed(0)
    system = SimCLR(**SIZES, temperature=0.3)
    views = torch.rand(2, 6, 1, 8, 8)
    z = normalize(system.head(system.encoder(views.flatten(0, 1))), dim=1)
    scores = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    expected = cross_entropy(scores, torch.arange(12).roll(6))
    torch.testing.assert_close(system.objective({"views": views})["loss"], expected)


def test_embeddings_are_before_the_head_and_projections_after() -> None:
    system = SimCLR(**SIZES).eval()
    batch = {"image": torch.rand(5, 1, 8, 8)}
    h, z = system.embed(batch)["image"], system.project(batch)["image"]
    assert h.shape == (5, 128) and z.shape == (5, 64)
    torch.testing.assert_close(z, system.head(h))


def test_an_encoder_of_the_users_own_is_rebuilt_from_the_exported_weights(tmp_path: Path) -> None:
    encoder = {"_target_": "core.encoders.mlp.MLP", "hidden": [32, 16], "dim": 24}
    system = SimCLR(**SIZES, encoder=encoder).eval()
    system.save_pretrained(tmp_path)
    again = SimCLR.from_pretrained(tmp_path).eval()
    batch = {"image": torch.rand(3, 1, 8, 8)}
    assert torch.equal(again.embed(batch)["image"], system.embed(batch)["image"])
    assert again.encoder.dim == 24


def test_a_run_cut_in_two_has_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", tail=0.01)
    data, task = load_table(tmp_path / "data"), Probing(SmallImageViews())

    def trained(folder: str, max_epochs: int, resume: Path | None = None) -> Path:
        torch.manual_seed(0)
        system = SimCLR.of(task.system_arguments(data))
        options = {"max_epochs": max_epochs, "batch_size_global": 64, "resume": resume}
        fit(system, data, task, tmp_path / folder, **options, progress=False)
        return tmp_path / folder / "checkpoints" / "last.ckpt"

    unbroken = trained("unbroken", 4)
    trained("run", 2)
    resumed = trained("run", 4, tmp_path / "run" / "checkpoints" / "last.ckpt")
    for a, b in zip(
        load_system(unbroken)[0].parameters(), load_system(resumed)[0].parameters(), strict=True
    ):
        assert torch.equal(a, b)
