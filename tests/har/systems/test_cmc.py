import pytest
import torch
import torch.nn.functional as F

from core.augment.series import NoiseAndGain
from core.data.checks import DataError
from core.encoders.cooccurrence import CooccurrenceCNN
from core.encoders.csshar import CSSHAR
from core.encoders.mlp import MLP
from core.trainers import System
from har.data.recordings import IMU, SKELETON
from har.systems.cmc import CMC
from har.systems.har_hard_negatives import HardNegatives
from har.task import ActivityRecognition
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients
from tests.har.generated import PLAIN, SMALL, trained, windows

DATA = windows()
VIEWS = {SKELETON: NoiseAndGain(0.1, 0.1), IMU: NoiseAndGain(0.1, 0.1)}
TASK = ActivityRecognition(VIEWS)


def built(kind: type[System] = CMC, **arguments) -> System:
    torch.manual_seed(0)
    small = {"encoder": SMALL, "hidden_dim": 16, "dim": 8}
    return kind.of(TASK.system_arguments(DATA), **small | arguments)


def batch(n: int = 10) -> dict[str, torch.Tensor]:
    rows = DATA.splits["train"][torch.arange(n) * 4]
    return {f"views/{name}": values[rows][None] for name, values in DATA.inputs.items()}


def test_the_loss_is_the_cross_entropy_of_finding_the_other_sensor() -> None:
    system = built(temperature=0.2).eval()
    z = [
        F.normalize(system.heads[name](system.encoders[name](batch()[f"views/{name}"][0])), dim=1)
        for name in (SKELETON, IMU)
    ]
    cosines, own = z[0] @ z[1].T / 0.2, torch.arange(10)
    expected = (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
    torch.testing.assert_close(system.objective(batch())["loss"], expected)


def test_without_weights_and_correction_hard_negatives_are_cmc() -> None:
    arguments = {"temperature": 0.3}
    losses = {
        "cmc": built(**arguments),
        "none": built(HardNegatives, **arguments, beta=0.0, tau_plus=0.0),
        "weights": built(HardNegatives, **arguments, beta=1.0, tau_plus=0.0),
        "correction": built(HardNegatives, **arguments, beta=0.0, tau_plus=0.1),
        "all": built(HardNegatives, **arguments, beta=0.0, tau_plus=0.0, negatives="all"),
    }
    found = {}
    for name, system in losses.items():
        found[name] = system.objective(batch())["loss"]
        found[name].backward()
    torch.testing.assert_close(found["none"], found["cmc"])
    for name, weight in losses["cmc"].named_parameters():
        other = losses["none"].get_parameter(name).grad
        torch.testing.assert_close(other, weight.grad, msg=name, atol=1e-6, rtol=1e-4)
    assert len({round(loss.item(), 4) for loss in found.values()}) == 4


def test_hard_negatives_weight_the_closest() -> None:
    """A value computed by hand, anchor by anchor."""
    system = built(HardNegatives, temperature=0.5, beta=1.5, tau_plus=0.1).eval()
    first, second = (F.normalize(z, dim=1) for z in system.projections(batch(6)))
    scores = first @ second.T / 0.5
    losses = []
    for one in (scores, scores.T):
        for i in range(6):
            others = [one[i, j] for j in range(6) if j != i]
            weights = torch.stack([(1.5 * s).exp() for s in others])
            weights = weights / weights.mean()
            hard = sum(w * s.exp() for w, s in zip(weights, others, strict=True))
            positive = one[i, i].exp()
            hard = (hard - 0.1 * 5 * positive) / 0.9
            hard = hard.clamp(min=5 * torch.exp(torch.tensor(-2.0)))
            losses.append(-(positive / (positive + hard)).log())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(system.objective(batch(6))["loss"], expected)


@pytest.mark.parametrize(
    ("kind", "arguments"), [(CMC, {}), (HardNegatives, {"temperature": 0.3, "tau_plus": 0.2})]
)
def test_two_sensors_find_each_other_after_training(kind, arguments) -> None:
    system = built(kind, hidden_dim=32, dim=16, **arguments)
    before = TASK.evaluate(system.eval(), DATA, "test").metrics
    after = TASK.evaluate(trained(system, TASK, DATA), DATA, "test").metrics
    assert before["class_retrieval@1"] < 0.4
    assert after["class_retrieval@1"] > 0.6
    assert after["clip_retrieval@1"] > 3 / len(DATA.splits["test"])
    assert after["accuracy"] > before["accuracy"] + 0.1


def test_the_published_networks_are_the_default() -> None:
    shapes = {SKELETON: [3, 50, 20], IMU: [6, 50]}
    system = CMC(shapes)
    assert isinstance(system.encoders[SKELETON], CooccurrenceCNN)
    assert isinstance(system.encoders[IMU], CSSHAR)
    named = {SKELETON: PLAIN, IMU: SMALL, "sound": PLAIN}
    mixed = CMC(shapes, encoder=named)
    assert isinstance(mixed.encoders[SKELETON], MLP)
    assert mixed.encoders.keys() == {SKELETON, IMU}


def test_features_are_before_the_projection_and_the_same_in_every_batch() -> None:
    system = built().eval()
    rows = {name: values[:7] for name, values in DATA.inputs.items()}
    embedded, projected = system.embed(rows), system.project(rows)
    assert {name: list(x.shape) for name, x in embedded.items()} == {
        SKELETON: [7, 32],
        IMU: [7, 32],
    }
    for name, h in embedded.items():
        torch.testing.assert_close(projected[name], system.heads[name](h))
        alone = system.embed({k: v[2:3] for k, v in rows.items()})[name]
        torch.testing.assert_close(alone[0], h[2])


class PlainCMC(CMC):
    def __init__(self, *args, **arguments) -> None:
        super().__init__(*args, **arguments)
        _without_batch_norm(self)


class PlainHardNegatives(HardNegatives):
    def __init__(self, *args, **arguments) -> None:
        super().__init__(*args, **arguments)
        _without_batch_norm(self)


def _without_batch_norm(system: CMC) -> None:
    for head in system.heads.values():
        head[1] = torch.nn.Identity()


def test_two_processes_share_the_batch_of_one() -> None:
    """Every clip of the other process is a negative. Batch norm, of each process by itself, is
    left out."""
    cases = []
    for kind in (PlainCMC, PlainHardNegatives):
        arguments = {"encoder": PLAIN, "hidden_dim": 8, "dim": 4}
        cases.append((kind, arguments, TASK, DATA, 14, 2))
    alone = gradients(cases)
    shared = run_gloo(2, gradients, cases)
    for one, *others in zip(alone, *shared, strict=True):
        assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
        for two in others:
            for name, gradient in one.items():
                torch.testing.assert_close(two[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_one_modality_is_refused_and_one_without_encoder() -> None:
    for kind in (CMC, HardNegatives):
        with pytest.raises(DataError, match=rf"(?s){kind.__name__} of imu.*two modalities.*to do"):
            kind({IMU: [6, 20]}, 4, {})
    with pytest.raises(DataError, match=r"(?s)no encoder for imu.*system.encoder.imu="):
        CMC({SKELETON: [3, 20, 4], IMU: [6, 20]}, encoder={SKELETON: SMALL})


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (CMC, {"temperature": 0.0}, "temperature=0.0"),
        (HardNegatives, {"temperature": -1}, "temperature=-1"),
        (HardNegatives, {"tau_plus": 1}, "tau_plus=1"),
        (HardNegatives, {"negatives": "some"}, "(?s)negatives=some.*cross or all"),
    ],
)
def test_what_the_losses_cannot_be_computed_with_is_refused(kind, arguments, words) -> None:
    with pytest.raises(DataError, match=words):
        built(kind, **arguments)
