import dataclasses

import pytest
import torch
from scipy.stats import chisquare

from core.data.checks import DataError
from recsys.systems.bm3 import BM3
from recsys.systems.lightgcn import LightGCN
from recsys.task import NegativeSampler, TopKRecommendation
from tests.recsys.generated import built, generated


@pytest.fixture
def data():
    return generated()


def draw(train: torch.Tensor, n_items: int, users: torch.Tensor, seed: int = 0) -> torch.Tensor:
    sampler = NegativeSampler(train, n_items)
    return sampler({"user": users}, torch.Generator().manual_seed(seed))["negative"]


# User 0 took the ends, 1 nothing, 2 all but item 3, 3 a block in the middle, 4 the last alone.
TAKEN = {0: [0, 6], 1: [], 2: [0, 1, 2, 4, 5, 6], 3: [2, 3, 4], 4: [6]}
PAIRS = torch.tensor([(u, i) for u, items in TAKEN.items() for i in items]).T


@pytest.mark.parametrize("order", ["as is", "shuffled"])
@pytest.mark.parametrize("user", TAKEN)
def test_negatives_are_uniform_over_what_the_user_has_not_taken(user, order):
    pairs = PAIRS
    if order == "shuffled":
        pairs = PAIRS[:, torch.randperm(PAIRS.shape[1], generator=torch.Generator().manual_seed(3))]
    drawn = draw(pairs, 7, torch.full((7000,), user))
    free = [item for item in range(7) if item not in TAKEN[user]]
    assert sorted(set(drawn.tolist())) == free
    counts = torch.bincount(drawn, minlength=7)[free]
    if len(free) > 1:
        assert chisquare(counts.numpy()).pvalue > 0.01


def test_negatives_of_mixed_users_are_never_taken(data):
    users = data.train[0].repeat(50)
    drawn = draw(data.train, data.n_items, users)
    taken = set(map(tuple, data.train.T.tolist()))
    assert drawn.min() >= 0
    assert drawn.max() < data.n_items
    assert not taken & set(zip(users.tolist(), drawn.tolist(), strict=True))


def test_negatives_are_exact_at_the_size_of_large_catalogues():
    n_items, user = 3_000_000, 2_000_000
    taken = torch.arange(0, n_items, 2)
    pairs = torch.stack([torch.full_like(taken, user), taken])
    drawn = draw(pairs, n_items, torch.full((20_000,), user))
    assert (drawn % 2 == 1).all()
    assert drawn.double().mean().item() == pytest.approx(n_items / 2, rel=0.02)


