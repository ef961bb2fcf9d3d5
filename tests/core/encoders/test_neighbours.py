import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.encoders import neighbours
from core.encoders.neighbours import NeighbourGraph, co_occurrence, nearest, nearest_by_cosine


def _normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("m", [7, 60, 1000, 1013])  # few, and many that do not fill the groups
@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("block_rows", [None, 1, 4, 100])
def test_nearest_is_the_dense_top_k(m: int, k: int, block_rows: int | None) -> None:
    queries, keys = _normal(9, 5), _normal(m, 5, seed=1)
    scores, ids = nearest(queries, keys, k, block_rows)
    expected = (queries @ keys.T).topk(k)
    torch.testing.assert_close(scores, expected.values)
    assert torch.equal(ids, expected.indices)


def test_nearest_finds_neighbours_that_share_a_group() -> None:
    # With 400 keys and k=4 a group has 10 keys, 40 apart: all four best lie in one of them.
    scores = torch.zeros(1, 400)
    scores[0, [7, 47, 87, 127]] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    values, ids = nearest(torch.ones(1, 1), scores.T, 4)
    assert ids.tolist() == [[7, 47, 87, 127]]
    assert values.tolist() == [[4.0, 3.0, 2.0, 1.0]]


def test_nearest_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    largest = neighbours._largest

    def watch(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        seen.append(scores.shape)
        return largest(scores, k)

    monkeypatch.setattr(neighbours, "_largest", watch)
    monkeypatch.setattr(neighbours, "_CPU_BLOCK", 300)
    nearest(_normal(20, 3), _normal(100, 3), 2)
    assert seen == [(3, 100)] * 6 + [(2, 100)]


@pytest.mark.parametrize("k", [0, 6])
def test_nearest_refuses_an_impossible_k(k: int) -> None:
    with pytest.raises(DataError, match=rf"{k} neighbours .* among 5 rows"):
        nearest(_normal(3, 2), _normal(5, 2), k)


def test_cosine_neighbours_hold_the_row_itself_and_ignore_lengths() -> None:
    features = _normal(50, 6)
    cosines, ids = nearest_by_cosine(features, 4, block_rows=7)
    unit = features / features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(cosines, (unit @ unit.T).topk(4).values)
    assert torch.equal(ids[:, 0], torch.arange(50))
    torch.testing.assert_close(cosines[:, 0], torch.ones(50))
    scaled, other = nearest_by_cosine(features * torch.linspace(0.1, 9, 50)[:, None], 4)
    assert torch.equal(other, ids)
    torch.testing.assert_close(scaled, cosines)


def test_a_row_of_zeros_has_cosine_zero() -> None:
    cosines, _ = nearest_by_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]), 3)
    assert cosines[0].tolist() == [0.0, 0.0, 0.0]
    assert cosines[1].tolist() == [1.0, 0.0, 0.0]


def _pairs(n_rows: int, n_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    taken = _normal(n_rows, n_columns) > 0.8
    taken[3] = False
    rows, columns = taken.nonzero(as_tuple=True)
    return rows, columns, taken.long()


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_co_occurrence_is_that_of_the_dense_product(
    monkeypatch: pytest.MonkeyPatch, block: int, k: int
) -> None:
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", block)
    n_rows, n_columns = 25, 12
    rows, columns, taken = _pairs(n_rows, n_columns)
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))
    counts, ids, found = co_occurrence(rows[shuffled], columns[shuffled], n_rows, n_columns, k)
    common = (taken @ taken.T).fill_diagonal_(0)
    assert (common > 1).any()
    for row in range(n_rows):
        order = sorted(range(n_rows), key=lambda i: (-int(common[row, i]), i))
        expected = [i for i in order if common[row, i]][:k]
        assert found[row] == len(expected)
        padding = k - len(expected)
        assert ids[row].tolist() == expected + [-1] * padding
        assert counts[row].tolist() == common[row, expected].tolist() + [0] * padding
    assert found[3] == 0


