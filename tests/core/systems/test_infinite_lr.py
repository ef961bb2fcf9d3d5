import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD

from core.data.checks import DataError
from core.losses.mae import patchify, random_masking
from core.systems.infinite_lr import InfiniteLR
from core.trainers.schedules import constant, cosine, infinite
from tests.core.systems.sequences import Broken, assert_same, continual, last, tasks, train

STARTS = (0, 18, 36, 54)  # three tasks of 18 steps
KEPT = 14  # floor(0.8 * 18), counted in the task


class Watched(InfiniteLR):
    """Writes down weights, moments and rate before and after every step."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.before: list[Any] = []
        self.after: list[Any] = []

    def objective(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.before.append(self.state())
        self.tasks = [*getattr(self, "tasks", []), batch["task"].unique().tolist()]
        return super().objective(batch)

    def update_teachers(self, step: int, total_steps: int) -> None:
        self.after.append(self.state())
        super().update_teachers(step, total_steps)

    def state(self) -> Any:
        (optimizer,) = self.trainer.optimizers
        weights = {name: w.clone() for name, w in self.model.state_dict().items()}
        moments = {
            number: {name: value.clone() for name, value in of.items()}
            for number, of in optimizer.state_dict()["state"].items()
        }
        return weights, moments, optimizer.param_groups[0]["lr"]


def watched(folder: Path, schedule: Any = infinite, **arguments: Any) -> tuple[Watched, Any]:
    system, task = continual(Watched, **arguments)
    checkpoint = train(folder, system, task, schedule=schedule)
    assert isinstance(system, Watched)
    return system, checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watched, dict[str, Any]]:
    return watched(tmp_path_factory.mktemp("whole"))


def test_one_task_after_the_other(whole: Any) -> None:
    assert whole[0].tasks == [[task] for task in range(3) for _ in range(18)]


def test_a_task_starts_from_before_the_annealing_of_the_last(whole: Any) -> None:
    system, _ = whole
    for start in STARTS[1:-1]:
        kept = system.after[start - 18 + KEPT]
        assert_same(system.before[start][:2], kept[:2])
        annealed = system.after[start - 1]
        name = "encoder.0.weight"
        assert not torch.allclose(annealed[0][name], kept[0][name], atol=1e-4)
        assert not torch.equal(annealed[1][0]["exp_avg"], kept[1][0]["exp_avg"])
        # Every other step goes on from the one before it.
        for step in range(start + 1, start + 18):
            assert_same(system.before[step][:2], system.after[step - 1][:2])


def test_the_kept_model_is_the_last_of_the_constant_rate(whole: Any) -> None:
    rates = [rate for _, _, rate in whole[0].before]
    for start in STARTS[:-1]:
        assert rates[start + KEPT] == pytest.approx(0.25 * 0.01)
        assert rates[start + KEPT + 1] < 0.99 * rates[start + KEPT]


def rates_of(schedule: Any, **options: Any) -> list[float]:
    optimizer = SGD([torch.zeros((), requires_grad=True)], lr=0.01)
    made = schedule(optimizer, 18, **options)
    return [0.01 * made.lr_lambdas[0](step) for step in range(18)]


def test_every_task_has_its_own_schedule(whole: Any, tmp_path: Path) -> None:
    later = rates_of(infinite, first_task=False)
    expected = rates_of(infinite) + later + later
    assert [rate for _, _, rate in whole[0].before] == pytest.approx(expected)
    repeated, _ = watched(tmp_path, cosine, pre_anneal=None)
    assert [rate for _, _, rate in repeated.before] == pytest.approx(rates_of(cosine) * 3)


def test_without_going_back_a_task_goes_on_from_the_end(tmp_path: Path) -> None:
    system, _ = watched(tmp_path, cosine, pre_anneal=None)
    for step in range(1, 54):
        assert_same(system.before[step][:2], system.after[step - 1][:2])


def test_the_moments_may_stay_those_of_the_annealed_branch(tmp_path: Path) -> None:
    system, _ = watched(tmp_path, restore_moments=False)
    for start in STARTS[1:-1]:
        assert_same(system.before[start][0], system.after[start - 18 + KEPT][0])
        assert_same(system.before[start][1], system.after[start - 1][1])


def test_the_annealed_model_is_what_is_left_and_what_a_task_was_learned_with(whole: Any) -> None:
    system, checkpoint = whole
    weights = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    assert_same(weights, system.after[-1][0])
    for task, copy in enumerate(system.as_learned):
        assert_same(dict(copy.state_dict()), system.after[STARTS[task + 1] - 1][0])
    assert int(system.n_learned) == 3


@pytest.mark.parametrize("at", [5, 16, 18, 21, 34, 36, 47])
def test_a_run_broken_in_any_task_goes_on_bit_for_bit(whole: Any, tmp_path: Path, at: int) -> None:
    """18 and 36 are between two tasks, 34 is inside an annealing."""
    system, task = continual()
    with pytest.raises(Broken):
        train(tmp_path, system, task, break_at=at, checkpoint_every_n_steps=5)
    system, task = continual()
    resumed = train(tmp_path, system, task, resume=last(tmp_path), checkpoint_every_n_steps=5)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "pre_anneal_moments"):
        assert_same(resumed[part], whole[1][part], part)


def test_only_what_was_removed_is_judged_and_only_what_is_left_is_seen() -> None:
    system, _ = continual()
    image = tasks().inputs["image"][:5]
    noise = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    _, mask, _ = random_masking(noise, 0.75)
    assert mask.sum(1).tolist() == [3.0] * 5
    patches = patchify(image, 2)
    code = system.model.encode(patches, mask)
    changed = patches + mask[..., None]
    assert torch.equal(system.model.encode(changed, mask), code)
    assert not torch.allclose(system.model.encode(patches + 1, mask), code)
    loss = system.objective({"image": image, "noise": noise})["loss"]
    error = (system.model.decode(code) - patches)[mask.bool()].square().mean()
    torch.testing.assert_close(loss, error)
    embedded = system.embed({"image": image})["image"]
    assert torch.equal(embedded, system.model.encode(patches, torch.zeros(5, 4)))
    errors = system.errors({"image": image, "noise": noise})
    assert errors.shape == (3, 5)
    torch.testing.assert_close(errors[0].mean(), loss.detach())


def test_forgetting_is_the_loss_now_minus_when_the_task_was_learned(whole: Any) -> None:
    system, data, (_, task) = whole[0].eval(), tasks(), continual()
    metrics = task.evaluate(system, data, "test").metrics
    rows = data.splits["test"]
    of_task = data.labels["task"][rows]
    losses = {number: metrics[f"masked_loss/task_{number}"] for number in range(3)}
    assert metrics["masked_loss"] == pytest.approx(np.mean(list(losses.values())))
    learned = []
    for number in (0, 1):
        then, _ = continual()
        then.model.load_state_dict(system.as_learned[number].state_dict())
        learned.append(task.evaluate(then, data, "test").metrics[f"masked_loss/task_{number}"])
    expected = np.mean([losses[0] - learned[0], losses[1] - learned[1]])
    assert metrics["forgetting"] == pytest.approx(expected, rel=1e-4)
    assert abs(metrics["forgetting"]) > 1e-5
    parts = [metrics[f"linear_accuracy/task_{number}"] for number in range(3)]
    sizes = [int((of_task == number).sum()) for number in range(3)]
    assert metrics["linear_accuracy"] == pytest.approx(np.average(parts, weights=sizes))
    # The same masks every time, and nothing forgotten before anything was learned.
    assert task.evaluate(system, data, "test").metrics == metrics
    assert task.evaluate(continual()[0], data, "test").metrics["forgetting"] == 0


def test_without_tasks_all_is_one(tmp_path: Path) -> None:
    data = tasks()
    system = InfiniteLR(data.shapes, {"label": 6}, hidden=[8], dim=4)
    order = system.batch_order({"image": torch.zeros(72, 1, 4, 4)}, 8, 0, 0, 1)
    assert sorted(order.permutation(order.generator()).tolist()) == list(range(72))
    assert len(system.as_learned) == 0
    _, task = continual()
    del data.labels["task"]
    with pytest.raises(DataError, match="no sequence of tasks"):
        task.evaluate(system, data, "test")


def test_fewer_steps_than_tasks(tmp_path: Path) -> None:
    system, task = continual()
    options = {"max_epochs": 1, "batch_size_global": 36, "schedule": constant}
    assert train(tmp_path, system, task, **options)["global_step"] == 2


def test_weights_and_arguments_survive_saving(whole: Any, tmp_path: Path) -> None:
    system, _ = continual()
    system.load_state_dict(whole[0].state_dict())
    system.eval().save_pretrained(tmp_path)
    read = InfiniteLR.from_pretrained(tmp_path).eval()
    batch = {"image": tasks().inputs["image"][:5], "noise": torch.rand(5, 4)}
    assert torch.equal(read.errors(batch), system.errors(batch))
    assert json.loads((tmp_path / "config.json").read_text())["hidden"] == [8]


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=r"system\.pre_anneal=.*\n.*\[0, 1\)"):
        continual(pre_anneal=fraction)


@pytest.mark.parametrize("shape", [[16], [1, 5, 4]], ids=str)
def test_images_of_whole_patches_are_needed(shape: list[int]) -> None:
    with pytest.raises(DataError, match="no whole patches of 2 x 2"):
        InfiniteLR({"x": shape}, {})
