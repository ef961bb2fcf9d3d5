import itertools

import pytest
import torch
from torch import Tensor

from core.distributed import rank
from core.losses import info_nce, multilinear_scores, symile
from tests.core.gloo import run_gloo


def _modalities(count: int = 3, batch: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return list(torch.randn(count, batch, 4, generator=g, dtype=torch.float64))


def _product(rows: list[Tensor]) -> Tensor:
    return torch.stack(rows).prod(0).sum()


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("tile", [1, 2, 100])
def test_all_combinations_by_definition(count: int, tile: int) -> None:
    modalities = _modalities(count, 4)
    terms = []
    for anchor, x in enumerate(modalities):
        others = modalities[:anchor] + modalities[anchor + 1 :]
        for i in range(4):
            positive = 0.7 * _product([m[i] for m in modalities])
            combinations = itertools.product(range(4), repeat=count - 1)
            scores = [
                0.7 * _product([x[i], *(o[j] for o, j in zip(others, js, strict=True))])
                for js in combinations
            ]
            terms.append(torch.stack(scores).logsumexp(0) - positive)
    loss = symile(modalities, 0.7, negatives="all", tile=tile)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_two_modalities_are_info_nce() -> None:
    a, b = _modalities(2)
    expected = info_nce(a, b, 0.5)
    for negatives in ("n", "all"):
        loss = symile([a, b], 2.0, negatives=negatives, normalize=True)
        if negatives == "all":
            torch.testing.assert_close(loss, expected)
        assert torch.isfinite(loss)


def test_shuffles_are_fresh_and_a_generator_repeats_them() -> None:
    modalities = _modalities(3, 16)
    assert symile(modalities, 1.0) != symile(modalities, 1.0)
    values = {
        symile(modalities, 1.0, generator=torch.Generator().manual_seed(3)).item() for _ in "ab"
    }
    assert len(values) == 1


def test_a_shuffle_that_keeps_every_row_gives_the_products_of_other_rows() -> None:
    x, y, z = _modalities()
    loss = symile([x, y, z], 1.0, permutations=torch.arange(5).expand(3, 2, 5))
    terms = []
    for anchors, rest in ((x, y * z), (y, x * z), (z, x * y)):
        terms.append(torch.nn.functional.cross_entropy(anchors @ rest.T, torch.arange(5)))
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_invalid_rows_are_no_candidates() -> None:
    modalities = _modalities()
    valid = torch.tensor([True, False, True, True, True])
    kept = [x[valid] for x in modalities]
    torch.testing.assert_close(
        symile(modalities, 1.0, negatives="all", valid=valid), symile(kept, 1.0, negatives="all")
    )
    # The identity shuffles pair an invalid row with itself only.
    whole, part = (torch.arange(n).expand(3, 2, n) for n in (5, 4))
    torch.testing.assert_close(
        symile(modalities, 1.0, permutations=whole, valid=valid),
        symile(kept, 1.0, permutations=part),
    )


def _shuffled_on_a_rank() -> Tensor:
    rows = slice(0, 2) if rank() == 0 else slice(2, 5)
    generator = torch.Generator().manual_seed(0)
    return symile([x[rows] for x in _modalities()], 1.0, generator=generator)


def test_ranks_with_one_generator_state_equal_one_process() -> None:
    expected = symile(_modalities(), 1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.stack(run_gloo(2, _shuffled_on_a_rank)).mean(), expected)


def test_retrieval_scores() -> None:
    x, y, z = _modalities()
    scores = multilinear_scores(z, x, y)
    torch.testing.assert_close(scores[1, 3], _product([x[1], y[1], z[3]]))
