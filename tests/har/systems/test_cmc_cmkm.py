from pathlib import Path

import torch
import torch.nn.functional as F

from core.augment.series import NoiseAndGain
from core.checkpoints import load_system
from core.losses import info_nce
from core.trainers import fit
from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows
from har.systems.cmc_cmkm import CMCCMKM
from har.systems.simclr import SimCLR
from har.task import ActivityRecognition
from tests.har.generated import SMALL, windows

DATA = windows()
GENTLE = {"_target_": "core.augment.series.NoiseAndGain"}
TASK = ActivityRecognition({SKELETON: NoiseAndGain(), IMU: NoiseAndGain()})
GUIDES = ("guide_skeleton", "guide_imu")


def built(**arguments) -> CMCCMKM:
    torch.manual_seed(0)
    small = {"encoder": SMALL, "hidden_dim": 16, "dim": 8, "guide_epochs": 2}
    views = {"guide_views": {SKELETON: GENTLE, IMU: GENTLE}, "guide_batch_size": 16}
    return CMCCMKM.of(TASK.system_arguments(DATA), **small | views | arguments)


def test_guides_keep_one_vector_of_every_training_window() -> None:
    system = built()
    before = {name: value.clone() for name, value in system.named_parameters()}
    system.prepare(DATA)
    for name in GUIDES:
        guide = system.get_buffer(name)
        assert guide.shape == (48, 8)
        assert len(guide.unique(dim=0)) == 48
    for name, value in system.named_parameters():
        assert torch.equal(value, before[name]), name
    assert not any(name.startswith("guide") for name, _ in system.named_parameters())


def test_guides_know_the_activities_better_than_untrained_ones() -> None:
    label = DATA.labels["label"][DATA.splits["train"]]

    def agreement(system: CMCCMKM) -> float:
        found = []
        for name in GUIDES:
            z = F.normalize(system.get_buffer(name), dim=1)
            nearest = (z @ z.T).fill_diagonal_(-1).argmax(1)
            found.append(float((label[nearest] == label).float().mean()))
        return min(found)

    strong = {"_target_": "core.augment.series.NoiseAndGain", "noise": 0.5}
    arguments = {"guide_views": {SKELETON: strong, IMU: strong}, "guide_lr": 0.01}
    system, untrained = built(**arguments, guide_epochs=40), built(guide_epochs=0)
    system.prepare(DATA)
    untrained.prepare(DATA)
    assert agreement(untrained) < 0.45
    assert agreement(system) > 0.6


def test_the_rows_of_a_batch_find_their_own_guides() -> None:
    """What is mined follows from `index`, whatever the order of the batch."""
    system = built(intra_weight=0.0, temperature=0.5).eval()
    loader = TASK.train_loader(system, DATA, 12, 0)
    batch = next(iter(loader))
    train = DATA.splits["train"]
    for name in (SKELETON, IMU):
        rows = DATA.inputs[name][train[batch["index"]]]
        assert torch.equal(batch[name], rows)
    # Each guide says who is alike: who is near on an arc, in uneven steps so that none are equal.
    angle = (torch.arange(48) / 48) ** 1.3 * torch.pi
    circle = F.pad(torch.stack([angle.cos(), angle.sin()], 1), (0, 6))
    for name in GUIDES:
        system.get_buffer(name).copy_(circle)
    first, second = (F.normalize(z, dim=1) for z in system.projections(batch))
    cosines = first @ second.T / 0.5
    number = batch["index"]
    place = angle[number]
    apart = (place[:, None] - place).abs().fill_diagonal_(torch.inf)
    nearest = apart.argmin(1)
    losses = []
    for scores in (cosines, cosines.T):
        shares = scores.log_softmax(1)
        own, mined = shares.diagonal(), shares.gather(1, nearest[:, None])[:, 0]
        losses.append(-(own + mined) / 2)
    torch.testing.assert_close(system.objective(batch)["loss"], torch.cat(losses).mean())


def test_negatives_of_the_own_modality_raise_the_loss() -> None:
    batch = next(iter(TASK.train_loader(built(), DATA, 12, 0)))
    plain, more = built(intra_weight=0.0).eval(), built(intra_weight=1.0).eval()
    assert more.objective(batch)["loss"] > plain.objective(batch)["loss"] + 1e-3
    # Guides that are all alike mine somebody, so it is not the loss of CMC.
    first, second = plain.projections(batch)
    assert plain.objective(batch)["loss"] != info_nce(first, second, 0.1)


def test_padding_of_the_guides_views_stays_zero(monkeypatch) -> None:
    seen = []

    class Watched(SimCLR):
        def objective(self, batch):
            seen.append(batch)
            return super().objective(batch)

    lengths = torch.full((120,), 20)
    lengths[::3] = 13
    data = windows(lengths=lengths)
    monkeypatch.setattr("har.systems.cmc_cmkm.SimCLR", Watched)
    built().prepare(data)
    assert len(seen) == 2 * 2 * 3
    for batch in seen:
        padding = ~batch["mask"]
        assert padding.any()
        (views,) = (of for name, of in batch.items() if name.startswith("views/"))
        steps = views.movedim(3, 2)[:, padding]
        assert len(steps) and not steps.any()
        assert views.movedim(3, 2)[:, ~padding].any()


def test_a_resumed_run_has_the_guides_it_began_with(tmp_path: Path, monkeypatch) -> None:
    options = {"batch_size_global": 16, "validate_every": 9, "progress": False}

    def run(folder: str, max_epochs: int, resume: Path | None = None) -> Path:
        system = built()
        fit(system, DATA, TASK, tmp_path / folder, **options, max_epochs=max_epochs, resume=resume)
        return tmp_path / folder / "checkpoints" / "last.ckpt"

    whole = run("whole", 2)
    first = run("cut", 1)
    state = {name: load_system(first)[0].get_buffer(name) for name in GUIDES}
    assert all(value.any() for value in state.values())

    def never(self: CMCCMKM, data: Windows) -> None:
        raise AssertionError("guides are trained once")

    monkeypatch.setattr(CMCCMKM, "prepare", never)
    resumed = load_system(run("cut", 2, first))[0]
    for name, value in load_system(whole)[0].state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for name, value in state.items():
        assert torch.equal(resumed.get_buffer(name), value)
