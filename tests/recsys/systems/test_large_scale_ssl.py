from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import cross_entropy, normalize

from core.data.checks import DataError
from core.distributed import rank
from recsys.data.entities import EntityPairs
from recsys.retrieval_task import Retrieval
from recsys.systems import large_scale_ssl
from recsys.systems.large_scale_ssl import LargeScaleSSL, correlated_masks
from tests.core.gloo import run_gloo
from tests.recsys.generated_entities import batch_of, built, generated

MASKS = ["correlated_mask", "random_mask"]


@pytest.fixture(scope="module")
def data() -> EntityPairs:
    return generated()


@pytest.fixture
def views(monkeypatch) -> list[dict]:
    """What is asked of the item tower for the views of the regularizer."""
    asked: list[dict] = []
    embed_items = LargeScaleSSL.embed_items

    def recording(self, codes, hidden=None, augment=False):
        out = embed_items(self, codes, hidden, augment)
        if augment:
            asked.append({"hidden": hidden, "codes": codes, "out": out})
        return out

    monkeypatch.setattr(LargeScaleSSL, "embed_items", recording)
    return asked


def test_outputs_are_of_unit_length_and_know_no_dropout(data):
    system = built(data, dropout=0.9, value_dropout=0.9)
    batch = {"query": data.queries.codes, "item": data.items.codes}
    first, second = system.embed(batch), system.embed(batch)
    for kind, rows in batch.items():
        assert first[kind].shape == (len(rows), 8)
        assert torch.equal(first[kind], second[kind])
        torch.testing.assert_close(first[kind].norm(dim=1), torch.ones(len(rows)))


@pytest.mark.parametrize("regularizer", MASKS)
def test_the_views_hide_sets_that_partition_the_features(data, views, regularizer):
    system = built(data, regularizer=regularizer)
    batch = batch_of(system, data)
    seen = Counter()
    for _ in range(60):
        views.clear()
        system.objective(batch)
        first, second = (view["hidden"] for view in views)
        assert torch.equal(first, ~second)
        assert torch.equal(views[0]["codes"], batch["uniform_item"])
        # Of the six features that say something, neither view hides or shows all.
        assert 2 <= first[:6].sum() <= 4
        seen[tuple(first.tolist())] += 1
    assert len(seen) > 4
    # The number of the item would give away which other view belongs to it.
    assert 15 < sum(n for mask, n in seen.items() if mask[6]) < 45


def test_the_drawn_feature_hides_those_that_share_its_group(data):
    big = generated(n_items=2000)
    system = built(big, n_correlated=2)
    assert system.is_id.tolist() == [False] * 6 + [True]
    groups = torch.tensor([[1, 1, 1, 0, 0, 0, 0]] * 3 + [[0, 0, 0, 1, 1, 1, 0]] * 3).bool()
    assert torch.equal(system.masks[:6], groups)
    drawn = Counter(tuple(system.draw_mask()[:6].tolist()) for _ in range(400))
    assert set(drawn) == {tuple(groups[0, :6].tolist()), tuple(groups[3, :6].tolist())}
    assert min(drawn.values()) > 140


def test_the_feature_is_drawn_for_the_batch_and_uniformly(data, monkeypatch):
    system = built(data)
    system.masks.copy_(torch.eye(7, dtype=torch.bool))
    drawn = torch.stack([system.draw_mask() for _ in range(3000)])
    assert (drawn[:, :6].sum(1) == 1).all()
    assert chisquare(drawn[:, :6].sum(0).numpy()).pvalue > 1e-4
    assert 0.45 < drawn[:, 6].float().mean() < 0.55


def test_half_of_the_features_go_with_the_drawn_one(data):
    assert (built(data).masks[:6, :6].sum(1) == 4).all()
    assert (built(data, n_correlated=2).masks[:6, :6].sum(1) == 3).all()
    # One stays to be seen.
    assert (built(data, n_correlated=6).masks[:6, :6].sum(1) == 5).all()


def test_masks_take_the_most_informative_and_the_first_of_equals():
    information = torch.tensor(
        [[9.0, 0.1, 0.5, 0.5], [0.1, 9, 0.2, 0.3], [0.5, 0.2, 9, 0.1], [0.5, 0.3, 0.1, 0.4]]
    )
    expected = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1]]
    assert correlated_masks(information, 1).int().tolist() == expected


