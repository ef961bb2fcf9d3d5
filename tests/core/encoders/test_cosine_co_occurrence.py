import math
from fractions import Fraction

import pytest
import torch

from core.encoders import neighbours
from core.encoders.neighbours import co_occurrence, cosine_co_occurrence


@pytest.mark.parametrize("block", [1, 40, 1 << 24])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_is_the_cosine_of_the_rows_and_ties_go_to_the_smaller_id(
    monkeypatch: pytest.MonkeyPatch, block: int, k: int
) -> None:
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", block)
    n_rows, n_columns = 25, 12
    taken = torch.rand(n_rows, n_columns, generator=torch.Generator().manual_seed(0)) < 0.3
    taken[3] = False
    rows, columns = taken.nonzero(as_tuple=True)
    cosines, ids, found = cosine_co_occurrence(rows, columns, n_rows, n_columns, k)
    partners = [set(row.nonzero().flatten().tolist()) for row in taken]
    ties = 0
    for i, mine in enumerate(partners):
        square = {
            j: Fraction(len(mine & other) ** 2, len(mine) * len(other))
            for j, other in enumerate(partners)
            if j != i and mine & other
        }
        ties += len(square) - len(set(square.values()))
        expected = sorted(square, key=lambda j: (-square[j], j))[:k]
        padding = k - len(expected)
        assert found[i] == len(expected)
        assert ids[i].tolist() == expected + [-1] * padding
        roots = [math.sqrt(square[j]) for j in expected] + [0.0] * padding
        assert cosines[i].tolist() == pytest.approx(roots, rel=1e-14)
    assert found[3] == 0
    assert ties > 50


def test_a_popular_node_weighs_less_than_by_counts() -> None:
    # 0 and 1 share two columns of 1's eight; 0 and 2 share the only column of 2.
    rows = torch.tensor([0, 0, *[1] * 8, 2, 2])
    columns = torch.tensor([0, 1, *range(8), 1, 1])
    assert co_occurrence(rows, columns, 3, 8, 2)[1][0].tolist() == [1, 2]
    cosines, ids, found = cosine_co_occurrence(rows, columns, 3, 8, 2)
    assert ids[0].tolist() == [2, 1]
    assert cosines[0].tolist() == pytest.approx([1 / math.sqrt(2), 2 / math.sqrt(16)])
    assert found.tolist() == [2, 2, 2]


def test_equal_fractions_are_a_tie_however_they_are_written() -> None:
    # The cosines of 0 with 1 and with 2 are 3 / sqrt(18 n) and 1 / sqrt(2 n).
    partners = [range(6), [0, 1, 2, *range(10, 25)], [5, 30]]
    rows = torch.tensor([i for i, p in enumerate(partners) for _ in p])
    columns = torch.tensor([j for p in partners for j in p])
    cosines, ids, _ = cosine_co_occurrence(rows, columns, 3, 31, 2)
    assert ids[0].tolist() == [1, 2]
    assert cosines[0, 0] == cosines[0, 1]


def test_without_pairs() -> None:
    none = torch.empty(0, dtype=torch.int64)
    cosines, ids, found = cosine_co_occurrence(none, none, 3, 2, 2)
    assert cosines.tolist() == [[0, 0]] * 3
    assert ids.tolist() == [[-1, -1]] * 3
    assert found.tolist() == [0, 0, 0]