def test_negatives_change_with_the_epoch_and_repeat_with_the_seed(data):
    task = TopKRecommendation()
    system = built(LightGCN, data, dim=4)
    loaders = [task.train_loader(system, data, 64, seed) for seed in (0, 0, 1)]
    epochs = [[b["negative"] for b in loader] for loader in loaders]
    again = [b["negative"] for b in loaders[0]]
    first, same, other = (torch.cat(epoch) for epoch in epochs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert not torch.equal(first, torch.cat(again))


def test_only_methods_with_negatives_get_them(data):
    task = TopKRecommendation()
    assert set(next(iter(task.train_loader(built(BM3, data, dim=4), data, 8, 0)))) == {
        "user",
        "item",
    }


def test_two_processes_share_the_rows_and_negatives_of_one(data):
    task, system = TopKRecommendation(), built(LightGCN, data, dim=4)
    whole = list(task.train_loader(system, data, 33, seed=2))
    halves = [list(task.train_loader(system, data, 33, 2, rank, 2)) for rank in range(2)]
    for batch, left, right in zip(whole, *halves, strict=True):
        for name in ("user", "item", "negative"):
            assert torch.equal(batch[name], torch.cat([left[name], right[name]]))


def test_an_epoch_brings_every_pair_once(data):
    batches = list(TopKRecommendation().train_loader(built(BM3, data, dim=4), data, 32, 0))
    assert len(batches[-1]["user"]) == data.n_interactions % 32 != 0
    pairs = torch.cat([torch.stack([b["user"], b["item"]]) for b in batches], 1)
    assert sorted(pairs.T.tolist()) == sorted(data.train.T.tolist())


def test_evaluation_equals_its_users_mean_and_masks_training_items(data):
    task, system = TopKRecommendation(topk=(1, 5, 20)), built(LightGCN, data, dim=4)
    evaluation = task.evaluate(system, data, "test")
    assert evaluation.unit == "user"
    assert evaluation.unit_ids.tolist() == sorted(set(data.test[0].tolist()))
    tables = system.tables()
    scores = (tables["user"] @ tables["item"].T).detach()
    scores[data.train[0], data.train[1]] = -1e10
    for position, user in enumerate(evaluation.unit_ids):
        wanted = set(data.test[1, data.test[0] == user].tolist())
        top = scores[user].topk(20).indices.tolist()
        for k in (1, 5, 20):
            expected = len(wanted & set(top[:k])) / len(wanted)
            assert evaluation.per_unit[f"recall@{k}"][position] == pytest.approx(expected)
    for name, value in evaluation.metrics.items():
        assert value == pytest.approx(evaluation.per_unit[name].mean())


def test_an_empty_split_is_refused(data):
    task, system = TopKRecommendation(), built(LightGCN, data, dim=4)
    assert task.has_split(data, "test")
    assert not task.has_split(data.without_test(), "test")
    with pytest.raises(DataError, match="the test split has no interactions"):
        task.evaluate(system, data.without_test(), "test")


def test_a_system_of_another_catalogue_is_refused(data):
    other = generated(n_items=31)
    with pytest.raises(DataError, match="trained on 31 items and these data have 30"):
        TopKRecommendation().evaluate(built(LightGCN, other, dim=4), data, "test")


@pytest.mark.parametrize("monitor", ["recall@15", "recall", "loss"])
def test_a_monitor_that_is_not_computed_is_refused(monitor):
    with pytest.raises(DataError, match=r"expected: one of recall@5, recall@10"):
        TopKRecommendation(monitor=monitor)


def test_every_monitor_that_is_named_is_computed(data):
    task = TopKRecommendation(topk=[3], monitor="map@3")
    assert task.monitor in task.evaluate(built(LightGCN, data, dim=4), data, "valid").metrics


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("user:nobody", "no such id in the data"),
        ("item:u1", "expected: one of 30 ids such as i0, i1, i2"),
        ("sound:i1", "expected: user:ID or item:ID or image:ID or text:ID"),
        ("user", "expected: user:ID"),
        ("user:", "expected: user:ID"),
        ("", "expected: user:ID"),
    ],
)
def test_a_query_for_nothing_says_what_there_is(data, query, message):
    with pytest.raises(DataError, match=message):
        TopKRecommendation().search(built(BM3, data, dim=4), data, query, 5)


@pytest.mark.parametrize("kind", ["item", "image", "text"])
def test_items_near_an_item_are_by_cosine_without_itself(data, kind):
    system = built(BM3, data, dim=4)
    rows = TopKRecommendation().search(system, data, f"{kind}:i7", 500)
    with torch.no_grad():
        everything = torch.arange(data.n_items)
        found = system.embed({"item": everything, kind: everything})
    expected = torch.cosine_similarity(found[kind][7:8], found["item"])
    assert len(rows) == data.n_items - 1
    assert [row["rank"] for row in rows] == list(range(1, data.n_items))
    for row in rows:
        item = int(row["item"].removeprefix("i"))
        assert item != 7
        assert row["title"] == f"title {item}"
        assert row["score"] == pytest.approx(expected[item].item(), abs=1e-5)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_embeddings_come_with_the_ids_of_the_files(data):
    system = built(BM3, data, dim=4)
    table = TopKRecommendation().embed(system, data)
    assert table.columns == ["kind", "id", "embedding"]
    sizes = dict(table.group_by("kind").len().iter_rows())
    assert sizes == {"user": 40, "item": 30, "image": 30, "text": 30}
    expected = system.tables()["item"].detach()
    rows = table.filter(kind="item")
    assert rows["id"].to_list() == data.item_ids
    torch.testing.assert_close(torch.tensor(rows["embedding"].to_list()), expected)


def test_the_ids_of_a_run_are_kept_for_later_readings(data, tmp_path):
    task = TopKRecommendation()
    assert task.reading(tmp_path) == {}
    task.keep_reading(dataclasses.replace(data), tmp_path)
    assert task.reading(tmp_path) == {"id_mapping": str(tmp_path / "ids.json")}
