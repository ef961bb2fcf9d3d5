import pytest
import torch

from core.augment.block_masks import BlockMasks
from core.augment.draws import Draws
from core.data.checks import DataError


def draws(rows: int = 16, own: slice | None = None, seed: int = 3) -> Draws:
    return Draws(seed, rows, own or slice(0, rows), torch.device("cpu"))


def test_half_of_the_crops_are_masked_by_blocks_up_to_their_ratio() -> None:
    masks = BlockMasks(ratios=(0.1, 0.5))(2, (14, 14), draws(64))
    count = masks.hidden.sum(-1).flatten()
    assert masks.hidden.shape == (2, 64, 196)
    assert (count > 0).sum() == 64
    ordered = count[count > 0].sort().values
    # One crop in each 64th of the range of ratios, as far as its blocks could fill it.
    wanted = 196 * (0.1 + 0.4 * torch.arange(1, 65) / 64)
    assert (ordered <= wanted).all()
    assert (ordered > wanted - 8).float().mean() > 0.9
    # Blocks: most hidden patches have a hidden neighbour, far more than scattered ones would.
    grid = masks.hidden.view(-1, 14, 14)
    pairs = (grid[:, 1:] & grid[:, :-1]).sum() / grid.sum()
    assert pairs > 0.6


def test_places_lead_to_the_masked_patches_in_a_number_that_shapes_decide() -> None:
    lengths = set()
    for seed in range(4):
        masks = BlockMasks()(2, (6, 8), draws(seed=seed))
        flat, n = masks.hidden.flatten(), int(masks.hidden.sum())
        assert flat[masks.places[:n]].all()
        assert not flat[masks.places[n:]].any()
        assert (masks.places[:n].diff() > 0).all()
        lengths.add(len(masks.places))
    assert len(lengths) == 1


def test_processes_share_the_masks_of_one() -> None:
    whole = BlockMasks()(2, (8, 8), draws())
    parts = [BlockMasks()(2, (8, 8), draws(own=slice(a, b))) for a, b in ((0, 5), (5, 16))]
    torch.testing.assert_close(torch.cat([part.hidden for part in parts], 1), whole.hidden)
    for part in parts:
        n = int(part.hidden.sum())
        assert n <= len(part.places)
        assert part.hidden.flatten()[part.places[:n]].all()


def test_nothing_is_masked_where_no_share_is() -> None:
    masks = BlockMasks(share=0.0)(2, (8, 8), draws())
    assert not masks.hidden.any()
    assert len(masks.places) == 0


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="ascending"):
        BlockMasks(ratios=(0.5, 0.1))
