from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from core.data.checks import DataError
from recsys.systems import rearm
from recsys.systems.rearm import REARM, co_occurrence_graph, graph_shares, mixed_graph
from recsys.task import TopKRecommendation
from tests.core.gloo import run_gloo
from tests.recsys.generated import batch_of, built, generated

SMALL = {"dim": 8, "rank": 2, "n_layers": 2, "user_neighbours": 5, "item_neighbours": 4}
FULL = SMALL | {"item_image_weight": 0.3, "cl_weight": 0.01, "diff_weight": 0.01}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data():
    return generated()


def test_defaults_are_the_papers_for_baby(data):
    system = built(REARM, data, user_neighbours=40)
    assert system.shares["user"] == pytest.approx({"co": 0.4, "image": 0.12, "text": 0.48})
    assert system.shares["item"] == pytest.approx({"co": 0.2, "text": 0.8})
    assert system.user_graph_ids.shape == (data.n_users, 3 * 40)
    assert system.item_graph_ids.shape == (data.n_items, 2 * 10)
    assert {a.dropout for a in system.self_attention.values()} == {0.4}
    assert {a.dropout for a in system.mutual_attention.values()} == {0.6}
    assert (system.dim, system.n_layers, system.temperature) == (64, 4, 0.6)
    assert (system.cl_weight, system.diff_weight) == (5e-6, 5e-5)
    for name, layer in system.project.items():
        width = data.feature_dims[name.split("_")[1]]
        assert layer.weight.std().item() == pytest.approx((2 / (64 + width)) ** 0.5, rel=0.1)
    for table in system.ids.values():
        assert table.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert system.activation.weight.tolist() == [0.25]


def test_features_and_interests_start_as_the_datas_and_are_trained(data):
    system = built(REARM, data, **FULL)
    users, items = data.train
    for modality, table in data.features.items():
        assert torch.equal(system.features[f"item_{modality}"].weight, table)
        interests = system.features[f"user_{modality}"].weight
        for user in (0, 7, 39):
            expected = table[items[users == user]].mean(0)
            torch.testing.assert_close(interests[user], expected)
    assert all(table.weight.requires_grad for table in system.features.values())


def test_graphs_are_the_weighted_sum_of_their_parts(data):
    system = built(REARM, data, **FULL)
    users, items = data.train
    taken = torch.zeros(data.n_users, data.n_items).index_put((users, items), torch.tensor(1.0))
    for kind, incidence, k, a, w in (("user", taken, 5, 0.4, 0.2), ("item", taken.T, 4, 0.2, 0.3)):
        dense = torch.zeros(len(incidence), len(incidence))
        for modality, share in (("image", w), ("text", 1 - w)):
            features = data.features[modality]
            if kind == "user":
                features = taken @ features / taken.sum(1, keepdim=True)
            unit = normalize(features, dim=1)
            best = (unit @ unit.T).topk(k)
            dense.scatter_add_(1, best.indices, (1 - a) * share * best.values / k)
        counts = (incidence @ incidence.T).fill_diagonal_(0)
        checked = 0
        for node in range(len(counts)):
            order = sorted(range(len(counts)), key=lambda i: (-float(counts[node, i]), i))[:k]
            if (counts[node, order] > 0).all():
                dense[node, order] += a * counts[node, order].softmax(0)
                found = system.graph(kind).to_dense()[node]
                torch.testing.assert_close(found, dense[node], atol=1e-6, rtol=1e-5)
                checked += 1
        assert checked > len(counts) / 2
        assert (system.graph(kind).to_dense().diagonal() > 0).all()


def test_short_lists_repeat_their_own_and_the_lonely_follow_the_crowd():
    counts = torch.tensor([[9, 3, 2, 1], [5, 4, 0, 0], [0, 0, 0, 0]])
    ids = torch.tensor([[1, 2, 3, 0], [7, 8, -1, -1], [-1, -1, -1, -1]])
    popularity = torch.tensor([1, 6, 2, 6, 3, 1, 0, 0, 0])
    found = torch.tensor([4, 2, 0])
    out, weights = co_occurrence_graph(counts, ids, found, popularity)
    assert out[0].tolist() == [1, 2, 3, 0]
    torch.testing.assert_close(weights[0], torch.tensor([9.0, 3, 2, 1]).softmax(0))
    assert out[1, :2].tolist() == [7, 8]
    assert set(out[1, 2:].tolist()) <= {7, 8}
    own = torch.where(out[1] == 7, 5.0, 4.0)
    torch.testing.assert_close(weights[1], own.softmax(0))
    assert out[2].tolist() == [1, 3, 4, 2]
    torch.testing.assert_close(weights[2], (torch.tensor([6.0, 6, 3, 2]) / 17).softmax(0))
    again = co_occurrence_graph(counts, ids, found, popularity)
    assert torch.equal(again[0], out)


