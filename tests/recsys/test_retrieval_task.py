import dataclasses

import numpy as np
import pytest
import torch

from core.data.checks import DataError
from core.evaluation.index import NeighbourIndex
from recsys.data.entities import EntityPairs, EntityTable
from recsys.retrieval_task import Retrieval, popularity_slices
from tests.recsys.generated_entities import built, generated


@pytest.fixture(scope="module")
def data() -> EntityPairs:
    return generated()


def scores_of(system, data: EntityPairs) -> torch.Tensor:
    found = system.embed({"query": data.queries.codes, "item": data.items.codes})
    return (found["query"] @ found["item"].T).detach()


def test_recall_is_the_share_of_pairs_that_are_found(data):
    task, system = Retrieval(topk=(1, 5, 20), monitor="recall@20"), built(data)
    evaluation = task.evaluate(system, data, "test")
    assert evaluation.unit == "pair"
    assert len(evaluation.unit_ids) == len(set(evaluation.unit_ids)) == data.test.shape[1]
    scores = scores_of(system, data)
    scores[data.known[0], data.known[1]] = -torch.inf
    for number, (query, item) in enumerate(data.test.T.tolist()):
        place = (scores[query] > scores[query, item]).sum().item()
        for k in (1, 5, 20):
            assert evaluation.per_unit[f"recall@{k}"][number] == (place < k)
    for name, values in evaluation.per_unit.items():
        assert evaluation.metrics[name] == pytest.approx(values.mean())
        for part, chosen in popularity_slices(data.item_counts, data.test[1]).items():
            assert evaluation.metrics[f"{name}/{part}"] == pytest.approx(values[chosen].mean())


def test_map_is_a_mean_over_queries(data):
    system = built(data)
    found = Retrieval(topk=(3, 50)).evaluate(system, data, "test").metrics
    scores = scores_of(system, data)
    scores[data.known[0], data.known[1]] = -torch.inf
    for k in (3, 50):
        values = []
        for query in data.test[0].unique().tolist():
            wanted = set(data.test[1, data.test[0] == query].tolist())
            hits = [item in wanted for item in scores[query].argsort(descending=True)[:k].tolist()]
            precision = np.cumsum(hits) / np.arange(1, k + 1)
            values.append((precision * hits).sum() / min(k, len(wanted)))
        assert found[f"map@{k}"] == pytest.approx(np.mean(values))


def test_slices_are_cut_by_training_pairs():
    counts = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 4, 9, 50])
    items = torch.arange(11)
    slices = popularity_slices(counts, items)
    chosen = {name: items[mask].tolist() for name, mask in slices.items()}
    assert chosen == {
        "unseen": [0, 1, 2],
        "tail": [0, 1, 2, 3, 4, 5, 6],
        "torso": [7, 8, 9],
        "head": [10],
    }
    repeated = popularity_slices(counts, torch.tensor([10, 10, 0]))
    assert repeated["head"].tolist() == [True, True, False]


def test_every_pair_is_in_one_of_head_torso_and_tail(data):
    slices = popularity_slices(data.item_counts, data.test[1])
    parts = torch.stack([slices[name] for name in ("head", "torso", "tail")])
    assert (parts.sum(0) == 1).all()
    assert (slices["unseen"] <= slices["tail"]).all()
    assert all(mask.any() for mask in slices.values())


def test_equal_counts_are_no_head(data):
    slices = popularity_slices(torch.ones(5, dtype=torch.int64), torch.arange(5))
    assert slices["tail"].all()
    assert not slices["head"].any()
    flat = dataclasses.replace(data, item_counts=torch.ones_like(data.item_counts))
    metrics = Retrieval().evaluate(built(data), flat, "test").metrics
    assert metrics["recall@50/tail"] == metrics["recall@50"]
    assert "recall@50/head" not in metrics


