import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.checks import DataError
from core.evaluation.ranking import MASKED, full_ranking, masked_topk, ranking_metrics

TOPK = (1, 3, 10)


def random_problem(n_users, n_items, n_train, n_positives, seed, dim=5):
    """Vectors and disjoint train and held-out pairs, float64 so that scores do not tie."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randn(n_users, dim, generator=generator, dtype=torch.float64)
    items = torch.randn(n_items, dim, generator=generator, dtype=torch.float64)
    cells = torch.randperm(n_users * n_items, generator=generator)[: n_train + n_positives]
    pairs = torch.stack([cells // n_items, cells % n_items])
    return users, items, pairs[:, :n_train], pairs[:, n_train:]


def plain_ranking(users, items, train, positives, topk):
    """The definition, one user and one item at a time."""
    train_pairs = {tuple(pair) for pair in train.T.tolist()}
    relevant = {}
    for user, item in positives.T.tolist():
        relevant.setdefault(user, set()).add(item)
    result = {}
    for user in sorted(relevant):
        scores = (items @ users[user]).tolist()
        scores = [
            -1e10 if (user, item) in train_pairs else score for item, score in enumerate(scores)
        ]
        ranked = sorted(range(len(scores)), key=lambda item: -scores[item])
        n_relevant = len(relevant[user])
        for k in topk:
            hits = [item in relevant[user] for item in ranked[:k]]
            gains = [1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit]
            ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, n_relevant)))
            precisions = [
                sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit
            ]
            row = {
                f"recall@{k}": sum(hits) / n_relevant,
                f"precision@{k}": sum(hits) / k,
                f"ndcg@{k}": sum(gains) / ideal,
                f"map@{k}": sum(precisions) / min(k, n_relevant),
                f"hit@{k}": float(any(hits)),
            }
            for name, value in row.items():
                result.setdefault(name, []).append(value)
    return sorted(relevant), result


@settings(max_examples=60, deadline=None)
@given(
    n_users=st.integers(1, 12),
    n_items=st.integers(1, 150),
    fill=st.floats(0, 1),
    block_size=st.integers(1, 13),
    topk=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
    seed=st.integers(0, 2**31),
)
def test_equals_the_definition(n_users, n_items, fill, block_size, topk, seed):
    n_cells = n_users * n_items
    n_positives = 1 + int(fill * min(n_cells - 1, 30))
    n_train = int((1 - fill) * (n_cells - n_positives))
    problem = random_problem(n_users, n_items, n_train, n_positives, seed)
    expected_users, expected = plain_ranking(*problem, topk)
    ranking = full_ranking(*problem, topk=topk, block_size=block_size)
    assert ranking.users.tolist() == expected_users
    assert ranking.per_user.keys() == expected.keys() == ranking.metrics.keys()
    for name, values in expected.items():
        assert ranking.per_user[name].tolist() == pytest.approx(values, abs=1e-12), name
        assert ranking.metrics[name] == pytest.approx(sum(values) / len(values), abs=1e-12)


def test_a_user_computed_by_hand():
    ranked = torch.tensor([[7, 2, 9, 4]])
    metrics = ranking_metrics(ranked, torch.tensor([0, 0, 0]), torch.tensor([2, 4, 5]), (2, 4))
    assert metrics["recall@2"].item() == pytest.approx(1 / 3)
    assert metrics["precision@4"].item() == pytest.approx(2 / 4)
    assert metrics["hit@2"].item() == 1
    assert metrics["map@4"].item() == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert metrics["map@2"].item() == pytest.approx((1 / 2) / 2)
    dcg, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert metrics["ndcg@4"].item() == pytest.approx(dcg / ideal)


def test_a_row_without_positives_has_no_recall():
    ranked = torch.tensor([[0, 1], [0, 1]])
    metrics = ranking_metrics(ranked, torch.tensor([0]), torch.tensor([1]), (2,))
    for name in ("recall@2", "ndcg@2", "map@2"):
        assert metrics[name][0] > 0
        assert metrics[name][1].isnan()


def test_the_block_size_changes_nothing():
    problem = random_problem(n_users=101, n_items=300, n_train=900, n_positives=400, seed=1)
    whole = full_ranking(*problem, topk=TOPK)
    assert 0 < whole.metrics["recall@10"] < 1
    for block_size in (1, 7, 100, 101, 5000):
        blocks = full_ranking(*problem, topk=TOPK, block_size=block_size)
        for name, values in whole.per_user.items():
            assert torch.equal(blocks.per_user[name], values), (block_size, name)


def test_the_order_of_pairs_and_repeated_pairs_change_nothing():
    users, items, train, positives = random_problem(40, 60, 300, 120, seed=2)
    whole = full_ranking(users, items, train, positives, topk=TOPK)
    shuffled = full_ranking(
        users,
        items,
        torch.cat([train, train], 1)[:, torch.randperm(600)],
        torch.cat([positives, positives], 1)[:, torch.randperm(240)],
        topk=TOPK,
    )
    assert shuffled.metrics == whole.metrics


@pytest.mark.parametrize(("n_items", "k"), [(40, 20), (90, 10), (91, 10), (1003, 10), (700, 1)])
def test_topk_agrees_with_a_sort(n_items, k):
    scores = torch.rand(50, n_items, generator=torch.Generator().manual_seed(n_items))
    nothing = torch.empty(0, dtype=torch.int64)
    expected = scores.argsort(dim=1, descending=True)[:, :k]
    assert torch.equal(masked_topk(scores, nothing, nothing, k), expected)


def test_topk_of_equal_scores_holds_distinct_items_of_the_right_scores():
    scores = torch.randint(4, (30, 500), generator=torch.Generator().manual_seed(0)).float()
    nothing = torch.empty(0, dtype=torch.int64)
    found = masked_topk(scores, nothing, nothing, 25)
    assert all(len(set(row)) == 25 for row in found.tolist())
    assert torch.equal(scores.gather(1, found), scores.sort(dim=1, descending=True).values[:, :25])


def test_masked_items_come_last_and_only_for_want_of_others():
    scores = torch.tensor([[5.0, 4.0, 3.0, -2.0], [1.0, 2.0, 3.0, 4.0]])
    found = masked_topk(scores, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3]), k=9)
    assert found[0, :2].tolist() == [2, 3]
    assert set(found[0, 2:].tolist()) == {0, 1}
    assert found[1].tolist() == [2, 1, 0, 3]
    assert scores[1, 3] == MASKED


def test_training_items_are_not_recommended_but_validation_items_are():
    users, items = torch.ones(1, 1), torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    train, test = torch.tensor([[0], [0]]), torch.tensor([[0], [2]])
    ranking = full_ranking(users, items, train, test, topk=(1, 2))
    assert ranking.metrics["recall@1"] == 0
    assert ranking.metrics["recall@2"] == 1


def test_k_above_the_number_of_items():
    problem = random_problem(n_users=6, n_items=4, n_train=6, n_positives=9, seed=3)
    metrics = full_ranking(*problem, topk=(4, 50)).metrics
    assert metrics["recall@50"] == metrics["recall@4"] == 1
    assert metrics["ndcg@50"] == metrics["ndcg@4"]
    assert metrics["precision@50"] == pytest.approx(metrics["precision@4"] * 4 / 50)


def test_float64_vectors_are_ranked_in_float64():
    items = 1 + torch.arange(8, dtype=torch.float64)[:, None] * 1e-12
    none = torch.empty(2, 0, dtype=torch.int64)
    ranking = full_ranking(
        torch.ones(1, 1).double(), items, none, torch.tensor([[0], [7]]), topk=(1,)
    )
    assert ranking.metrics["recall@1"] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_vectors_are_scored_in_float32(dtype):
    users, items, train, positives = random_problem(50, 400, 900, 6000, seed=4)
    users, items = users.to(dtype), items.to(dtype)
    low = full_ranking(users, items, train, positives, topk=TOPK)
    assert low.metrics == full_ranking(users.float(), items.float(), train, positives, TOPK).metrics


def test_autocast_does_not_lower_the_precision_of_scores():
    users, items, train, positives = random_problem(50, 400, 900, 6000, seed=5)
    users, items = users.float(), items.float()
    expected = full_ranking(users, items, train, positives, topk=TOPK).metrics
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (users @ items.T).dtype == torch.bfloat16
        assert full_ranking(users, items, train, positives, topk=TOPK).metrics == expected


def test_ranking_parameters_keeps_nothing_for_a_backward_pass():
    users, items, train, positives = random_problem(5, 9, 10, 8, seed=6)
    users.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        full_ranking(users, items, train, positives, topk=(3,))
        assert kept == []
        users @ items.T
        assert kept != []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": torch.empty(2, 0, dtype=torch.int64)}, "nothing to find"),
        ({"positives": torch.tensor([[0], [9]])}, "positives holds item ids from 9 to 9"),
        ({"train": torch.tensor([[5, 0], [0, 0]])}, "train holds user ids from 0 to 5"),
        ({"train": torch.tensor([[0], [-1]])}, "expected: ids from 0 to 8"),
        ({"item_vectors": torch.full((9, 5), math.nan).double()}, "9 of 9 item vectors hold NaN"),
        ({"user_vectors": torch.full((5, 5), math.inf).double()}, "the training diverged"),
        ({"topk": (0, 5)}, r"topk is \[0, 5\]"),
        ({"topk": ()}, r"topk is \[\]"),
    ],
)
def test_bad_input_is_refused_with_the_reason(change, message):
    users, items, train, positives = random_problem(5, 9, 10, 8, seed=7)
    arguments = {
        "user_vectors": users,
        "item_vectors": items,
        "train": train,
        "positives": positives,
        "topk": (3,),
    }
    full_ranking(**arguments)
    with pytest.raises(DataError, match=message):
        full_ranking(**(arguments | change))