def test_repeats_are_drawn_from_all_neighbours():
    n = 200
    counts = torch.zeros(n, 9, dtype=torch.int64).index_fill(1, torch.arange(3), 1)
    ids = torch.arange(9).expand(n, -1)
    out, _ = co_occurrence_graph(counts, ids, torch.full((n,), 3), torch.ones(n))
    shares = torch.bincount(out[:, 3:].flatten()) / (6 * n)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.05, rtol=0)


def test_parts_of_weight_zero_take_no_room():
    assert graph_shares(1.0, 0.2) == {"co": 1.0}
    assert graph_shares(0.0, 0.0) == {"text": 1.0}
    ids = torch.zeros(3, 2, dtype=torch.int64)
    mixed, weights = mixed_graph({"co": (ids, torch.ones(3, 2))}, graph_shares(1.0, 0.2))
    assert mixed.shape == weights.shape == (3, 2)


def test_rows_are_of_length_one_as_a_whole(data):
    system = built(REARM, data, **FULL, n_item_layers=2)
    whole = torch.cat(system.homography("item"), 1)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(data.n_items))
    tables = [
        system.ids["item"].weight,
        *(
            system.project[f"item_{m}"](system.features[f"item_{m}"].weight)
            for m in ("image", "text")
        ),
    ]
    graph = system.graph("item").to_dense()
    torch.testing.assert_close(whole, normalize(graph @ graph @ torch.cat(tables, 1), dim=1))


def test_the_meta_network_is_random_and_stays_so(data):
    system = built(REARM, data, **FULL)
    groups = system.parameter_groups()
    assert len(groups) == 1
    optimized = {id(parameter) for parameter in groups[0]["params"]}
    frozen = {name for name, p in system.named_parameters() if id(p) not in optimized}
    assert frozen == {
        f"meta.{kind}.{what}" for kind in ("user", "item") for what in ("weight", "bias")
    }
    system.objective(batch_of(data, slice(0, 50), negatives=True))["loss"].backward()
    for name, parameter in system.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


def test_every_parameter_with_a_gradient_decays(data):
    system = built(REARM, data, **FULL)
    optimizer = torch.optim.AdamW(system.parameter_groups(), lr=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in system.named_parameters()}
    for parameter in system.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    for name, parameter in system.named_parameters():
        factor = 1.0 if name.startswith("meta.") else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter, before[name] * factor)


def test_the_loss_is_the_weighted_sum_of_its_terms(data):
    system = built(REARM, data, **FULL)
    terms = system.objective(batch_of(data, slice(0, 60), negatives=True))
    expected = terms["bpr"] + 0.01 * terms["contrast"] + 0.01 * terms["overlap"]
    torch.testing.assert_close(terms["loss"], expected)
    assert all(term > 0 for term in terms.values())


def test_the_contrast_counts_a_node_once_and_looks_one_way(data):
    system = built(REARM, data, **FULL)
    contents = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    once = system.contrast(contents, torch.tensor([3, 1, 7]))
    torch.testing.assert_close(system.contrast(contents, torch.tensor([7, 3, 1, 3, 3, 7])), once)
    image, text = (normalize(x, dim=1) for x in contents[[3, 1, 7]].split(8, 1))
    logits = image @ text.T / system.temperature
    torch.testing.assert_close(once, -logits.log_softmax(1).diagonal().mean())


def test_dropout_is_for_training_steps_alone(data):
    system = built(REARM, data, **FULL)
    batch = batch_of(data, slice(0, 60), negatives=True)
    first, second = (system.objective(batch)["loss"] for _ in range(2))
    assert first != second
    assert torch.equal(system.tables()["item"], system.tables()["item"])
    system.eval()
    assert system.objective(batch)["loss"] == system.objective(batch)["loss"]


def test_scores_of_a_batch_are_those_of_the_tables(data):
    system = built(REARM, data, **FULL).eval()
    batch = batch_of(data, slice(0, 60), negatives=True)
    tables = system.tables()
    users = tables["user"][batch["user"]]
    margin = (users * (tables["item"][batch["item"]] - tables["item"][batch["negative"]])).sum(1)
    expected = torch.nn.functional.softplus(-margin).mean()
    torch.testing.assert_close(system.objective(batch)["bpr"], expected)


