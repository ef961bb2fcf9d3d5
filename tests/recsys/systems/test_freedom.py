from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from core.data.checks import DataError
from core.encoders.graph import normalized_adjacency
from recsys.systems.freedom import FREEDOM
from tests.recsys.generated import batch_of, built, generated

SMALL = {"dim": 8, "k": 4}


@pytest.fixture(scope="module")
def data():
    return generated()


def item_matrix(data, k: int, shares: dict[str, float]) -> torch.Tensor:
    total = torch.zeros(data.n_items, data.n_items, dtype=torch.float64)
    for modality, share in shares.items():
        unit = normalize(data.features[modality].double(), dim=1)
        nearest = (unit @ unit.T).topk(k).indices
        adjacency = torch.zeros_like(total).scatter_(1, nearest, 1.0)
        root = adjacency.sum(1).rsqrt()
        total += share * root[:, None] * adjacency * root
    return total


def test_the_item_graph_binarises_neighbours_and_weighs_modalities(data):
    system = built(FREEDOM, data, **SMALL, image_weight=0.3)
    expected = item_matrix(data, 4, {"image": 0.3, "text": 0.7})
    torch.testing.assert_close(system.similar_items().to_dense(), expected.float())
    assert not any("neighbour" in name for name, _ in system.named_parameters())


@pytest.mark.parametrize(
    ("modalities", "shares"),
    [
        (["text"], {"text": 1.0}),
        (["image"], {"image": 1.0}),
        (["audio", "text"], {"audio": 0.5, "text": 0.5}),
        (["audio", "image", "text"], {"audio": 0.45, "image": 0.1, "text": 0.45}),
    ],
)
def test_shares_of_other_modalities(modalities, shares):
    assert FREEDOM(5, 5, 5, dict.fromkeys(modalities, 3)).shares == pytest.approx(shares)


def test_objective_and_gradient_equal_a_dense_computation(data):
    options = {"edge_dropout": 0.0, "modality_weight": 0.4, "n_item_layers": 2}
    system = built(FREEDOM, data, **SMALL, **options).double()
    batch = batch_of(data, slice(0, 60), negatives=True)
    n = data.n_users
    adjacency = normalized_adjacency(*data.train, n, data.n_items).to_dense().double()
    similar = item_matrix(data, 4, {"image": 0.1, "text": 0.9})
    ids = torch.cat([system.user_embedding.weight, system.item_embedding.weight])
    nodes = (ids + adjacency @ ids + adjacency @ adjacency @ ids) / 3
    users, items = nodes[:n], nodes[n:] + similar @ similar @ ids[n:]

    def ranking(table):
        difference = table[batch["item"]] - table[batch["negative"]]
        return -logsigmoid((users[batch["user"]] * difference).sum(1)).mean()

    expected = ranking(items)
    for modality, table in system.features.items():
        expected = expected + 0.4 * ranking(table.weight @ system.project[modality].weight.T)
    parameters = list(system.parameters())
    expected_grads = torch.autograd.grad(expected, parameters)
    loss = system.objective(batch)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    grads = torch.autograd.grad(loss, parameters)
    for found, right in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-8)
    tables = system.tables()
    torch.testing.assert_close(tables["user"], users, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(tables["item"], items, rtol=1e-5, atol=1e-7)


def test_every_epoch_keeps_other_edges_and_the_same_on_any_visit(data):
    system = built(FREEDOM, data, **SMALL, edge_dropout=0.75)
    first, second = system.kept_edges(0), system.kept_edges(1)
    assert len(first) == len(second) == int(data.n_interactions * 0.25)
    assert len(first.unique()) == len(first)
    assert set(first.tolist()) != set(second.tolist())
    assert torch.equal(first, system.kept_edges(0))
    others = [built(FREEDOM, data, **SMALL, edge_dropout=0.75).kept_edges(0) for _ in range(2)]
    assert not torch.equal(*others)


def test_a_loaded_system_prunes_as_the_one_that_was_saved(data):
    system = built(FREEDOM, data, **SMALL)
    other = built(FREEDOM, data, **SMALL)
    before = other.pruned_adjacency().to_dense()
    other.load_state_dict(system.state_dict())
    found = other.pruned_adjacency().to_dense()
    assert torch.equal(found, system.pruned_adjacency().to_dense())
    assert not torch.equal(found, before)


def test_edges_between_popular_nodes_go_first():
    # User 0 and item 0 are popular; the edge between them weighs least, (8 * 8)^-1/2.
    hub = [(0, i) for i in range(8)] + [(u, 0) for u in range(1, 8)]
    single = [(u, u) for u in range(8, 15)]
    train = torch.tensor([*hub, *single]).T
    data = replace(generated(), train=train)
    system = built(FREEDOM, data, **SMALL, edge_dropout=0.5)
    counts = torch.zeros(train.shape[1])
    for epoch in range(300):
        counts[system.kept_edges(epoch)] += 1
    share = counts / 300
    assert share.sum().item() == pytest.approx(11)
    between, spokes, alone = share[0], share[1:15].mean(), share[15:].mean()
    assert between < spokes - 0.1
    assert spokes < alone - 0.1


def test_of_two_edges_the_lighter_is_kept_as_often_as_its_odds():
    # (0, 0) has degrees 1 and 1; (1, 1), (2, 1), (3, 1), (4, 1) have 1 and 4: odds 2 to 1 each.
    train = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 1, 1, 1]])
    system = built(FREEDOM, replace(generated(), train=train), **SMALL, edge_dropout=0.8)
    kept = [system.kept_edges(epoch).tolist() for epoch in range(3000)]
    assert all(len(edges) == 1 for edges in kept)
    assert kept.count([0]) / 3000 == pytest.approx(1 / 3, abs=0.03)


