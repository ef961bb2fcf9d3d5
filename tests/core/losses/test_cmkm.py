from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.losses import cmkm, info_nce


def _rows(seed: int, dim: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(7, dim, generator=g, dtype=torch.float64)


def _by_definition(
    a: Tensor,
    b: Tensor,
    known_a: Tensor,
    known_b: Tensor,
    top: int,
    weight: float,
    ids: Sequence[int] = range(7),
) -> Tensor:
    """Anchor by anchor; the neighbours of an anchor in the other modality are its positives too."""
    terms = []
    for own, other, known in ((a, b, known_b), (b, a, known_a)):
        own, other, known = (normalize(x, dim=1) for x in (own, other, known))
        for i in range(len(own)):
            others = [j for j in range(len(own)) if ids[j] != ids[i]]
            others.sort(key=lambda j, i=i, known=known: float(known[i] @ known[j]), reverse=True)
            positives = [i, *others[:top]]
            total = sum((own[i] @ row / 0.1).exp() for row in other[[i, *others]])
            total += weight * sum((own[i] @ own[n]).exp() for n in others[top:])
            shares = [(own[i] @ other[p] / 0.1).exp() / total for p in positives]
            terms.append(-torch.stack(shares).log().mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize(("top", "weight"), [(1, 1.0), (3, 0.5), (0, 1.0), (1, 0.0), (6, 1.0)])
def test_by_definition(top: int, weight: float) -> None:
    a, b, known_a, known_b = _rows(0), _rows(1), _rows(2, 3), _rows(3, 4)
    loss = cmkm(a, b, known_a, known_b, top=top, intra_weight=weight)
    torch.testing.assert_close(loss, _by_definition(a, b, known_a, known_b, top, weight))


def test_without_what_it_adds_it_is_info_nce() -> None:
    a, b = _rows(0), _rows(1)
    plain = cmkm(a, b, _rows(2), _rows(3), top=0, intra_weight=0.0)
    torch.testing.assert_close(plain, info_nce(a, b, 0.1))
    # Neighbours do not matter for what is no positive and no intra-modal negative.
    torch.testing.assert_close(cmkm(a, b, b, a, top=0), cmkm(a, b, a, b, top=0))


def test_neighbours_in_one_modality_pull_in_the_other() -> None:
    """Twins by the second encoder: anchors of the first draw nearer to each other's partners."""
    a, b = _rows(0).requires_grad_(), _rows(1)
    known_b = torch.eye(7, dtype=torch.float64)
    known_b[1] = known_b[0] + 0.1 * known_b[1]  # 0 and 1 are nearest to each other
    with_twin = torch.autograd.grad(cmkm(a, b, _rows(2), known_b), a)[0]
    alone = torch.autograd.grad(cmkm(a, b, _rows(2), known_b, top=0), a)[0]
    pulled = ((alone - with_twin)[0] * normalize(b, dim=1)[1]).sum()
    assert pulled > 0


def test_no_gradient_reaches_the_frozen_features() -> None:
    known = _rows(2).requires_grad_()
    a = _rows(0).requires_grad_()
    cmkm(a, _rows(1), known, known).backward()
    assert known.grad is None
    assert a.grad.abs().max() > 0


def test_equal_ids_are_neither_mined_nor_negatives() -> None:
    a, b, known_a, known_b = _rows(0), _rows(1), _rows(2), _rows(3)
    known_a[1], known_b[1] = 2 * known_a[0] + 0.1, 2 * known_b[0] + 0.1  # nearest of all
    ids = [5, 5, 1, 2, 3, 4, 6]
    loss = cmkm(a, b, known_a, known_b, ids=torch.tensor(ids))
    torch.testing.assert_close(loss, _by_definition(a, b, known_a, known_b, 1, 1.0, ids))
    assert loss != cmkm(a, b, known_a, known_b)


def test_fewer_samples_than_neighbours_asked_for() -> None:
    a, b = _rows(0)[:2], _rows(1)[:2]
    torch.testing.assert_close(cmkm(a, b, a, b, top=5), cmkm(a, b, a, b, top=1))
