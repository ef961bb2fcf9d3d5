import pytest
import torch
import torch.nn.functional as F

from core.augment.series import NoiseAndGain
from core.data.checks import DataError
from har.data.recordings import IMU, SKELETON
from har.systems.simclr import SimCLR
from har.task import ActivityRecognition
from tests.har.generated import SMALL, trained, windows


@pytest.mark.parametrize("modality", [SKELETON, IMU])
def test_every_view_is_an_anchor_and_all_others_are_its_candidates(modality: str) -> None:
    data = windows((modality,))
    task = ActivityRecognition({modality: NoiseAndGain()})
    torch.manual_seed(0)
    system = SimCLR.of(task.system_arguments(data), encoder=SMALL, dim=8, temperature=0.3)
    batch = next(iter(task.train_loader(system, data, 12, 0)))
    assert batch["views"].shape == (2, 12, *data.shapes[modality])
    assert not torch.equal(batch["views"][0], batch["views"][1])
    z = F.normalize(system.head(system.encoder(batch["views"].flatten(0, 1))), dim=1)
    scores = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    expected = F.cross_entropy(scores, torch.arange(24).roll(12))
    torch.testing.assert_close(system.objective(batch)["loss"], expected)


def test_one_sensor_learns_without_labels() -> None:
    data = windows((IMU,))
    task = ActivityRecognition({IMU: NoiseAndGain(0.4, 0.2)})
    torch.manual_seed(0)
    system = SimCLR.of(task.system_arguments(data), encoder=SMALL, dim=8)
    before = task.evaluate(system.eval(), data, "test").metrics
    after = task.evaluate(trained(system, task, data), data, "test").metrics
    assert after.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"}
    assert after["accuracy"] > before["accuracy"] + 0.1


def test_two_modalities_are_refused_with_the_way_out() -> None:
    shapes = {SKELETON: [3, 20, 4], IMU: [6, 20]}
    with pytest.raises(DataError, match=r"(?s)one modality.*modalities=\[skeleton\].*system=cmc"):
        SimCLR(shapes)


def test_one_of_two_sensors_learns_as_it_would_alone() -> None:
    both, task = windows(), ActivityRecognition(NoiseAndGain())
    torch.manual_seed(0)
    system = SimCLR.of(task.system_arguments(both), encoder=SMALL, dim=8, modality=IMU)
    torch.manual_seed(0)
    alone = SimCLR({IMU: both.shapes[IMU]}, encoder=SMALL, dim=8)
    batch = next(iter(task.train_loader(system, both, 12, 0)))
    assert torch.equal(system.objective(batch)["loss"], alone.objective(batch)["loss"])
    assert system.embed(batch).keys() == {IMU}
    assert task.evaluate(system.eval(), both, "test").metrics["accuracy"] > 0.25
    with pytest.raises(DataError, match=r"(?s)system.modality=gaze.*skeleton, imu"):
        SimCLR(both.shapes, modality="gaze")
    with pytest.raises(DataError, match="temperature=0"):
        SimCLR(both.shapes, modality=IMU, temperature=0)
