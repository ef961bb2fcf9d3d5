import torch

from core.losses import distinct, info_nce

IDS = torch.tensor([4, 2, 4, 0, 2, 4, 6])


def test_every_id_counts_once():
    rows, valid = distinct(IDS, 7)
    assert valid is None
    assert rows.tolist() == [4, 2, 0, 6]


def test_a_mask_stands_for_leaving_out():
    """What an accelerator does instead gives the same loss."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    first = torch.tensor([True, True, False, True, False, False, True])
    rows, _ = distinct(IDS, 7)
    left_out = info_nce(a[rows], b[rows], 0.5, symmetric=False)
    masked = info_nce(a[IDS], b[IDS], 0.5, valid=first, symmetric=False)
    torch.testing.assert_close(masked, left_out)
