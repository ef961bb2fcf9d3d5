import torch
import torch.nn.functional as F

from remote_sensing.systems.single_sensor import SingleSensor
from tests.remote_sensing.sensors import CLASSES, PLAIN, SHAPES, rows


def built(shapes: dict[str, list[int]] = SHAPES) -> SingleSensor:
    torch.manual_seed(0)
    return SingleSensor(shapes, CLASSES, encoder=PLAIN)


def test_a_sensor_beside_another_has_the_gradient_that_it_has_alone() -> None:
    both, batch = built(), rows()
    terms = both.objective(batch)
    terms["loss"].backward()
    alone = SingleSensor({"S1": SHAPES["S1"]}, CLASSES, encoder=PLAIN)
    own = {name: weight for name, weight in both.state_dict().items() if "S2" not in name}
    alone.load_state_dict(own)
    loss = alone.objective({"S1": batch["S1"], "label": batch["label"]})["loss"]
    loss.backward()
    torch.testing.assert_close(loss, terms["S1"])
    torch.testing.assert_close(
        loss, F.cross_entropy(alone.heads["S1"](alone.encoders["S1"](batch["S1"])), batch["label"])
    )
    theirs = dict(both.named_parameters())
    for name, weight in alone.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad)


def test_predicts_and_embeds_the_sensors_that_are_there() -> None:
    system, batch = built().eval(), rows()
    assert list(system.predict_each(batch)) == list(system.embed(batch)) == ["S1", "S2"]
    alone = system.predict_each({"S2": batch["S2"]})
    assert list(alone) == ["S2"]
    torch.testing.assert_close(alone["S2"], system.heads["S2"](system.embed(batch)["S2"]))