def test_training_uses_the_pruned_graph_normalised_anew_and_ranking_the_whole(data, monkeypatch):
    system = built(FREEDOM, data, **SMALL, edge_dropout=0.5, modality_weight=0.0)
    kept = data.train[:, system.kept_edges(0)]
    pruned = normalized_adjacency(*kept, data.n_users, data.n_items)
    torch.testing.assert_close(system.pruned_adjacency().to_dense(), pruned.to_dense())
    batch = batch_of(data, slice(0, 60), negatives=True)
    users, items = system.nodes(pruned)
    difference = items[batch["item"]] - items[batch["negative"]]
    expected = -logsigmoid((users[batch["user"]] * difference).sum(1)).mean()
    torch.testing.assert_close(system.objective(batch)["loss"], expected)
    whole = system.nodes(system.adjacency())
    assert torch.equal(system.tables()["user"], whole[0])
    assert not torch.allclose(whole[0], users)

    monkeypatch.setattr(FREEDOM, "current_epoch", 1)
    assert not torch.equal(system.pruned_adjacency().to_dense(), pruned.to_dense())


def test_defaults_are_the_papers(data):
    system = built(FREEDOM, data)
    assert (system.n_layers, system.n_item_layers, system.k) == (2, 1, 10)
    assert (system.edge_dropout, system.modality_weight) == (0.8, 1e-3)
    assert system.shares == {"image": 0.1, "text": 0.9}
    assert system.user_embedding.weight.shape == (data.n_users, 64)
    for modality, table in system.features.items():
        assert torch.equal(table.weight, data.features[modality])
        assert table.weight.requires_grad


def test_what_it_cannot_be_built_from(data):
    with pytest.raises(DataError, match="freedom needs item features"):
        FREEDOM(5, 5, 5, {})
    with pytest.raises(DataError, match="edge_dropout=1"):
        FREEDOM(5, 5, 5, {"text": 3}, edge_dropout=1.0)
    with pytest.raises(DataError, match=r"31 neighbours .* among 30 rows"):
        built(FREEDOM, data, k=31)
