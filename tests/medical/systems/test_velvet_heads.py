import pytest
import torch

from core.data.checks import DataError
from core.data.table import load_table
from medical.data.planted_findings import write_planted_findings
from medical.feature_task import LocalRetrieval
from medical.systems.velvet_heads import VelvetHeads

SHAPES = {"regions": [9, 5], "units": [4, 6]}


def _heads(**arguments) -> VelvetHeads:
    torch.manual_seed(0)
    return VelvetHeads(SHAPES, **{"hidden": 7, "projection": 3} | arguments)


def _batch(n: int = 5, units: int = 4) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "regions": torch.randn(n, 9, 5, generator=g),
        "units": torch.randn(n, units, 6, generator=g),
    }


def test_units_that_do_not_exist_change_nothing():
    system, batch = _heads(), _batch()
    exists = torch.ones(5, 4)
    exists[1, 2:] = 0
    batch["exists"] = exists
    other = dict(batch, units=batch["units"].masked_fill(exists[..., None] == 0, 9.0))
    for name, term in system.objective(batch).items():
        torch.testing.assert_close(system.objective(other)[name], term)
    assert system.attention(batch)[1, 2:].abs().max() == 0
    torch.testing.assert_close(system.attention(batch)[1, :2].sum(1), torch.ones(2))


def test_terms_are_those_that_are_chosen():
    batch = _batch()
    assert _heads().objective(batch).keys() == {"loss", "report", "local"}
    assert _heads(objectives=["local"]).objective(batch).keys() == {"loss", "local"}
    for arguments in ({"objectives": ["word"]}, {"temperature": 0.0}):
        with pytest.raises(DataError, match="system"):
            _heads(**arguments)
    with pytest.raises(DataError, match="regions"):
        VelvetHeads({"image": [3]})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    write_planted_findings(folder, n_train=256, n_valid=20, n_test=50)
    return load_table(folder)


def test_findings_are_planted_where_the_file_says(planted):
    regions, places = planted.inputs["regions"], planted.inputs["places"].long()
    length = regions.norm(dim=2)
    of_findings = length.gather(1, places)
    assert of_findings.mean() > 1.4 * length.mean()
    assert (places.sort(1).values.diff(dim=1) > 0).all()
    assert [len(planted.splits[s]) for s in ("train", "valid", "test")] == [256, 20, 50]


def test_an_untrained_system_is_at_chance_and_the_metrics_say_so(planted):
    torch.manual_seed(0)
    system = VelvetHeads(planted.shapes)
    found = LocalRetrieval().evaluate(system, planted, "test")
    assert found.metrics["attention_lift"] == pytest.approx(27 * found.metrics["attention_hit"])
    assert found.metrics["local_r@10"] < 0.4
    assert found.per_unit["local_r@10"].mean() == pytest.approx(found.metrics["local_r@10"])


@pytest.mark.claim
def test_the_local_contrast_learns_which_region_a_unit_is_of(request, tmp_path):
    if "claim" not in request.config.getoption("markexpr"):
        pytest.skip("two trainings, half a minute: pytest -m claim")
    write_planted_findings(tmp_path)
    data = load_table(tmp_path)
    found = {}
    for objectives in (["report"], ["report", "local"]):
        torch.manual_seed(0)
        system = VelvetHeads(data.shapes, objectives=objectives)
        optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)
        loader = LocalRetrieval().train_loader(system, data, 32, 0)
        for _ in range(10):
            for batch in loader:
                optimizer.zero_grad()
                system.objective(batch)["loss"].backward()
                optimizer.step()
                system.update_teachers(0, 1)
        found[len(objectives)] = LocalRetrieval().evaluate(system, data, "test").metrics
    assert found[2]["local_r@10"] >= 0.5
    assert found[2]["local_r@10"] >= 5 * found[1]["local_r@10"]
    assert found[2]["attention_lift"] >= 5