@pytest.mark.parametrize("regularizer", [*MASKS, "feature_dropout"])
def test_hidden_features_do_not_show_and_the_others_do(data, regularizer):
    system = built(data, dropout=0.0)
    codes = data.items.codes[:5]
    hidden = torch.tensor([1, 0, 1, 0, 1, 0, 1]).bool()
    plain = system.embed_items(codes, hidden, augment=True)
    for feature in range(7):
        other = codes.clone()
        other[:, feature] = (other[:, feature] + 1) % 30
        changed = system.embed_items(other, hidden, augment=True)
        assert torch.equal(plain, changed) == bool(hidden[feature])


def test_the_mask_is_a_code_of_its_own_that_learns(data):
    system = built(data)
    system.objective(batch_of(system, data))["loss"].backward()
    for feature, table in zip(system.names, system.tables, strict=True):
        assert table.num_embeddings == (data.items.features | data.queries.features)[feature][0] + 1
        gradient = table.weight.grad[-1].abs().sum()
        assert (gradient > 0) == (feature in data.items.features)


def test_a_feature_without_value_is_as_a_hidden_one(data):
    system = built(data)
    codes = data.items.codes[:4].clone()
    codes[:, 2] = -1
    hidden = torch.arange(7) == 2
    assert torch.equal(system.embed_items(codes), system.embed_items(data.items.codes[:4], hidden))


def _with_bags() -> LargeScaleSSL:
    torch.manual_seed(0)
    return LargeScaleSSL(
        {"words": (50, 4), "kind": (3, 1)},
        {"words": (50, 2), "place": (9, 1)},
        n_items=20,
        feature_dim=4,
        hidden=[],
        dim=3,
        sampling="counts",
    )


def test_a_bag_is_the_mean_of_its_values_and_tables_are_shared():
    system = _with_bags()
    assert system.names == ["words", "kind", "place"]
    words, kind, place = (table.weight for table in system.tables)
    query = torch.tensor([[4, 4, 7, -1, 2], [-1, -1, -1, -1, 0]])
    expected = torch.stack(
        [
            torch.cat([(2 * words[4] + words[7]) / 3, kind[2]]),
            torch.cat([words[50], kind[0]]),
        ]
    )
    torch.testing.assert_close(
        system.embed({"query": query})["query"], normalize(system.query_tower(expected), dim=1)
    )
    item = torch.tensor([[7, -1, 8]])
    expected = torch.cat([words[7], place[8]])[None]
    torch.testing.assert_close(
        system.embed({"item": item})["item"], normalize(system.item_tower(expected), dim=1)
    )


def test_values_of_bags_are_dropped_one_by_one(monkeypatch):
    system = _with_bags()
    system.value_dropout, system.dropout = 0.25, 0.0
    seen: list[torch.Tensor] = []
    table = system.tables[0]
    forward = table.forward
    monkeypatch.setattr(
        table,
        "forward",
        lambda rows, per_sample_weights: (
            seen.append(torch.where(per_sample_weights > 0, rows, -1)),
            forward(rows, per_sample_weights=per_sample_weights),
        )[1],
    )
    items = torch.tensor([[11, 12, 0]]).expand(8000, 3)
    system.embed_items(items, augment=True)
    kept = Counter(tuple(row) for row in seen[0].tolist())
    assert set(kept) == {(11, 12), (11, -1), (-1, 12), (50, -1)}
    for row, share in {(11, 12): 0.5625, (11, -1): 0.1875, (50, -1): 0.0625}.items():
        assert kept[row] / 8000 == pytest.approx(share, abs=0.02)


def test_large_and_open_vocabularies_are_hashed():
    system = LargeScaleSSL(
        {"url": (None, 1)},
        {"word": (10**6, 1), "kind": (5, 1)},
        n_items=4,
        feature_dim=4,
        hash_buckets=100,
    )
    assert [table.num_embeddings for table in system.tables] == [101, 101, 6]
    codes = torch.arange(0, 10**6, 37)
    rows = large_scale_ssl._slots(codes, 100, 10**6)
    assert chisquare(torch.bincount(rows, minlength=100).numpy()).pvalue > 1e-6
    assert rows.max() < 100
    # Codes that differ in high bits alone.
    high = large_scale_ssl._slots(torch.arange(4000) << 40, 128, None)
    assert torch.bincount(high, minlength=128).max() < 80
    kinds = torch.arange(5)
    assert torch.equal(large_scale_ssl._slots(kinds, 5, 5), kinds)
    with pytest.raises(DataError, match=r"feature url is open\n.*\n.*give system.hash_buckets"):
        LargeScaleSSL({"url": (None, 1)}, {"a": (3, 1), "b": (3, 1)}, n_items=4)


