import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_hit_rate,
    retrieval_reciprocal_rank,
)

from core.data.checks import DataError
from core.evaluation import retrieval as module
from core.evaluation.retrieval import retrieval, retrieval_both_ways, retrieval_of_scores

TOPK = (1, 3, 10)


def _problem(n=30, m=50, dim=4, n_ids=12, seed=0, levels=None):
    """Ids that repeat on both sides; with `levels`, coordinates so few that cosines tie."""
    generator = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(n + m, dim, generator=generator).double().split([n, m])
    if levels is not None:
        queries, gallery = ((x * levels).round() + 0.25 for x in (queries, gallery))
    query_ids = torch.randint(n_ids, (n,), generator=generator) * 3
    gallery_ids = torch.randint(n_ids, (m,), generator=generator) * 3
    return queries, gallery, query_ids, gallery_ids


def _by_hand(queries, gallery, query_ids, gallery_ids):
    """One query at a time: sorted by falling cosine, negatives before positives of one score."""
    unit = torch.nn.functional.normalize
    scores = (unit(queries) @ unit(gallery).T).round(decimals=12)
    result = {name: [] for name in (*(f"r@{k}" for k in TOPK), "mrr", "map", "rank")}
    for row, query_id in zip(scores.tolist(), query_ids.tolist(), strict=True):
        positive = [query_id == other for other in gallery_ids.tolist()]
        if not any(positive):
            continue
        order = sorted(range(len(row)), key=lambda j: (-row[j], positive[j]))
        ranks = [place + 1 for place, j in enumerate(order) if positive[j]]
        for k in TOPK:
            result[f"r@{k}"].append(float(ranks[0] <= k))
        result["mrr"].append(1 / ranks[0])
        result["map"].append(np.mean([(j + 1) / rank for j, rank in enumerate(ranks)]))
        result["rank"].append(ranks[0])
    return result


@pytest.mark.parametrize("few", [0, 2, 100])
@pytest.mark.parametrize("levels", [None, 0.5, 2])
@pytest.mark.parametrize("n_ids", [3, 12, 100])
def test_equals_the_definition(monkeypatch, n_ids, levels, few):
    monkeypatch.setattr(module, "_FEW_POSITIVES", few)
    problem = _problem(n_ids=n_ids, levels=levels)
    expected = _by_hand(*problem)
    for tile_scores in (1, 333, None):
        found = retrieval(*problem, TOPK, tile_scores=tile_scores)
        assert found.metrics.pop("median_rank") == np.median(expected["rank"])
        assert found.metrics.keys() == found.per_unit.keys() == expected.keys() - {"rank"}
        for name, values in found.per_unit.items():
            assert values.tolist() == pytest.approx(expected[name], abs=1e-12), name
            assert found.metrics[name] == pytest.approx(np.mean(expected[name]), abs=1e-12)
        evaluated = [i for i in problem[2].tolist() if i in problem[3].tolist()]
        assert found.unit_ids.tolist() == evaluated


def test_equals_torchmetrics():
    queries, gallery, query_ids, gallery_ids = _problem(n_ids=8)
    found = retrieval(queries, gallery, query_ids, gallery_ids, TOPK)
    unit = torch.nn.functional.normalize
    relevant = query_ids[:, None] == gallery_ids
    # There a positive counts only where its score is above 0.
    pairs = list(zip(unit(queries) @ unit(gallery).T + 2, relevant, strict=True))
    for name, metric in (
        ("map", retrieval_average_precision),
        ("mrr", retrieval_reciprocal_rank),
        *((f"r@{k}", lambda s, r, k=k: retrieval_hit_rate(s, r, top_k=k)) for k in TOPK),
    ):
        expected = [metric(scores, target).item() for scores, target in pairs]
        assert found.per_unit[name].tolist() == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("size", [0.0, 1.0])
@pytest.mark.parametrize("n", [40, 333])
def test_a_collapsed_embedding_finds_nothing(n, size):
    same = size * torch.randn(1, 48).expand(n, 48)
    found = retrieval(same, same.clone(), torch.arange(n), torch.arange(n))
    assert found.metrics["r@1"] == found.metrics["r@10"] == 0
    assert found.metrics["median_rank"] == n
    assert found.metrics["map"] == found.metrics["mrr"] == pytest.approx(1 / n)


def test_a_perfect_embedding_finds_everything_in_any_order():
    x = torch.randn(64, 16)
    ids = torch.randperm(64)
    order = torch.randperm(64)
    found = retrieval(x, 3 * x[order], ids, ids[order])
    assert set(found.metrics.values()) == {1.0}
    assert found.unit_ids.tolist() == ids.tolist()


def test_both_ways_are_the_two_directions():
    images, texts, image_ids, text_ids = _problem(n_ids=6)
    found = retrieval_both_ways(images, texts, image_ids, text_ids, ("image", "text"), TOPK)
    assert list(found) == ["image_to_text", "text_to_image"]
    there = retrieval(images, texts, image_ids, text_ids, TOPK)
    back = retrieval(texts, images, text_ids, image_ids, TOPK)
    assert found["image_to_text"].metrics == there.metrics
    assert found["text_to_image"].metrics == back.metrics
    assert there.metrics != back.metrics


def test_low_precision_is_ranked_in_float32():
    queries, gallery, *ids = _problem(dim=32)
    queries, gallery = queries.bfloat16(), gallery.bfloat16()
    expected = retrieval(queries.double(), gallery.double(), *ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = retrieval(queries, gallery, *ids)
    assert found.metrics == pytest.approx(expected.metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": (0, 1)}, "topk is"),
        ({"query_ids": torch.arange(30) + 1000}, "none of 30 query ids"),
        ({"query_ids": torch.arange(3)}, "30 query rows with 3 ids"),
        ({"gallery": torch.zeros(50, 5)}, "a gallery of width 5"),
        ({"gallery": torch.full((50, 4), torch.nan)}, "50 of 50 gallery rows hold NaN"),
    ],
)
def test_refuses(change, message):
    names = ("queries", "gallery", "query_ids", "gallery_ids")
    arguments = dict(zip(names, _problem(), strict=True)) | change
    with pytest.raises(DataError, match=message):
        retrieval(**arguments)


@pytest.mark.parametrize("levels", [None, 1])
def test_scores_of_any_scale_rank_as_cosines_do(levels):
    queries, gallery, *ids = _problem(levels=levels)
    unit = torch.nn.functional.normalize
    expected = retrieval(queries, gallery, *ids, TOPK)
    found = retrieval_of_scores(40 * unit(queries) @ unit(gallery).T, *ids, TOPK)
    assert found.metrics == pytest.approx(expected.metrics)
    assert (found.unit_ids == expected.unit_ids).all()


def test_what_is_no_candidate_is_not_found():
    ids = torch.arange(5)
    scores = torch.eye(5)
    assert retrieval_of_scores(scores, ids, ids).metrics["r@1"] == 1
    scores[2] = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf, -torch.inf])
    found = retrieval_of_scores(scores, ids, ids)
    assert found.metrics["r@1"] == pytest.approx(0.8)
    assert found.per_unit["mrr"][2] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("scores", "message"),
    [(torch.ones(2, 3), "scores of shape"), (torch.full((2, 2), torch.nan), "NaN scores")],
)
def test_refuses_scores(scores, message):
    with pytest.raises(DataError, match=message):
        retrieval_of_scores(scores, torch.arange(2), torch.arange(2))
