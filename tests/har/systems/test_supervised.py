import pytest
import torch
from sklearn.metrics import accuracy_score

from core.augment.series import NoiseAndGain
from core.data.checks import DataError
from har.data.recordings import IMU, SKELETON
from har.systems.label_preserving import LabelPreserving
from har.systems.sla import AXES_AND_TIME, SLA
from har.systems.supervised import Supervised
from har.task import ActivityRecognition
from tests.har.generated import SMALL, trained, windows


def built(kind, data, task, **arguments):
    torch.manual_seed(0)
    return kind.of(task.system_arguments(data), encoder=SMALL, **arguments)


@pytest.mark.parametrize("modalities", [(SKELETON,), (IMU,), (SKELETON, IMU)])
def test_one_sensor_or_both_learn_the_activities(modalities: tuple[str, ...]) -> None:
    data = windows(modalities)
    task = ActivityRecognition(dict.fromkeys(modalities, NoiseAndGain(0.1, 0.1)))
    system = built(Supervised, data, task, hidden_dim=32)
    assert system.readout.branches.keys() == set(modalities)
    metrics = task.evaluate(trained(system, task, data, 20), data, "test").metrics
    assert metrics["accuracy"] > 0.8
    rows = data.splits["test"]
    said = system.predict({name: values[rows] for name, values in data.inputs.items()}).argmax(1)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(data.labels["label"][rows], said))


def test_windows_without_a_label_teach_nothing() -> None:
    data = windows()
    system = built(Supervised, data, ActivityRecognition()).eval()
    views = {f"views/{name}": values[None, :8] for name, values in data.inputs.items()}
    label = torch.tensor([0, -1, 2, -1, 1, 3, -1, 0])
    some = {name: values[:, label >= 0] for name, values in views.items()}
    torch.testing.assert_close(
        system.objective(views | {"label": label})["loss"],
        system.objective(some | {"label": label[label >= 0]})["loss"],
    )
    with pytest.raises(DataError, match="Supervised learns classes"):
        Supervised(data.shapes, {"subject": 5}, encoder=SMALL)


def test_label_augmentation_turns_the_sensor_and_the_time() -> None:
    """Eight copies of a window, and a joint label for each."""
    data = windows((IMU,))
    task = ActivityRecognition()
    system = built(SLA, data, task).eval()
    x = data.inputs[IMU][:3]
    copies = system.transformations(x)
    assert copies.shape == (3, 8, 6, 20)
    torch.testing.assert_close(copies[:, 1], x.flip(2))
    quarter = torch.stack([-x[:, 1], x[:, 0], x[:, 2], -x[:, 4], x[:, 3], x[:, 5]], 1)
    torch.testing.assert_close(copies[:, 2], quarter)
    scores = system.joint(system.encoder(copies.flatten(0, 1))).unflatten(0, (3, 8))
    by_copy = torch.stack([scores[:, j, j::8] for j in range(8)]).mean(0)
    torch.testing.assert_close(system.predict({IMU: x}), by_copy)


def test_aggregation_reports_the_single_pass_as_well_and_validates_by_it() -> None:
    data = windows((IMU,), noise=1.0)
    task = ActivityRecognition()
    system = trained(built(SLA, data, task), task, data, 10)
    test, valid = (task.evaluate(system, data, split) for split in ("test", "valid"))
    rows = {split: data.splits[split] for split in ("valid", "test")}

    def accuracy(split: str, predict) -> float:
        said = predict({IMU: data.inputs[IMU][rows[split]]}).argmax(1)
        return float((said == data.labels["label"][rows[split]]).double().mean())

    assert test.metrics["accuracy"] == pytest.approx(accuracy("test", system.predict))
    assert test.metrics["single_accuracy"] == pytest.approx(accuracy("test", system.predict_single))
    assert valid.metrics["accuracy"] == pytest.approx(accuracy("valid", system.predict_single))
    assert "single_accuracy" not in valid.metrics
    assert test.metrics["accuracy"] != test.metrics["single_accuracy"]
    alone = built(SLA, data, task, inference="single")
    alone.load_state_dict(system.state_dict())
    metrics = task.evaluate(alone.eval(), data, "test").metrics
    assert metrics["accuracy"] == test.metrics["single_accuracy"]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"transformations": AXES_AND_TIME, "average": True, "predict_transformation": True}],
)
def test_what_label_augmentation_is_compared_with_learns_too(arguments) -> None:
    data = windows((IMU,))
    task = ActivityRecognition()
    system = trained(built(LabelPreserving, data, task, **arguments), task, data, 20)
    assert task.evaluate(system, data, "test").metrics["accuracy"] > 0.6


def test_a_skeleton_has_no_sensor_to_turn() -> None:
    data = windows((SKELETON,))
    system = built(SLA, data, ActivityRecognition())
    with pytest.raises(DataError, match="no axes to rotate"):
        system.predict({SKELETON: data.inputs[SKELETON][:2]})


@pytest.mark.parametrize("augment", [None, NoiseAndGain(0.1, 0.1)])
def test_windows_as_they_are_and_one_augmentation_for_both_sensors(augment) -> None:
    data = windows()
    task = ActivityRecognition(augment)
    system = built(Supervised, data, task)
    batch = next(iter(task.train_loader(system, data, 8, seed=0)))
    for name in data.inputs:
        same = torch.equal(batch[f"views/{name}"][0], batch[name])
        assert same == (augment is None)
    assert system.objective(batch)["loss"].isfinite()
