import pytest
import torch
import torch.nn.functional as F

from core.data.checks import DataError
from remote_sensing.systems.all_sensors import AllSensors
from remote_sensing.systems.sensor_distillation import SensorDistillation
from remote_sensing.systems.single_sensor import SingleSensor
from remote_sensing.systems.targets import Classes, Labels, Values
from tests.remote_sensing.sensors import CLASSES, PLAIN, SHAPES, rows


def built(system: type = AllSensors, **arguments: object) -> AllSensors | SensorDistillation:
    torch.manual_seed(0)
    return system(SHAPES, CLASSES, encoder=PLAIN, **arguments)


def test_a_missing_sensor_is_the_mean_of_its_values() -> None:
    system, batch = built().eval(), rows()
    alone = system.predict_each({"S2": batch["S2"]})
    assert list(alone) == ["S2"]
    filled = {"S1": torch.zeros_like(batch["S1"]), "S2": batch["S2"]}
    torch.testing.assert_close(alone["S2"], system.fusion(filled))
    assert (alone["S2"] - system.fusion(batch)).abs().max() > 0.01
    embedded = system.embed(batch)
    assert list(embedded) == ["S1", "S2", "joint"]
    torch.testing.assert_close(system.fusion.head(embedded["joint"]), system.fusion(batch))
    assert list(system.embed({"S1": batch["S1"]})) == ["S1"]


def test_training_sees_all_sensors_at_once() -> None:
    system, batch = built(), rows()
    loss = system.objective(batch)["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(system.fusion(batch), batch["label"]))
    loss.backward()
    assert all(weight.grad.abs().max() > 0 for weight in system.parameters())


def test_nothing_of_the_students_reaches_the_teacher() -> None:
    system, batch = built(SensorDistillation, weight=3.0), rows()
    terms = system.objective(batch)
    torch.testing.assert_close(terms["loss"], sum(t for n, t in terms.items() if n != "loss"))
    students = sum(of for name, of in terms.items() if name not in ("loss", "teacher"))
    grads = torch.autograd.grad(students, list(system.teacher.parameters()), allow_unused=True)
    assert all(grad is None for grad in grads)
    assert terms["imitation/S1"] > 0


def test_without_its_weight_students_are_single_sensors() -> None:
    system, batch = built(SensorDistillation, weight=0.0), rows()
    single = built(SingleSensor)
    single.load_state_dict({n: w for n, w in system.state_dict().items() if "teacher" not in n})
    system.objective(batch)["loss"].backward()
    single.objective(batch)["loss"].backward()
    theirs = dict(system.named_parameters())
    for name, weight in single.named_parameters():
        torch.testing.assert_close(theirs[name].grad, weight.grad)
    predicted = system.eval().predict_each({"S1": batch["S1"]})
    torch.testing.assert_close(predicted["S1"], single.eval().predict_each(batch)["S1"])


@pytest.mark.parametrize("target", [Classes(3), Labels(3), Values(1)])
def test_imitation_is_zero_at_the_teacher_and_has_its_slope(
    target: Classes | Labels | Values,
) -> None:
    g = torch.Generator().manual_seed(0)
    taught = torch.randn(5, target.n_outputs, generator=g).double()
    said = torch.randn(5, target.n_outputs, generator=g).double().requires_grad_()
    assert target.imitation(taught, taught, 2.0).abs() < 1e-12
    assert torch.autograd.gradcheck(lambda x: target.imitation(x, taught, 2.0), said)
    if isinstance(target, Values):
        target.deviation.fill_(2.0)
        expected = ((said - taught) / 2).square().mean()
    elif isinstance(target, Labels):
        p, q = (taught / 2).sigmoid(), (said / 2).sigmoid()
        entropy = F.binary_cross_entropy(q, p, reduction="none") - F.binary_cross_entropy(
            p, p, reduction="none"
        )
        expected = 4 * entropy.mean()
    else:
        p, q = (taught / 2).softmax(1), (said / 2).softmax(1)
        expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(target.imitation(said, taught, 2.0), expected)


def test_what_cannot_teach_is_refused() -> None:
    with pytest.raises(DataError, match="two or more for the teacher"):
        SensorDistillation({"S1": SHAPES["S1"]}, CLASSES, encoder=PLAIN)
    with pytest.raises(DataError, match=r"system\.temperature=0"):
        built(SensorDistillation, temperature=0)
