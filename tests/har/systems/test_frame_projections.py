from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.checkpoints import read_checkpoint
from core.data.checks import DataError
from core.data.samples import Samples
from core.encoders.resnet1d import ResNet1D
from core.encoders.scalogram_convolutions import ScalogramConvNet
from core.encoders.spectrum_convolutions import SpectrumConvNet
from core.tasks.probing import Probing
from core.trainers import fit
from core.trainers.system import Batch
from har.systems.frame_projections import FrameProjections
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients

SHAPES = {"imu": [2, 12]}
FLAT = {"_target_": "core.encoders.mlp.MLP", "hidden": [8], "dim": 6}
SMALL = {
    "encoder": FLAT,
    "gabor_encoder": FLAT,
    "fourier_encoder": FLAT,
    "n_scales": 5,
    "largest_scale": 8.0,
    "hidden_dim": 7,
    "dim": 4,
    "mapper_channels": 3,
}


def built(**arguments) -> FrameProjections:
    torch.manual_seed(0)
    return FrameProjections(SHAPES, **SMALL | arguments)


def windows(n: int = 8) -> Tensor:
    return torch.randn(n, 2, 12, generator=torch.Generator().manual_seed(1))


def samples(n: int = 22) -> Samples:
    parts = torch.arange(n).tensor_split([n - 8, n - 4])
    splits = dict(zip(("train", "valid", "test"), parts, strict=True))
    labels = {"label": torch.arange(n) % 3}
    return Samples({"imu": windows(n)}, labels, splits, [str(i) for i in range(n)])


def test_the_paper_s_sizes_are_the_defaults() -> None:
    system = FrameProjections({"imu": [6, 50]})
    kinds = [type(encoder) for encoder in system.encoders.values()]
    assert kinds == [ResNet1D, ScalogramConvNet, SpectrumConvNet]
    assert {view: x.shape[1:] for view, x in system.views(torch.zeros(1, 6, 50)).items()} == {
        "time": (6, 50),
        "gabor": (6, 48, 50),
        "fourier": (12, 26),
    }
    assert system.eval().embed({"imu": torch.randn(3, 6, 50)})["imu"].shape == (3, 384)


def test_the_objective_by_definition() -> None:
    system, x = built(), windows()
    terms = system.objective({"imu": x})
    views = system.views(x)
    e = {v: F.normalize(system.heads[v](system.encoders[v](views[v]))) for v in views}

    def contrast(a: Tensor, b: Tensor) -> Tensor:
        rows = torch.cat([a, b])
        scores = (rows @ rows.T / 0.15).fill_diagonal_(-torch.inf)
        return F.cross_entropy(scores, torch.arange(16).roll(8))

    def mapping(view: str) -> Tensor:
        # A mean over all numbers, and 8 rows once more.
        return (system.mappers[view](e["time"]) - e[view]).abs().mean() / 8

    expected = {
        "time_gabor": contrast(e["time"], e["gabor"]),
        "time_fourier": contrast(e["time"], e["fourier"]),
        "gabor_fourier": contrast(e["gabor"], e["fourier"]),
        "to_gabor": mapping("gabor"),
        "to_fourier": mapping("fourier"),
    }
    torch.testing.assert_close({k: terms[k] for k in expected}, expected)
    torch.testing.assert_close(terms["loss"], torch.stack(list(expected.values())).sum())
    assert terms.keys() == expected.keys() | {"loss"}


def test_gradients_reach_both_ends_of_the_mapping_but_no_readout() -> None:
    system = built()
    terms = system.objective({"imu": windows()})
    (terms["to_gabor"] + terms["to_fourier"]).backward()
    reached = {name for name, weight in system.named_parameters() if weight.grad is not None}
    for view in ("time", "gabor", "fourier"):
        assert f"encoders.{view}.layers.1.weight" in reached
        assert f"heads.{view}.layers.0.weight" in reached
    assert "mappers.gabor.layers.0.weight" in reached
    groups = system.parameter_groups()
    trained = {id(weight) for group in groups for weight in group["params"]}
    for name, weight in system.named_parameters():
        assert (id(weight) in trained) is not name.startswith("readout_mappers")


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 5 rows: 2 for the one, 3 for the other.
    cases = [(FrameProjections, SMALL, Probing(), samples(), 9, 2)]
    (expected,), together = gradients(cases), run_gloo(2, gradients, cases)
    for name, gradient in expected.items():
        # Signs may add up to 0 in the bias of a mapper.
        if name.endswith("weight") and not name.startswith("readout_mappers"):
            assert gradient.abs().max() > 0, name
        for (one,) in together:
            torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_readouts_are_side_by_side_around_the_window() -> None:
    x = {"imu": windows()}
    readouts = {name: built(readout=name).embed(x)["imu"] for name in ("time", "encoders")}
    system = built()
    whole = system.embed(x)["imu"]
    h = system.encode(x["imu"])
    assert torch.equal(readouts["time"], h["time"])
    assert torch.equal(readouts["encoders"], torch.cat([h["fourier"], h["time"], h["gabor"]], 1))
    fourier, time, gabor = whole.split(6, 1)
    assert torch.equal(time, h["time"])
    assert torch.equal(fourier, system.readout_mappers["fourier"](time))
    assert torch.equal(gabor, system.readout_mappers["gabor"](time))
    assert torch.equal(system.project(x)["imu"], system.heads["time"](h["time"]))


