"""What holds for every recommender."""

from dataclasses import replace

import pytest
import torch

from recsys.systems.bm3 import BM3
from recsys.systems.bpr import BPR
from recsys.systems.freedom import FREEDOM
from recsys.systems.item_graph import ItemGraph
from recsys.systems.lightgcn import LightGCN
from recsys.systems.popularity import Popularity
from recsys.systems.rearm import REARM
from recsys.systems.vbpr import VBPR
from recsys.task import TopKRecommendation
from tests.recsys.generated import batch_of, built, generated

SYSTEMS = [
    (BM3, {"dim": 8, "n_layers": 2}),
    (BM3, {"dim": 8, "cl_weight": 0.0}),
    (BPR, {"dim": 8}),
    (FREEDOM, {"dim": 8, "k": 4}),
    (ItemGraph, {"dim": 8, "k": 4, "k_collaborative": 3}),
    (LightGCN, {"dim": 8, "n_layers": 2}),
    (Popularity, {}),
    (REARM, {"dim": 8, "n_layers": 2, "user_neighbours": 5, "item_neighbours": 4}),
    (VBPR, {"dim": 8, "feature_dim": 4}),
]
NAMES = [
    "bm3",
    "bm3 without modalities",
    "bpr",
    "freedom",
    "item_graph",
    "lightgcn",
    "popularity",
    "rearm",
    "vbpr",
]


@pytest.fixture(params=SYSTEMS, ids=NAMES)
def case(request):
    system_class, arguments = request.param
    data = generated()
    torch.manual_seed(1)
    return data, system_class, built(system_class, data, **arguments)


def all_of(system, data):
    ids = {kind: data.n_users if kind == "user" else data.n_items for kind in system.kinds}
    with torch.no_grad():
        return system.embed({kind: torch.arange(n) for kind, n in ids.items()})


def test_saved_and_loaded_it_ranks_the_same(case, tmp_path):
    data, system_class, system = case
    system.save_pretrained(tmp_path / "saved")
    assert {file.name for file in (tmp_path / "saved").iterdir()} >= {
        "config.json",
        "model.safetensors",
    }
    loaded = system_class.from_pretrained(tmp_path / "saved").eval()
    assert loaded.state_dict().keys() == system.state_dict().keys()
    before, after = all_of(system, data), all_of(loaded, data)
    assert before.keys() == after.keys()
    for kind in before:
        assert torch.equal(before[kind], after[kind])
    task = TopKRecommendation()
    assert task.search(loaded, data, "user:u1", 10) == task.search(system, data, "user:u1", 10)
    ours, theirs = task.evaluate(system, data, "test"), task.evaluate(loaded, data, "test")
    assert ours.metrics == theirs.metrics


def test_embeddings_of_some_are_rows_of_all(case):
    data, _, system = case
    whole = all_of(system, data)
    some = {kind: torch.tensor([5, 0, 29, 5]) for kind in system.kinds}
    with torch.no_grad():
        found = system.embed(some)
        alone = {kind: system.embed({kind: ids})[kind] for kind, ids in some.items()}
    for kind, ids in some.items():
        assert found[kind].dtype == torch.float32
        assert torch.equal(found[kind], whole[kind][ids])
        assert torch.equal(alone[kind], whole[kind][ids])


def test_other_weights_bring_their_own_graph(case):
    data, system_class, system = case
    shifted = torch.stack([data.train[0], (data.train[1] + 1) % data.n_items])
    other = system_class(**system._hub_mixin_config)
    other.prepare(replace(data, train=shifted))
    expected = all_of(system, data)
    assert not torch.equal(all_of(other, data)["item"], expected["item"])
    other.load_state_dict(system.state_dict())
    found = all_of(other, data)
    for kind in expected:
        assert torch.equal(found[kind], expected[kind])


def test_every_term_is_a_scalar_and_every_parameter_learns(case):
    data, _, system = case
    terms = system.objective(batch_of(data, slice(0, 200), system.needs_negatives))
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    if not parameters:
        assert not terms["loss"].requires_grad
        return
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_the_objective_sees_the_training_pairs_alone(case):
    """Other validation and test pairs change nothing."""
    data, _, system = case
    swapped = replace(data, valid=data.test, test=data.valid)
    torch.manual_seed(1)
    other = built(
        type(system),
        swapped,
        **{
            k: v
            for k, v in system._hub_mixin_config.items()
            if k not in ("n_users", "n_items", "n_interactions", "feature_dims")
        },
    )
    for name, value in system.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