def test_a_batch_has_the_codes_of_its_pairs(data):
    system = built(data)
    seen = []
    for batch in Retrieval().train_loader(system, data, 32, seed=0):
        assert batch.keys() == {"query", "item", "item_id", "uniform_item"}
        assert torch.equal(batch["item"], data.items.codes[batch["item_id"]])
        seen += zip(batch["query"].tolist(), batch["item_id"].tolist(), strict=True)
    wanted = zip(data.queries.codes[data.known[0]].tolist(), data.known[1].tolist(), strict=True)
    assert sorted(seen) == sorted(wanted)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(data, world):
    system, task = built(data), Retrieval()
    whole = list(task.train_loader(system, data, 33, 2))
    shares = [list(task.train_loader(system, data, 33, 2, r, world)) for r in range(world)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name, rows in batch.items():
            assert torch.equal(rows, torch.cat([part[name] for part in parts]))


def test_an_empty_split_is_refused(data):
    task, system = Retrieval(), built(data)
    assert task.has_split(data, "test")
    assert not task.has_split(data.without_test(), "test")
    with pytest.raises(DataError, match="the test split has no pairs"):
        task.evaluate(system, data.without_test(), "test")


def test_a_system_of_other_features_is_refused(data):
    features = data.items.features | {"feature_1": (41, 1)}
    other = dataclasses.replace(data, items=dataclasses.replace(data.items, features=features))
    with pytest.raises(DataError, match=r"made for the item features .*'feature_1': 40"):
        Retrieval().evaluate(built(data), other, "test")


def test_columns_may_stand_in_another_order_and_bags_be_shorter(data):
    bags = torch.randint(0, 9, (len(data.items), 3), generator=torch.Generator().manual_seed(0))
    long = EntityTable(
        torch.cat([data.items.codes, bags], 1), data.items.features | {"words": (9, 3)}
    )
    system = built(dataclasses.replace(data, items=long))
    short = EntityTable(
        torch.cat([bags[:, :1], data.items.codes], 1), {"words": (9, 1)} | data.items.features
    )
    filled = torch.cat([data.items.codes, bags[:, :1], torch.full((len(bags), 2), -1)], 1)
    table = Retrieval().embed(system, dataclasses.replace(data, items=short))
    found = torch.tensor(table.filter(kind="item")["embedding"].to_list())
    torch.testing.assert_close(found, system.embed({"item": filled})["item"].detach())


@pytest.mark.parametrize("monitor", ["recall@20", "map@50", "recall@50/tail", "loss"])
def test_a_monitor_that_has_no_values_is_refused(monitor):
    with pytest.raises(DataError, match="expected: one of recall@10, recall@50"):
        Retrieval(monitor=monitor)


def test_embeddings_come_with_ids(data):
    system = built(data)
    table = Retrieval().embed(system, data)
    assert dict(table.group_by("kind").len().iter_rows()) == {"query": 120, "item": 80}
    rows = table.filter(kind="query")
    assert rows["id"].to_list() == [str(n) for n in range(120)]
    expected = system.embed({"query": data.queries.codes})["query"].detach()
    torch.testing.assert_close(torch.tensor(rows["embedding"].to_list()), expected)


@pytest.mark.parametrize("indexed", [False, True])
def test_search_finds_what_is_new_to_the_query(data, indexed):
    titles = [f"title {n}" for n in range(80)]
    data = dataclasses.replace(data, items=dataclasses.replace(data.items, titles=titles))
    system, task = built(data), Retrieval()
    index = None
    if indexed:
        spaces = task.index_spaces(system, data)
        vectors = {name: found.cpu().numpy() for name, (found, _) in spaces.items()}
        index = NeighbourIndex(vectors, "weights", "exact")
    rows = task.search(system, data, "query:3", 5, index)
    scores = scores_of(system, data)[3]
    taken = torch.cat([data.known, data.valid, data.test], 1)
    scores[taken[1, taken[0] == 3]] = -torch.inf
    best = scores.topk(5)
    assert [int(row["item"]) for row in rows] == best.indices.tolist()
    assert [row["score"] for row in rows] == pytest.approx(best.values.tolist(), abs=1e-6)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["title"] == f"title {rows[0]['item']}"
    near = task.search(system, data, "item:7", 200, index)
    assert len(near) == 79
    assert "7" not in {row["item"] for row in near}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("query:120", "expected: an id from 0 to 119"),
        ("item:abc", "no such id in the data"),
        ("user:1", "expected: query:ID or item:ID"),
        ("item", "expected: query:ID or item:ID"),
    ],
)
def test_a_query_for_nothing_says_what_there_is(data, query, message):
    with pytest.raises(DataError, match=message):
        Retrieval().search(built(data), data, query, 5)