def test_a_mask_needs_two_features():
    one = {"kind": (5, 1)}
    for regularizer in MASKS:
        with pytest.raises(DataError, match="two features or more"):
            LargeScaleSSL(one, one, 4, regularizer=regularizer)
    LargeScaleSSL(one, one, 4, regularizer="spread_out")
    LargeScaleSSL(one, one, 4, alpha=0.0)


@pytest.mark.parametrize("masks_hits", [False, True])
def test_the_main_loss_is_the_corrected_softmax(data, masks_hits):
    system = built(data, sampling="counts", mask_accidental_hits=masks_hits, alpha=0)
    batch = batch_of(system, data)
    ids = batch["item_id"]
    assert len(ids.unique()) < len(ids)
    found = system.embed({"query": batch["query"], "item": batch["item"]})
    share = data.item_counts.clamp(min=0.5) / data.item_counts.sum()
    scores = found["query"] @ found["item"].T / 0.1 - share[ids].log()
    if masks_hits:
        same = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
        scores = scores.masked_fill(same, -torch.inf)
    expected = cross_entropy(scores, torch.arange(len(ids)))
    terms = system.objective(batch)
    assert terms.keys() == {"loss", "main"}
    torch.testing.assert_close(terms["loss"], expected)


def test_the_stream_learns_what_the_counts_say(data):
    """Both correct by how many columns of a batch an item has on the average."""
    counts, stream = (built(data, sampling=s, frequency_rate=0.02) for s in ("counts", "streaming"))
    loader = Retrieval().train_loader(stream, data, 60, seed=0)
    found = torch.zeros(len(data.items))
    seen = torch.zeros(len(data.items))
    for epoch in range(60):
        for batch in loader:
            ids = batch["item_id"]
            log_columns = stream.log_expected_columns(ids)
            if epoch > 20:
                found.index_add_(0, ids, log_columns)
                seen.index_add_(0, ids, torch.ones(len(ids)))
    often = data.item_counts > 2
    expected = counts.log_share + torch.tensor(60.0).log()
    error = (found / seen - expected)[often]
    assert error.abs().max() < 0.7
    assert error.mean().abs() < 0.25
    # An item that is in every batch many times has p = 1; its columns say the rest.
    top = data.item_counts.argmax()
    assert expected[top] > 1
    assert stream.frequency.probability(top[None]) > 0.99


def test_items_of_the_regularizer_are_drawn_alike(data):
    """Training pairs follow a power law; drawn from them, the tail would be left alone."""
    system = built(data)
    loader = Retrieval().train_loader(system, data, 64, seed=0)
    number = list(data.items.features).index("item")
    counts = torch.zeros(len(data.items), dtype=torch.int64)
    paired = torch.zeros_like(counts)
    while counts.sum() < 100_000:
        for batch in loader:
            assert len(batch["uniform_item"]) == len(batch["item"])
            counts += torch.bincount(batch["uniform_item"][:, number], minlength=len(counts))
            paired += torch.bincount(batch["item_id"], minlength=len(counts))
    assert chisquare(counts.numpy()).pvalue > 1e-4
    assert (data.item_counts == 0).any()
    assert chisquare(paired.numpy()).pvalue < 1e-10


def test_without_a_regularizer_no_further_items_are_drawn(data):
    assert "uniform_item" not in batch_of(built(data, alpha=0), data)