def distance(system: FrameProjections) -> float:
    h = system._representations(windows(40))
    mappers = system.readout_mappers.items()
    return sum(float((m(h["time"]) - h[v]).abs().mean().detach()) for v, m in mappers)


def test_mappers_are_fitted_to_frozen_encoders() -> None:
    system = built(readout_channels=4)
    before = {name: weight.clone() for name, weight in system.state_dict().items()}
    start, state = distance(system), torch.get_rng_state()
    system.fit_readout(windows(40), epochs=60, batch_size=8, seed=3)
    assert distance(system) < 0.8 * start
    assert torch.equal(torch.get_rng_state(), state)
    assert system.training
    fitted = system.state_dict()
    for name, weight in before.items():
        assert torch.equal(weight, fitted[name]) is not name.startswith("readout_mappers"), name
    # From scratch: what was fitted before does not matter, the seed does.
    again, other = built(readout_channels=4), built(readout_channels=4)
    again.fit_readout(windows(40), 5, 8, seed=1)
    again.fit_readout(windows(40), 60, 8, seed=3)
    other.fit_readout(windows(40), 60, 8, seed=4)
    assert distance(again) == distance(system) != distance(other)


def trained(folder: Path, resume: Path | None = None, **options) -> Path:
    torch.manual_seed(0)
    task = Probing(monitor="knn_accuracy", k=3)
    options = {"max_epochs": 5, "batch_size_global": 5, "accelerator": "cpu"} | options
    fit(built(), samples(), task, folder, resume=resume, progress=False, seed=7, **options)
    return folder / "checkpoints"


@pytest.mark.parametrize("every", [1, 2])
def test_checkpoints_hold_mappers_of_their_own_encoders(tmp_path: Path, every: int) -> None:
    folder = trained(tmp_path, validate_every=every)
    for name in ("best.ckpt", "last.ckpt"):
        weights = read_checkpoint(folder / name)["state_dict"]
        system = built()
        system.load_state_dict(weights)
        system.fit_readout(samples().columns("train")["imu"], epochs=5, batch_size=5, seed=7)
        for key, weight in system.state_dict().items():
            assert torch.equal(weight, weights[key]), (name, key)


def test_they_are_not_fitted_where_nothing_looks(tmp_path: Path, monkeypatch) -> None:
    epochs = []
    fitted = FrameProjections.fit_readout

    def counted(self: FrameProjections, *arguments) -> None:
        epochs.append(self.current_epoch)
        fitted(self, *arguments)

    monkeypatch.setattr(FrameProjections, "fit_readout", counted)
    trained(tmp_path, validate_every=2)
    assert epochs == [1, 3, 4]


def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(self: FrameProjections, batch: Batch, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (3, 2):
            raise Killed

    whole = trained(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(FrameProjections, "on_train_batch_start", kill)
        trained(tmp_path / "parts", checkpoint_every_n_steps=1)
    parts = tmp_path / "parts"
    again = trained(parts, parts / "checkpoints" / "last.ckpt")
    expected, found = (read_checkpoint(f / "last.ckpt")["state_dict"] for f in (whole, again))
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_is_rebuilt_from_files(tmp_path: Path) -> None:
    system = built()
    system.save_pretrained(tmp_path)
    again = FrameProjections.from_pretrained(tmp_path)
    x = {"imu": windows()}
    assert torch.equal(again.embed(x)["imu"], system.embed(x)["imu"])
    assert torch.equal(again.objective(x)["loss"], system.objective(x)["loss"])


def test_views_are_exact_under_autocast() -> None:
    system, x = built(), windows()
    expected = system.views(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = system.views(x)
        assert system.objective({"imu": x})["loss"].dtype == torch.float32
    for view, values in expected.items():
        assert torch.equal(found[view], values)


def test_refuses_what_it_cannot_use() -> None:
    two = {"skeleton": [3, 12, 20], "imu": [2, 12]}
    for shapes in (two, {"skeleton": [3, 12, 20]}):
        with pytest.raises(DataError, match=r"FrameProjections of skeleton(.*\n)+.*\[imu\]"):
            FrameProjections(shapes, **SMALL)
    with pytest.raises(DataError, match=r"time 6, gabor 8, fourier 6\n.*one even width"):
        built(gabor_encoder=FLAT | {"dim": 8})
    odd = dict.fromkeys(("encoder", "gabor_encoder", "fourier_encoder"), FLAT | {"dim": 5})
    with pytest.raises(DataError, match="one even width"):
        built(**odd)
    with pytest.raises(DataError, match=r"readout=all\n.*time, mappers or encoders"):
        built(readout="all")
