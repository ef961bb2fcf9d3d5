from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid, normalize

from core.data.checks import DataError
from core.encoders.graph import normalized_adjacency
from core.encoders.neighbours import NeighbourGraph
from core.losses import distinct, info_nce
from recsys.systems import item_graph
from recsys.systems.item_graph import (
    ItemGraph,
    anchor_info_nce,
    collaborative_graph,
    enhanced_graph,
    perturb,
    semantic_graph,
    users_of_items,
)
from tests.core.gloo import run_gloo
from tests.recsys.generated import batch_of, built, generated

SMALL = {"dim": 8, "k": 4, "k_collaborative": 3}


@pytest.fixture(scope="module")
def data():
    return generated()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The perturbation.


@pytest.mark.parametrize(
    ("guided", "eps", "expected"),
    [(True, 0.1, [0.9978, 0.9978, 0.9978]), (False, 0.3, [0.819, 0.984, 0.998])],
)
def test_angle_of_small_and_large_embeddings(guided, eps, expected):
    cosines = []
    for norm in (0.1, 1.0, 3.0):
        e = norm * normalize(normal(2000, 64), dim=1)
        noisy = perturb(e, uniform(2000, 64), eps, modulus_guided=guided)
        cosines.append(cosine_similarity(e, noisy).mean().item())
    assert cosines == pytest.approx(expected, abs=0.002)
    if guided:
        assert cosines == pytest.approx([cosines[0]] * 3, rel=1e-12)


def test_perturbation_is_the_share_eps_of_the_norm_in_the_orthant_of_the_row():
    e, u = normal(50, 6), uniform(50, 6)
    change = perturb(e, u, 0.1) - e
    torch.testing.assert_close(change.norm(dim=1), 0.1 * e.norm(dim=1))
    assert (change * e >= 0).all()
    torch.testing.assert_close(perturb(2 * e, u, 0.1), 2 * perturb(e, u, 0.1))
    fixed = perturb(e, u, 0.1, modulus_guided=False) - e
    torch.testing.assert_close(fixed.norm(dim=1), torch.full((50,), 0.1, dtype=torch.float64))


def test_zeros_stay_zero_with_a_finite_gradient():
    e = normal(3, 6)
    e[1] = 0
    e[2, 4] = 0
    e.requires_grad_()
    noisy = perturb(e, uniform(3, 6), 0.1)
    assert noisy[1].eq(0).all()
    assert noisy[2, 4] == 0
    noisy.square().sum().backward()
    assert e.grad.isfinite().all()
    assert e.grad[0].ne(0).all()


# The alignments.


def test_anchor_loss_of_one_modality_is_info_nce():
    b, h = normal(9, 5), normal(9, 5, seed=1)
    one = anchor_info_nce(b, [h], 0.2)
    torch.testing.assert_close(one, info_nce(b, h, 0.2, symmetric=False))
    twice = anchor_info_nce(b, [h, h], 0.2)
    torch.testing.assert_close(twice, one)


def test_anchor_loss_has_the_logarithm_outside_of_the_sum_over_modalities():
    b, h = normal(7, 5), [normal(7, 5, seed=1), normal(7, 5, seed=2)]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(7):
        above = sum((cosine_similarity(b[i], m[i], dim=0) / 0.2).exp() for m in h)
        below = sum((cosine_similarity(b[i], m[j], dim=0) / 0.2).exp() for m in h for j in range(7))
        total = total - (above / below).log() / 7
    found = anchor_info_nce(b, h, 0.2)
    torch.testing.assert_close(found, total)
    mean = sum(info_nce(b, m, 0.2, symmetric=False) for m in h) / 2
    assert abs(found - mean) > 0.01


def test_rows_that_do_not_count_are_as_if_they_were_not_there():
    b, h = normal(6, 5), [normal(6, 5, seed=1), normal(6, 5, seed=2)]
    valid = torch.tensor([True, False, True, True, False, True])
    h[0][1] = torch.nan
    found = anchor_info_nce(b, h, 0.2, valid)
    torch.testing.assert_close(found, anchor_info_nce(b[valid], [m[valid] for m in h], 0.2))


