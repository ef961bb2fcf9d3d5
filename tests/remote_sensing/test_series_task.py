from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.checks import DataError
from core.trainers.system import System
from remote_sensing.data.series import Series
from remote_sensing.evaluation import judge_classes
from remote_sensing.series_task import OneSensor, predict_each
from remote_sensing.systems.eo_colearning import MDiCo
from tests.remote_sensing.sensors import SMALL, series


def built(task: OneSensor, data: Series, epochs: int = 0) -> MDiCo:
    torch.manual_seed(0)
    system = MDiCo.of(task.system_arguments(data), encoder=SMALL)
    system.prepare(data.without_test())
    loader = task.train_loader(system.train(), data.without_test(), 16, 0)
    optimizer = torch.optim.Adam(system.parameters(), 1e-2)
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            system.objective(batch)["loss"].backward()
            optimizer.step()
    return system.eval()


@pytest.mark.parametrize(
    ("kind", "metric", "level"),
    [("classes", "accuracy", 0.8), ("labels", "macro_f1", 0.7), ("values", "r2", 0.5)],
)
def test_each_sensor_learns_to_predict_alone(kind: str, metric: str, level: float) -> None:
    data, task = series(160, kind), OneSensor(metric)
    system = built(task, data, 60)
    assert type(system.target).__name__.lower() == kind
    found = task.evaluate(system, data, "test").metrics
    assert found[f"{metric}/S1"] > level
    assert found[f"{metric}/S2"] > level
    untrained = task.evaluate(built(task, data), data, "test").metrics
    assert untrained[metric] < level - 0.2


def test_a_metric_is_that_of_one_sensor_and_the_mean_of_all() -> None:
    data, task = series(80), OneSensor()
    system = built(task, data, 1)
    found = task.evaluate(system, data, "test")
    rows = data.splits["test"]
    for name, outputs in predict_each(system, data, rows).items():
        alone = judge_classes(outputs, data.labels["label"][rows])
        for metric, value in alone.metrics.items():
            assert found.metrics[f"{metric}/{name}"] == value
        np.testing.assert_array_equal(
            found.per_unit[f"accuracy/{name}"], alone.per_unit["accuracy"]
        )
    both = [found.metrics[f"kappa/{name}"] for name in ("S1", "S2")]
    assert found.metrics["kappa"] == pytest.approx(np.mean(both))
    assert found.per_unit["accuracy"].mean() == pytest.approx(found.metrics["accuracy"])
    assert found.unit_ids.tolist() == [data.ids[row] for row in rows.tolist()]


def test_one_sensor_is_enough_to_evaluate_with() -> None:
    data, task = series(80), OneSensor()
    system = built(task, data, 1)
    whole = task.evaluate(system, data, "test").metrics
    alone = Series({"S2": data.inputs["S2"]}, data.labels, data.splits, data.ids, data.classes)
    found = task.evaluate(system, alone, "test").metrics
    assert found["accuracy"] == found["accuracy/S2"] == whole["accuracy/S2"]
    assert "accuracy/S1" not in found


def test_one_sensor_is_enough_to_embed_and_search_with() -> None:
    data, task = series(80), OneSensor()
    system = built(task, data, 1)
    alone = replace(data, inputs={"S2": data.inputs["S2"]})
    both, found = task.vectors(system, data), task.vectors(system, alone)
    assert torch.equal(found["S2"], both["S2"])
    assert len(task.embed(system, alone)) == 80
    assert len(task.search(system, alone, "S2:p3", 5)) == 5
    with pytest.raises(DataError, match=r"S2 of \[3, 4\]"):
        task.embed(system, replace(data, inputs={"S2": data.inputs["S2"][:, :, :4]}))


def test_the_objective_itself_can_choose() -> None:
    data, task = series(300), OneSensor("minus_loss")
    system = built(task, data, 1)
    found = task.evaluate(system, data, "valid")
    rows = data.splits["valid"]
    assert len(rows) < 128  # one batch
    batch = {name: values[rows] for name, values in (data.inputs | data.labels).items()}
    with torch.no_grad():
        expected = -system.objective(batch)["loss"].item()
    assert found.metrics["minus_loss"] == pytest.approx(expected, rel=1e-6)
    assert found.per_unit["minus_loss"].shape == (len(rows),)


def test_training_leaves_out_a_shorter_last_batch() -> None:
    data, task = series(66), OneSensor()
    loader = task.train_loader(built(task, data), data, 16, 0)
    assert [len(batch["label"]) for batch in loader] == [16, 16]  # of 33 rows


def test_rows_without_a_class_are_not_judged() -> None:
    data, task = series(80), OneSensor()
    data.labels["label"][data.splits["test"][:5]] = -1
    found = task.evaluate(built(task, data), data, "test")
    assert len(found.unit_ids) == len(data.splits["test"]) - 5
    data.labels["label"][data.splits["test"]] = -1
    with pytest.raises(DataError, match="no sample with a target"):
        task.evaluate(built(task, data), data, "test")


def test_a_run_keeps_how_it_standardised(tmp_path: Path) -> None:
    task, data = OneSensor(), series()
    assert task.reading(tmp_path) == {}
    task.keep_reading(data, tmp_path)
    assert task.reading(tmp_path) == {"scaling": str(tmp_path / "scaling.npz")}


def test_says_what_it_cannot_judge() -> None:
    data, task = series(80), OneSensor()
    system = built(task, data)
    with pytest.raises(DataError, match=r"task\.monitor=rmse, of which more is not better"):
        OneSensor("rmse")
    with pytest.raises(DataError, match=r"task\.monitor=r2: these data have classes.*S1, S2"):
        OneSensor("r2").evaluate(system, data, "test")
    data.inputs["S1"] = data.inputs["S1"][:, :, :4]
    with pytest.raises(DataError, match=r"S1 of \[2, 4\]\n.*S1 \[2, 6\]"):
        task.evaluate(system, data, "test")
    with pytest.raises(DataError, match="does not predict from each sensor"):
        task.evaluate(System(), series(), "test")
