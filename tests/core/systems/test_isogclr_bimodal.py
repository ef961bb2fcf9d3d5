from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.checkpoints import load_system
from core.data.checks import DataError
from core.data.digit_halves import write_digit_halves
from core.data.digits import write_digits
from core.data.samples import Samples
from core.data.table import load_table
from core.distributed import rank
from core.losses import info_nce
from core.systems.isogclr_bimodal import BimodalISogCLR
from core.tasks.retrieval import Retrieval
from core.trainers import fit
from tests.core.gloo import run_gloo

SHAPES = {"upper": [1, 4, 8], "lower": [1, 4, 8]}
TASK = Retrieval()


def _system(**arguments) -> BimodalISogCLR:
    torch.manual_seed(0)
    return BimodalISogCLR(SHAPES, 12, dim=16, **arguments)


def _batch(rows: slice = slice(None)) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    halves = {name: torch.rand(6, *shape, generator=g)[rows] for name, shape in SHAPES.items()}
    return halves | {"index": torch.tensor([11, 0, 3, 7, 5, 2])[rows]}


def _gradients(system: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    system.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in system.named_parameters()}


def test_the_first_step_is_clip_at_the_same_temperature() -> None:
    """Fresh averages make the weights CLIP's softmax, its gradient scaled by the temperature."""
    system, batch = _system(temperature=0.3), _batch()
    found = _gradients(system, system.objective(batch)["loss"])
    clip = 2 * 0.3 * info_nce(*system.encode(batch), 0.3)
    for name, expected in _gradients(system, clip).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_a_radius_beyond_all_weights_lowers_every_temperature(temperature: float) -> None:
    """No weights of n negatives are further from uniform than log n."""
    batch = _batch()
    lowered = []
    for rho in (1.9, 0.0):
        system = _system(rho=rho, temperature=temperature, eta=0.001)
        system.objective(batch)
        lowered.append(system.temperatures[batch["index"]] < torch.tensor(temperature))
    assert lowered[0].all()
    assert not lowered[1].any()


def test_each_modality_has_temperatures_of_its_own() -> None:
    system, batch = _system(rho=1.0, temperature=0.1), _batch()
    system.objective(batch)
    first, second = system.contrast.first.temperature, system.contrast.second.temperature
    assert (first != second)[batch["index"]].all()
    torch.testing.assert_close(system.temperatures, (first + second) / 2)
    unseen = torch.tensor([1, 4, 6, 8, 9, 10])
    assert (system.temperatures[unseen] == torch.tensor(0.1)).all()


def test_scores_are_cosines() -> None:
    system = _system().eval()
    vectors = system.embed(_batch())
    scores = system.score(vectors["upper"], [vectors["lower"]])
    expected = torch.nn.functional.cosine_similarity(
        vectors["lower"][:, None], vectors["upper"], dim=2
    )
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_other_than_two_modalities_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=f"{len(names)} modalities"):
        BimodalISogCLR({name: [3] for name in names}, 12)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("halves")
    write_digit_halves(folder, tail=0.05)
    return load_table(folder)


def test_halves_make_the_digits(halves: Samples, tmp_path: Path) -> None:
    write_digits(tmp_path, tail=0.05)
    whole = load_table(tmp_path)
    joined = torch.cat([halves.inputs["upper"], halves.inputs["lower"]], dim=2)
    assert torch.equal(joined, whole.inputs["image"])
    assert torch.equal(halves.labels["label"], whole.labels["label"])
    assert halves.ids == whole.ids


def _run(folder: Path, data: Samples, epochs: int, resume: Path | None = None) -> BimodalISogCLR:
    torch.manual_seed(0)
    system = BimodalISogCLR.of(TASK.system_arguments(data), dim=16, rho=2.0)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    fit(
        system,
        data.without_test(),
        TASK,
        folder,
        seed=3,
        max_epochs=epochs,
        batch_size_global=64,
        accelerator="cpu",
        progress=False,
        resume=resume,
    )
    return system


def test_tables_survive_checkpoint_and_resume(halves: Samples, tmp_path: Path) -> None:
    unbroken = _run(tmp_path / "unbroken", halves, 3)
    _run(tmp_path / "run", halves, 1)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    broken = load_system(last)[0].temperatures
    assert len(broken.unique()) > 100
    resumed = _run(tmp_path / "run", halves, 3, resume=last)
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)
    assert not torch.equal(broken, resumed.temperatures)
    found = TASK.evaluate(resumed.eval(), halves, "test").metrics
    assert found.keys() >= {"accuracy", "mrr", "temperature_spearman"}
    assert found["temperature_spearman"] == resumed.report(halves)["temperature_spearman"]


def _two_steps(rows: slice) -> dict[str, Tensor]:
    system = _system(rho=1.0, temperature=0.1)
    system.objective(_batch(rows))
    loss = system.objective(_batch(rows))["loss"]
    return _gradients(system, loss) | {"temperatures": system.temperatures.clone()}


def _on_a_rank() -> dict[str, Tensor]:
    return _two_steps(slice(0, 2) if rank() == 0 else slice(2, 6))


def test_two_processes_are_one() -> None:
    whole, ranks = _two_steps(slice(None)), run_gloo(2, _on_a_rank)
    for name, value in whole.items():
        mean = (ranks[0][name] + ranks[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
    assert torch.equal(ranks[0]["temperatures"], ranks[1]["temperatures"])
