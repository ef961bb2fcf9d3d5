from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.checks import DataError
from remote_sensing.series_task import OneSensor
from remote_sensing.systems.eo_colearning import MDiCo
from tests.core.gloo import run_gloo
from tests.core.systems.shared_steps import gradients
from tests.remote_sensing.sensors import (
    CLASSES,
    PLAIN,
    SHAPES,
    SMALL,
    StillAllSensors,
    StillMDiCo,
    StillSensorDistillation,
    StillSingleSensor,
    rows,
    series,
)


def built(shapes: dict[str, list[int]] = SHAPES, **arguments) -> MDiCo:
    torch.manual_seed(0)
    arguments = {"target": CLASSES, "encoder": PLAIN} | arguments
    return MDiCo(shapes, **arguments)


def contrast_by_definition(shared: list[Tensor], temperature: float = 0.1) -> Tensor:
    """Row by row, over all ordered pairs of sensors."""
    total = torch.zeros(())
    for one in range(len(shared)):
        for other in range(len(shared)):
            if one == other:
                continue
            z = F.normalize(torch.cat([shared[one], shared[other]]), dim=1)
            n = len(shared[one])
            costs = []
            for i in range(2 * n):
                scores = torch.stack([z[i] @ z[j] / temperature for j in range(2 * n) if j != i])
                positive = z[i] @ z[(i + n) % (2 * n)] / temperature
                costs.append(scores.logsumexp(0) - positive)
            total = total + torch.stack(costs).mean()
    return total


@pytest.mark.parametrize("sensors", [("S1", "S2"), ("S1", "S2", "W")])
def test_the_contrast_is_the_sum_over_ordered_pairs(sensors: tuple[str, ...]) -> None:
    shapes = {name: (SHAPES | {"W": [4]})[name] for name in sensors}
    system, batch = built(shapes), rows(sensors=sensors)
    shared = [of.shared for of in system.encode({k: batch[k] for k in sensors}).values()]
    torch.testing.assert_close(
        system.objective(batch)["contrast"], contrast_by_definition(shared), rtol=1e-5, atol=1e-5
    )


def test_the_loss_is_the_weighted_sum_of_four_terms_by_definition() -> None:
    weights = {"main": 0.7, "auxiliary": 0.3, "contrast": 0.2, "modality": 0.9}
    system = built(**{f"{name}_weight": weight for name, weight in weights.items()})
    system.target.weights.copy_(torch.tensor([0.5, 1.0, 2.5]))
    batch = rows()
    label, terms = batch["label"], system.objective(batch)
    main, auxiliary, modality = [], [], []
    for number, name in enumerate(SHAPES):
        u = system.unique[name](batch[name])
        z_spe, z_unu = u[:, :3], u[:, 3:]
        z_sha = system.share[name](system.common[name](batch[name]))

        def cost(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, label, system.target.weights)

        main.append(cost(system.heads[name](torch.cat([z_spe, z_sha], 1))))
        both = [system.auxiliary_head(z) for z in (z_spe, z_sha)]
        auxiliary.append((cost(both[0]) + cost(both[1])) / 2)
        which = torch.full((9,), number)
        told = F.cross_entropy(system.specific_head(z_spe), which)
        modality.append((told + F.cross_entropy(system.unused_head(z_unu), which)) / 2)
    for name, of in (("main", main), ("auxiliary", auxiliary), ("modality", modality)):
        torch.testing.assert_close(terms[name], sum(of) / 2)
    total = sum(weight * terms[name] for name, weight in weights.items())
    torch.testing.assert_close(terms["loss"], total)


def _gradients_of_parts(system: MDiCo, term: str) -> dict[str, dict[str, float]]:
    """Sensor -> part -> size of the term's gradient."""
    batch = rows()
    kept = {}
    encode = system.encode

    def remembered(sensors: dict[str, Tensor]) -> dict:
        kept.update(encode(sensors))
        for of in kept.values():
            for z in of:
                z.retain_grad()
        return kept

    system.encode = remembered
    system.objective(batch)[term].backward()
    return {
        name: {
            part: 0.0 if z.grad is None else z.grad.abs().sum().item()
            for part, z in of._asdict().items()
        }
        for name, of in kept.items()
    }