def test_without_the_meta_share_the_last_third_is_the_id_part(data):
    system = built(REARM, data, **FULL, meta_share=False)
    assert not any("meta" in name or "down" in name for name, _ in system.named_parameters())
    ids, _ = system.heterography(drop=False)
    torch.testing.assert_close(system.tables()["user"][:, 16:], ids[: data.n_users])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_missing_modality_is_named(data, kind):
    features = {name: table for name, table in data.features.items() if name != kind}
    with pytest.raises(DataError, match=f"rearm needs {kind} features"):
        built(REARM, replace(data, features=features), **SMALL)


def test_more_neighbours_than_nodes_are_refused(data):
    with pytest.raises(DataError, match=r"system\.user_neighbours=41 .* 40 users"):
        built(REARM, data, **SMALL | {"user_neighbours": 41})


def test_graphs_come_from_the_cache_and_never_from_that_of_other_data(data, capsys, monkeypatch):
    first = built(REARM, data, **FULL)
    assert "built the graphs" in capsys.readouterr().out
    calls = []
    build = REARM._build_graphs
    monkeypatch.setattr(
        REARM, "_build_graphs", lambda self, data: calls.append(1) or build(self, data)
    )
    second = built(REARM, data, **FULL)
    assert not calls
    assert not capsys.readouterr().out
    assert torch.equal(first.user_graph_ids, second.user_graph_ids)
    assert torch.equal(first.item_graph_weights, second.item_graph_weights)
    # Held-out pairs are no part of the graphs; training pairs, features and settings are.
    built(REARM, replace(data, valid=data.test, test=data.valid), **FULL)
    assert not calls
    built(REARM, replace(data, train=data.train[:, 1:]), **FULL)
    other = {"image": data.features["image"] + 1, "text": data.features["text"]}
    built(REARM, replace(data, features=other), **FULL)
    built(REARM, data, **FULL | {"item_image_weight": 0.4})
    built(REARM, data, **FULL | {"user_neighbours": 6})
    assert len(calls) == 4


def test_a_damaged_cache_is_never_used(data, tmp_path):
    first = built(REARM, data, **FULL)
    files = list((tmp_path / "cache").rglob("*.cache"))
    assert len(files) == 1
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    second = built(REARM, data, **FULL)
    assert torch.equal(first.user_graph_weights, second.user_graph_weights)
    assert rearm.cached("rearm", "other", lambda: {"a": torch.ones(1)})[1] is False


def _gradients(rank_and_world: tuple[int, int]) -> dict[str, torch.Tensor]:
    """What one process adds to the mean over processes, of its rows of one batch, and its loss."""
    rank, world = rank_and_world
    torch.manual_seed(0)
    data = generated()
    system = built(REARM, data, **FULL).double().eval()
    batch = batch_of(data, slice(0, 60), negatives=True)
    loss = system.objective({name: ids[rank::world] for name, ids in batch.items()})["loss"]
    loss.backward()
    grads = {name: p.grad for name, p in system.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | grads


def _on_a_rank(world: int) -> dict[str, torch.Tensor]:
    return _gradients((torch.distributed.get_rank(), world))


def test_two_processes_are_one():
    """Also where an item is in both of their batches: it is one node of the contrast."""
    ranks, whole = run_gloo(2, _on_a_rank, 2), _gradients((0, 1))
    assert all(found.keys() == whole.keys() for found in ranks)
    for name, expected in whole.items():
        mean = (ranks[0][name] + ranks[1][name]) / 2
        torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-12)


def _negatives(system, data, epochs: int = 30):
    loader = TopKRecommendation().train_loader(system, data, batch_size=1000, seed=0)
    batches = [batch for _ in range(epochs) for batch in loader]
    users = torch.cat([batch["user"] for batch in batches])
    items = torch.cat([batch["negative"] for batch in batches])
    return users * data.n_items + items


def _numbers(pairs, data):
    return pairs[0] * data.n_items + pairs[1]


@pytest.mark.parametrize("official", [False, True])
def test_held_out_items_are_negatives_unless_the_official_way_is_asked_for(data, official):
    system = built(REARM, data, **SMALL, official_negatives=official)
    drawn = _negatives(system, data)
    assert not torch.isin(drawn, _numbers(data.train, data)).any()
    for split in ("valid", "test"):
        met = torch.isin(_numbers(data.positives(split), data), drawn).float().mean()
        assert met == 0 if official else met > 0.5


def test_training_leaks_no_test_item_even_so(data):
    """What `fit` hands over has no test split, so that test items stay negatives."""
    system = built(REARM, data, **SMALL, official_negatives=True)
    drawn = _negatives(system, data.without_test())
    assert not torch.isin(drawn, _numbers(data.valid, data)).any()
    assert torch.isin(_numbers(data.test, data), drawn).float().mean() > 0.5
