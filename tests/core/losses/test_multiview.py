from itertools import permutations

import pytest
import torch
from torch import Tensor

from core.losses import average_view, dcl, mv_dhel, mv_info_nce, nt_xent, pairwise, poly_view


def _views(count: int = 4, batch: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(count, batch, 3, generator=g, dtype=torch.float64)


def test_order_of_the_views_does_not_matter() -> None:
    views = _views(3)
    for loss in (mv_info_nce, mv_dhel, poly_view, average_view):
        values = [loss(views[list(order)]) for order in permutations(range(3))]
        torch.testing.assert_close(torch.stack(values), values[0].expand(6))


@pytest.mark.parametrize("denominator", ["all", "cross_view"])
def test_mv_info_nce_by_definition(denominator: str) -> None:
    views = torch.nn.functional.normalize(_views(), dim=-1)
    powers = torch.einsum("lid,mjd->limj", views, views).div(0.5).exp()
    terms = []
    for i in range(5):
        above = sum(powers[n, i, m, i] for n in range(4) for m in range(4) if n != m)
        below = sum(
            powers[n, i, m, j]
            for n in range(4)
            for m in range(4)
            for j in range(5)
            if ((m, j) != (n, i) if denominator == "all" else m != n)
        )
        terms.append(below.log() - above.log())
    loss = mv_info_nce(views, 0.5, denominator=denominator)
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_two_views_of_poly_view_leave_only_other_samples_in() -> None:
    # Each direction is NT-Xent over two views: one positive, all rows of other samples.
    a, b = _views(2)
    torch.testing.assert_close(poly_view(torch.stack([a, b]), 0.5), nt_xent(a, b, 0.5))
    torch.testing.assert_close(pairwise(nt_xent, torch.stack([a, b])), nt_xent(a, b))


def test_a_missing_view_leaves_the_sample_with_the_others() -> None:
    views = _views()
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[2] = False
    for loss in (mv_info_nce, mv_dhel):
        without = loss(views[[0, 1, 3]])
        torch.testing.assert_close(loss(views, valid=valid), without)
        holes = views.masked_fill(~valid[..., None], torch.nan).requires_grad_()
        loss(holes, valid=valid).backward()
        assert torch.isfinite(holes.grad).all()
        # A sample with one view has no pair, but is still a negative of the others.
        lonely = torch.ones_like(valid)
        lonely[1:, 0] = False
        assert torch.isfinite(loss(views, valid=lonely))
        assert loss(views, valid=lonely) != loss(views[:, 1:])


def test_dhel_looks_within_a_view_and_dcl_across() -> None:
    a, b = _views(2)
    moved = torch.cat([b[:1], b[1:] + 1])
    change = mv_dhel(torch.stack([a, moved])) - mv_dhel(torch.stack([a, b]))
    assert change.abs() > 1e-3
    assert dcl(a, b) != mv_dhel(torch.stack([a, b]), 0.1)


def test_one_sample_has_no_negatives() -> None:
    views = _views(3, 1).requires_grad_()
    for loss in (mv_info_nce, mv_dhel, poly_view):
        loss(views).backward()
        assert torch.isfinite(views.grad).all()