@pytest.mark.parametrize("regularizer", [*MASKS, "feature_dropout"])
def test_the_first_view_looks_for_the_second(data, views, regularizer):
    system = built(data, regularizer=regularizer, alpha=0.7, ssl_temperature=0.3)
    batch = batch_of(system, data)
    terms = system.objective(batch)
    first, second = (view["out"] for view in views)
    assert not torch.equal(first, second)
    scores = first @ second.T / 0.3
    torch.testing.assert_close(
        terms["regularizer"], cross_entropy(scores, torch.arange(len(scores)))
    )
    torch.testing.assert_close(terms["loss"], terms["main"] + 0.7 * terms["regularizer"])
    if regularizer == "feature_dropout":
        assert views[0]["hidden"] is views[1]["hidden"] is None


def test_spread_out_has_no_views(data, views):
    system = built(data, regularizer="spread_out")
    batch = batch_of(system, data)
    terms = system.objective(batch)
    assert views == []
    cosines = system.embed({"item": batch["uniform_item"]})["item"]
    cosines = (cosines @ cosines.T).fill_diagonal_(0)
    n = len(cosines)
    torch.testing.assert_close(terms["regularizer"], cosines.square().sum() / (n * (n - 1)))


@pytest.mark.parametrize("sampling", ["streaming", "counts"])
def test_nothing_is_lost_through_its_state(data, sampling):
    system, other = built(data, sampling=sampling), built(generated(seed=1), sampling=sampling)
    batch = batch_of(system, data)
    system.objective(batch)
    other.load_state_dict(system.state_dict())
    assert torch.equal(other.masks, system.masks)
    assert other.information.abs().sum() > 0
    losses = []
    for one in (system, other):
        torch.manual_seed(5)
        losses.append(one.objective(batch)["loss"])
    assert torch.equal(*losses)


def test_the_batch_may_be_empty_as_on_a_process_without_a_row(data):
    system = built(data)
    terms = system.objective({k: v[:0] for k, v in batch_of(system, data).items()})
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


def test_sparse_gradients_are_the_dense_ones(data):
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        system = built(data, sparse_gradients=sparse, dropout=0.0)
        system.objective(batch_of(system, data))["loss"].backward()
        gradients.append([table.weight.grad for table in system.tables])
    for dense, sparse in zip(*gradients, strict=True):
        assert sparse.is_sparse
        torch.testing.assert_close(sparse.to_dense(), dense)


def _gradients(regularizer: str, shard_above: int | None) -> dict[str, torch.Tensor]:
    data = generated()
    torch.manual_seed(0)
    system = built(data, regularizer=regularizer, dropout=0.0, shard_above=shard_above).double()
    for table in system.tables:
        getattr(table, "shard", lambda: None)()
    batch = batch_of(system, data, size=33)
    share = slice(0, 20) if rank() == 0 else slice(20, 33)
    if not torch.distributed.is_initialized():
        share = slice(None)
    mask = torch.tensor([1, 0, 1, 0, 1, 0, 1]).bool()
    system.draw_mask = lambda: mask
    loss = system.objective({name: rows[share] for name, rows in batch.items()})["loss"]
    loss.backward()
    found = {"loss": loss.detach(), "interval": system.frequency.interval}
    for name, parameter in system.named_parameters():
        table = system.get_submodule(name.rpartition(".")[0])
        is_part = getattr(table, "is_sharded", False)
        # DistributedDataParallel averages the gradients of whole tables; parts have the mean.
        found[name] = table.whole_of(parameter.grad) if is_part else parameter.grad
    return found


CASES = [(r, above) for r in ("correlated_mask", "spread_out") for above in (None, 45)]


def _on_a_rank() -> dict:
    found = {case: _gradients(*case) for case in CASES}
    torch.manual_seed(rank())
    system = built(generated())
    return found | {"masks": torch.stack([system.draw_mask() for _ in range(50)])}


@pytest.fixture(scope="module")
def ranks() -> list[dict]:
    """What two processes found: started once, because each imports everything."""
    return run_gloo(2, _on_a_rank)


@pytest.mark.parametrize(("regularizer", "shard_above"), CASES)
def test_two_processes_have_the_gradient_of_one(ranks, regularizer, shard_above):
    expected = _gradients(regularizer, None)
    first, second = (found[regularizer, shard_above] for found in ranks)
    for name, value in expected.items():
        mean = (first[name] + second[name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-8, atol=1e-10)


def test_processes_hide_the_same_features(ranks):
    first, second = (found["masks"] for found in ranks)
    assert torch.equal(first, second)
    assert len(first.unique(dim=0)) > 3