@pytest.mark.parametrize("second", ["unused", "shared"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_only_the_modality_term_of_the_figure_trains_the_unused_half(
    second: str, weight: float
) -> None:
    found = _gradients_of_parts(built(modality_weight=weight, mod_head_input=second), "loss")
    for parts in found.values():
        assert (parts["unused"] > 0) == (weight > 0 and second == "unused")
        assert parts["specific"] > 0
        assert parts["shared"] > 0


def test_the_contrast_does_not_reach_the_unique_encoders() -> None:
    system = built()
    system.objective(rows())["contrast"].backward()
    assert all(p.grad is None for p in system.unique.parameters())
    assert all(p.grad.abs().sum() > 0 for e in system.common.values() for p in [e.layers[1].weight])


def test_the_code_reveals_the_sensor_by_what_is_shared() -> None:
    for second, reached in (("unused", False), ("shared", True)):
        parts = _gradients_of_parts(built(mod_head_input=second), "modality")
        assert all((of["shared"] > 0) == reached for of in parts.values())


def test_a_sensor_predicts_alone() -> None:
    system, batch = built().eval(), rows()
    whole = system.predict_each(batch)
    assert list(whole) == ["S1", "S2"]
    # Nothing of another sensor runs: were it looked at, all would be NaN.
    for name, weight in system.named_parameters():
        if "S2" in name or "specific_head" in name or "unused_head" in name or "auxil" in name:
            torch.nn.init.constant_(weight, torch.nan)
    alone = system.predict_each({"S1": batch["S1"]})
    assert list(alone) == ["S1"]
    assert torch.equal(alone["S1"], whole["S1"])
    assert list(system.embed({"S1": batch["S1"]})) == ["S1"]
    # The unused half takes no part in it.
    torch.nn.init.normal_(system.unique["S1"].layers[-1].weight[3:])
    assert torch.equal(system.predict_each({"S1": batch["S1"]})["S1"], whole["S1"])


def test_embeds_what_the_prediction_sees() -> None:
    system, batch = built().eval(), rows()
    vectors = system.embed(batch)
    for name, outputs in system.predict_each(batch).items():
        torch.testing.assert_close(system.heads[name](vectors[name]), outputs)
    assert torch.equal(system.project(batch)["S2"], vectors["S2"][:, 3:])


def test_a_single_row_can_be_predicted_and_not_trained_on() -> None:
    system, one = built(encoder=SMALL), {name: x[:1] for name, x in rows().items()}
    with pytest.raises(DataError, match="a batch of one sample"):
        system.objective(one)
    terms = system.eval().objective(one)
    assert all(value.isfinite() for value in terms.values())
    whole, alone = system.predict_each(rows())["S1"][:1], system.predict_each(one)["S1"]
    torch.testing.assert_close(alone, whole)


def test_a_hidden_layer_of_the_predictions() -> None:
    layers = built(head_hidden=[5], head_dropout=0.3).heads["S1"]
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (layers[0].in_features, layers[0].out_features, layers[2].p) == (6, 5, 0.3)


def test_the_published_encoders_follow_the_shapes() -> None:
    shapes = {"S1": [2, 12], "aerial": [4, 32, 32]}
    system = MDiCo(shapes, CLASSES, dim=8)
    kinds = {name: type(of).__name__ for name, of in system.common.items()}
    assert kinds == {"S1": "TempCNN", "aerial": "ResNet50"}
    batch = {"S1": torch.randn(4, 2, 12), "aerial": torch.randn(4, 4, 32, 32)}
    parts = system.encode(batch)
    assert {z.shape for of in parts.values() for z in of} == {(4, 4)}
    # Separate weights, also of the two encoders of one sensor.
    assert not torch.equal(*(e["S1"].layers[0].weight for e in (system.unique, system.common)))


def test_two_processes_give_what_one_gives() -> None:
    # The second step has 7 rows: 3 for the one, 4 for the other.
    data, task = series(30), OneSensor()
    task.drop_last = False
    data.labels["label"][data.splits["train"][:3]] = -1
    arguments = {"encoder": PLAIN}
    baselines = (StillSingleSensor, StillAllSensors, StillSensorDistillation)
    cases = [(system, arguments, task, data, 8, 2) for system in (StillMDiCo, *baselines)]
    alone, together = gradients(cases), run_gloo(2, gradients, cases)
    for expected, *found in zip(alone, *together, strict=True):
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, name
            for one in found:
                torch.testing.assert_close(one[name], gradient, rtol=1e-4, atol=1e-6)


def test_is_rebuilt_from_files_with_its_class_weights(tmp_path: Path) -> None:
    system = built()
    system.prepare(series(32))
    system.eval().save_pretrained(tmp_path)
    again = MDiCo.from_pretrained(tmp_path).eval()
    assert torch.equal(again.predict_each(rows())["S1"], system.predict_each(rows())["S1"])
    assert torch.equal(again.target.weights, system.target.weights)
    assert system.target.weights.unique().numel() > 1


def test_refuses_what_it_cannot_learn_from() -> None:
    with pytest.raises(DataError, match="MDiCo of one modality, S1"):
        built({"S1": [2, 6]})
    with pytest.raises(DataError, match=r"width 7\n.*even"):
        built(encoder=PLAIN | {"dim": 7})
    with pytest.raises(DataError, match="mod_head_input=both"):
        built(mod_head_input="both")
    with pytest.raises(DataError, match="encoders of widths S1 6, S2 128"):
        built(encoder={"S1": PLAIN})
    with pytest.raises(DataError, match="an encoder for S3"):
        built(encoder={"S3": PLAIN})