def test_every_node_of_a_batch_is_there_once():
    ids = torch.tensor([5, 2, 5, 0, 2, 2, 9])
    rows, valid = distinct(ids, 10)
    assert rows.tolist() == [5, 2, 0, 9]
    assert valid is None


def masked_nodes(ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """What `distinct` says on an accelerator."""
    seen = [bool((ids[:row] == one).any()) for row, one in enumerate(ids)]
    return ids, ~torch.tensor(seen)


def test_masked_repeats_give_the_same_objective_and_gradient(data, monkeypatch):
    system = built(ItemGraph, data, **SMALL, eps=0.0).double()
    batch = batch_of(data, slice(0, 60), negatives=True)
    assert len(batch["item"].unique()) < 40
    found = []
    for nodes in (distinct, masked_nodes):
        monkeypatch.setattr(item_graph, "distinct", nodes)
        system.zero_grad()
        terms = system.objective(batch)
        terms["loss"].backward()
        found.append([*terms.values(), *(p.grad.clone() for p in system.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def _share_of_a_rank(rank: int | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    data = generated()
    system = built(ItemGraph, data, **SMALL, eps=0.0).double()
    batch = batch_of(data, slice(0, 61), negatives=True)
    if rank is not None:
        batch = {name: ids[:40] if rank == 0 else ids[40:] for name, ids in batch.items()}
    terms = system.objective(batch)
    terms["loss"].backward()
    grads = {name: p.grad for name, p in system.named_parameters()}
    return {name: term.detach() for name, term in terms.items()} | grads


def _of_this_rank() -> dict[str, Tensor]:
    return _share_of_a_rank(torch.distributed.get_rank())


def test_two_processes_are_as_one():
    whole, ranks = _share_of_a_rank(None), run_gloo(2, _of_this_rank)
    for name, expected in whole.items():
        mean = (ranks[0][name] + ranks[1][name]) / 2
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-9, msg=name)


# The graphs.


def test_semantic_graph_keeps_the_nearest_and_clips_negative_cosines():
    features = normal(12, 4)
    dense = NeighbourGraph(*semantic_graph(features, 12)).to_dense()
    cosines = normalize(features, dim=1) @ normalize(features, dim=1).T
    assert (cosines < 0).any()
    torch.testing.assert_close(dense, cosines.clamp(min=0))
    few = NeighbourGraph(*semantic_graph(features, 3)).to_dense()
    cut = cosines.topk(3).values[:, -1:]
    torch.testing.assert_close(few, torch.where(cosines >= cut, cosines, 0).clamp(min=0))


def test_an_item_is_its_own_neighbour_among_many_that_share_an_image():
    features = normal(1, 6).repeat(40, 1)
    features[33] = normal(6, seed=1)
    ids, weights = semantic_graph(features, 5)
    assert (ids == torch.arange(40)[:, None]).any(1).all()
    assert all(len(set(row)) == 5 for row in ids.tolist())
    shared = torch.arange(40) != 33
    torch.testing.assert_close(weights[shared], torch.ones(39, 5, dtype=torch.float64))


def test_an_item_without_features_or_users_has_an_empty_row():
    features = normal(6, 4)
    features[2] = 0
    train = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 3]])
    collaborative = collaborative_graph(train, 2, 6, 3)
    ids, weights = enhanced_graph(semantic_graph(features, 3), collaborative, 0.5)
    assert weights.isfinite().all()
    dense = NeighbourGraph(ids, weights).to_dense()
    assert dense[2].eq(0).all()
    assert dense[[0, 1, 3, 4, 5]].diagonal().min() >= 0
    # Items 4 and 5 have no user: their edges are the semantic ones.
    plain = NeighbourGraph(*semantic_graph(features, 3)).to_dense()
    assert torch.equal(dense[4:] > 0, plain[4:] > 0)


def test_enhanced_graph_is_the_normalised_sum_and_directed(data):
    train = data.train
    features = data.features["text"].double()
    semantic = semantic_graph(features, 4)
    collaborative = collaborative_graph(train, data.n_users, data.n_items, 3)
    taken = torch.zeros(data.n_users, data.n_items, dtype=torch.float64)
    taken[train[0], train[1]] = 1
    cosines = normalize(taken, dim=0).T @ normalize(taken, dim=0)
    cosines.fill_diagonal_(0)
    kept = NeighbourGraph(*collaborative).to_dense()
    assert (kept > 0).sum(1).max() == 3
    torch.testing.assert_close(kept[kept > 0], cosines[kept > 0])
    left_out = torch.where(kept > 0, 0, cosines).max(1).values
    assert (left_out <= kept.topk(3).values[:, -1] + 1e-12).all()

    dense = NeighbourGraph(*semantic).to_dense() + 0.5 * kept
    root = dense.sum(1).rsqrt()
    found = NeighbourGraph(*enhanced_graph(semantic, collaborative, 0.5)).to_dense()
    torch.testing.assert_close(found, root[:, None] * dense * root)
    assert not torch.allclose(found, found.T)
    assert (found.sum(1) - 1).abs().max() > 0.01


def test_graphs_see_training_rows_alone(data):
    held_out = torch.cat([data.valid, data.test], 1)
    other = replace(data, valid=data.test, test=data.valid)
    more = replace(data, train=torch.cat([data.train, held_out], 1))
    buffers = [built(ItemGraph, d, **SMALL).image_neighbours for d in (data, other, more)]
    assert torch.equal(buffers[0], buffers[1])
    assert not torch.equal(buffers[0], buffers[2])


def test_without_infusion_the_graph_is_the_semantic_one(data):
    system = built(ItemGraph, data, **SMALL | {"lambda_c": 0.0})
    for modality in ("image", "text"):
        semantic = semantic_graph(data.features[modality], 4)
        expected = NeighbourGraph(*enhanced_graph(semantic, None, 0.0)).to_dense()
        torch.testing.assert_close(system.item_graph(modality).to_dense(), expected)
        assert system.get_buffer(f"{modality}_neighbours").shape == (data.n_items, 4)


def test_users_are_sums_of_their_items_with_its_gradient(data):
    adjacency = normalized_adjacency(*data.train, data.n_users, data.n_items)
    block = adjacency.to_dense()[: data.n_users, data.n_users :].double()
    items = normal(data.n_items, 5).requires_grad_()
    found = users_of_items(adjacency, items, data.n_users)
    torch.testing.assert_close(found, block @ items)
    weight = normal(data.n_users, 5, seed=1)
    (grad,) = torch.autograd.grad((found * weight).sum(), items)
    torch.testing.assert_close(grad, block.T @ weight)


# The method.


def dense_equations(system: ItemGraph) -> tuple[Tensor, list[Tensor]]:
    """b and the h_m of all nodes, users first, with dense matrices."""
    n = system.n_users
    adjacency = system.adjacency().to_dense().double()
    ids = torch.cat([system.user_embedding.weight, system.item_embedding.weight])
    layers = [ids]
    for _ in range(system.n_layers):
        layers.append(adjacency @ layers[-1])
    semantics = []
    for modality, table in system.features.items():
        first, second, _ = system.purifier[modality]
        inner = table.weight @ first.weight.T + first.bias
        h = system.item_embedding.weight * torch.sigmoid(inner @ second.weight.T + second.bias)
        for _ in range(system.n_item_layers):
            h = system.item_graph(modality).to_dense().double() @ h
        semantics.append(torch.cat([adjacency[:n, n:] @ h, h]))
    return sum(layers) / len(layers), semantics


def fused(system: ItemGraph, semantics: list[Tensor]) -> Tensor:
    hidden, _, last = system.attention
    scores = [(h @ hidden.weight.T + hidden.bias).tanh() @ last.weight.T for h in semantics]
    alpha = torch.cat(scores, 1).softmax(1)
    return sum(alpha[:, m : m + 1] * h for m, h in enumerate(semantics))


@pytest.mark.parametrize("n_item_layers", [1, 2])
def test_tables_are_behaviour_plus_fused_semantics(data, n_item_layers):
    system = built(ItemGraph, data, **SMALL, n_item_layers=n_item_layers).double()
    b, h = dense_equations(system)
    tables = system.tables()
    found = torch.cat([tables["user"], tables["item"]])
    torch.testing.assert_close(found, b + fused(system, h), rtol=1e-6, atol=1e-9)
    items = h[1][data.n_users :]
    torch.testing.assert_close(system.modality_table("text"), items, rtol=1e-6, atol=1e-9)


def test_objective_is_the_sum_of_its_terms_over_distinct_nodes(data):
    """With eps 0, where both views of a modality are the modality itself."""
    weights = {"perturbation_weight": 0.3, "alignment_weight": 0.7, "reg_weight": 0.05}
    system = built(ItemGraph, data, **SMALL, **weights, eps=0.0).double()
    batch = batch_of(data, slice(0, 50), negatives=True)
    b, h = dense_equations(system)
    f, n = fused(system, h), data.n_users
    final = b + f
    rows = batch["user"], batch["item"] + n, batch["negative"] + n
    user, item, other = (final[nodes] for nodes in rows)
    expected = {"bpr": -logsigmoid((user * (item - other)).sum(1)).mean()}
    expected["penalty"] = sum(rows.square().sum() for rows in (user, item, other)) / 2 / 50
    expected |= {"perturbation": 0, "anchor": 0, "alignment": 0}
    for nodes in (batch["user"].unique(), batch["item"].unique() + n):

        def nce(x: Tensor, y: Tensor, nodes: Tensor = nodes) -> Tensor:
            logits = normalize(x[nodes], dim=1) @ normalize(y[nodes], dim=1).T / 0.2
            return -logits.log_softmax(1).diagonal().mean()

        logits = torch.stack(
            [normalize(b[nodes], dim=1) @ normalize(m[nodes], dim=1).T / 0.2 for m in h]
        )
        positives = logits.diagonal(dim1=1, dim2=2).exp().sum(0)
        anchor = -(positives / logits.exp().sum((0, 2))).log().mean()
        expected["perturbation"] += sum(nce(m, m) for m in h)
        expected["anchor"] += anchor
        expected["alignment"] += nce(f, b)
    expected["loss"] = (
        expected["bpr"]
        + 0.3 * expected["perturbation"]
        + 0.7 * (expected["anchor"] + expected["alignment"])
        + 0.05 * expected["penalty"]
    )
    terms = system.objective(batch)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_views_are_perturbed_after_every_layer_by_draws_of_their_own(data):
    system = built(ItemGraph, data, **SMALL, eps=0.1).double()
    block = system.adjacency().to_dense().double()[: data.n_users, data.n_users :]
    clean, *views = system.semantics(2)
    for modality in ("image", "text"):
        items = clean[modality][1]
        for users_of_view, items_of_view in (view[modality] for view in views):
            change = (items_of_view - items).norm(dim=1)
            torch.testing.assert_close(change, 0.1 * items.norm(dim=1))
            before = block @ items_of_view
            change = (users_of_view - before).norm(dim=1)
            torch.testing.assert_close(change, 0.1 * before.norm(dim=1), rtol=1e-6, atol=1e-9)
        one, other = (view[modality] for view in views)
        assert not torch.allclose(one[0], other[0])
        assert not torch.allclose(one[1], other[1])


def test_views_of_a_fixed_radius(data):
    system = built(ItemGraph, data, **SMALL, eps=0.1, modulus_guided=False)
    clean, view = system.semantics(1)
    change = (view["image"][1] - clean["image"][1]).norm(dim=1)
    torch.testing.assert_close(change, torch.full_like(change, 0.1), rtol=1e-4, atol=1e-6)


def test_embeddings_know_no_perturbation(data):
    system = built(ItemGraph, data, **SMALL, eps=0.5).train()
    everything = {
        kind: torch.arange(data.n_users if kind == "user" else data.n_items)
        for kind in system.kinds
    }
    first, second = system.embed(everything), system.embed(everything)
    assert set(first) == {"user", "item", "image", "text"}
    for kind in everything:
        assert torch.equal(first[kind], second[kind])
    batch = batch_of(data, slice(0, 20), negatives=True)
    one, other = system.objective(batch), system.objective(batch)
    assert one["perturbation"] != other["perturbation"]
    for name in ("bpr", "anchor", "alignment", "penalty"):
        assert torch.equal(one[name], other[name])


def test_a_term_without_weight_is_not_computed(data):
    batch = batch_of(data, slice(0, 20), negatives=True)
    off = {"perturbation_weight": 0.0, "alignment_weight": 0.0}
    terms = built(ItemGraph, data, **SMALL, **off).objective(batch)
    assert terms["perturbation"] == terms["anchor"] == terms["alignment"] == 0
    torch.testing.assert_close(terms["loss"], terms["bpr"] + 1e-4 * terms["penalty"])


def test_detached_anchor_learns_from_fusion_alone(data):
    batch = batch_of(data, slice(0, 20), negatives=True)
    norms = {}
    for detached in (False, True):
        torch.manual_seed(0)
        system = built(ItemGraph, data, **SMALL, detach_anchor=detached)
        system.objective(batch)["anchor"].backward()
        norms[detached] = system.user_embedding.weight.grad
    assert norms[False].abs().sum() > 0
    assert norms[True] is None


def test_one_modality_is_its_own_fusion(data):
    one = replace(data, features={"text": data.features["text"]})
    system = built(ItemGraph, one, **SMALL)
    h = normal(5, 8).float()
    torch.testing.assert_close(system.fuse([h]), h)
    assert system.kinds == ["user", "item", "text"]
    assert torch.isfinite(system.objective(batch_of(one, slice(0, 20), negatives=True))["loss"])


def test_defaults_are_the_recipe(data):
    system = built(ItemGraph, data)
    assert (system.n_layers, system.n_item_layers, system.k, system.k_collaborative) == (
        2,
        1,
        10,
        10,
    )
    assert (system.lambda_c, system.eps, system.temperature) == (0.5, 0.1, 0.2)
    assert (system.perturbation_weight, system.alignment_weight) == (0.01, 0.01)
    assert (system.reg_weight, system.modulus_guided, system.detach_anchor) == (1e-4, True, False)
    assert system.user_embedding.weight.shape == (data.n_users, 64)
    for modality, table in system.features.items():
        assert torch.equal(table.weight, data.features[modality])
        assert table.weight.requires_grad


def test_loss_is_float32_under_bfloat16_autocast(data):
    torch.manual_seed(0)
    system = built(ItemGraph, data, **SMALL, eps=0.0)
    batch = batch_of(data, slice(0, 64), negatives=True)
    exact = system.objective(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = system.objective(batch)
    rough["loss"].backward()
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        torch.testing.assert_close(rough[name], value, atol=0.05, rtol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in system.parameters())


def test_what_it_cannot_be_built_from(data):
    with pytest.raises(DataError, match="item_graph needs item features"):
        ItemGraph(5, 5, 5, {})
    with pytest.raises(DataError, match="n_item_layers=0"):
        ItemGraph(5, 5, 5, {"text": 3}, n_item_layers=0)
    with pytest.raises(DataError, match=r"31 neighbours .* among 30 rows"):
        built(ItemGraph, data, k=31)