def test_large_counts_are_told_apart() -> None:
    # Rows share 14 to 40 columns: counts around and far above those that are told apart first.
    sizes = [40, 14, 15, 16, 17, 33, 17, 40]
    rows = torch.cat([torch.full((size,), row) for row, size in enumerate(sizes)])
    columns = torch.cat([torch.arange(size) for size in sizes])
    counts, ids, found = co_occurrence(rows, columns, 8, 40, 4)
    assert ids[0].tolist() == [7, 5, 4, 6]
    assert counts[0].tolist() == [40, 33, 17, 17]
    assert ids[1].tolist() == [0, 2, 3, 4]
    assert counts[1].tolist() == [14] * 4
    assert found.tolist() == [4] * 8


def test_a_pair_that_repeats_counts_once() -> None:
    rows, columns = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 0, 1])
    counts, ids, found = co_occurrence(rows, columns, 3, 2, 2)
    assert counts.tolist() == [[1, 0], [1, 0], [0, 0]]
    assert ids.tolist() == [[1, -1], [0, -1], [-1, -1]]
    assert found.tolist() == [1, 1, 0]


def test_co_occurrence_without_pairs() -> None:
    none = torch.empty(0, dtype=torch.int64)
    counts, ids, found = co_occurrence(none, none, 3, 2, 2)
    assert counts.tolist() == [[0, 0]] * 3
    assert ids.tolist() == [[-1, -1]] * 3
    assert found.tolist() == [0, 0, 0]


def _graph(n: int = 8, m: int | None = None, k: int = 3) -> NeighbourGraph:
    generator = torch.Generator().manual_seed(3)
    # Drawn with repeats, and from the first columns only: some columns have no incoming edge.
    ids = torch.randint((m or n) - 2, (n, k), generator=generator)
    return NeighbourGraph(ids, _normal(n, k, dtype=torch.float64), m)


@pytest.mark.parametrize("m", [None, 5, 20])
def test_product_and_gradient_are_those_of_the_dense_matrix(m: int | None) -> None:
    graph = _graph(m=m)
    dense = graph.to_dense()
    assert dense.shape == (8, m or 8)
    for row in range(8):
        expected = torch.zeros(m or 8, dtype=torch.float64)
        for i, weight in zip(graph.ids[row].tolist(), graph.weights[row], strict=True):
            expected[i] += weight
        torch.testing.assert_close(dense[row], expected)
    x = _normal(m or 8, 4, seed=4, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(graph @ x, dense @ x)
    (graph @ x).sin().sum().backward()
    torch.testing.assert_close(x.grad, dense.T @ (dense @ x.detach()).cos())
    assert (x.grad[-2:] == 0).all()
    assert torch.autograd.gradcheck(lambda y: graph @ (graph @ y if m is None else y), x)


def test_a_gradient_that_is_not_contiguous() -> None:
    graph, x, weight = _graph(), _normal(8, 4, dtype=torch.float64), _normal(4, 8).double()
    x.requires_grad_()
    ((graph @ x).T * weight).sum().backward()
    torch.testing.assert_close(x.grad, graph.to_dense().T @ weight.T)


def test_mixed_precision_multiplies_in_float32() -> None:
    graph, x = _graph(), _normal(8, 4).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = graph @ x
        low = graph @ x.detach().bfloat16()
    assert out.dtype == low.dtype == torch.float32
    assert torch.equal(out, graph @ x)
    out.sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("k", [1, 4])
def test_scores_may_lie_column_by_column(k: int) -> None:
    scores = _normal(1013, 9).T
    assert scores.stride() == (1, 9)
    values, columns = neighbours.largest_of_blocks(
        lambda rows: scores[rows], 9, 1013, k, scores.device, block_rows=5
    )
    expected = scores.contiguous().topk(k)
    assert torch.equal(values, expected.values)
    assert torch.equal(columns, expected.indices)
