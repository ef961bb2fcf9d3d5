import pytest
import torch

from core.augment.draws import Draws
from core.data.checks import DataError
from medical.systems.volume_views import block_mask, cut_out, draw_views, quarter_turns

CPU = torch.device("cpu")


def _draws(seed: int, n: int, own: slice | None = None) -> Draws:
    return Draws(seed, n, own or slice(0, n), CPU)


def test_each_cube_turns_by_its_own_number():
    cubes = torch.rand(4, 1, 3, 5, 5)
    turned = quarter_turns(cubes, torch.arange(4))
    for k in range(4):
        assert torch.equal(turned[k], cubes[k].rot90(k, (-2, -1)))
    with pytest.raises(DataError, match="slices of 4 by 5 voxels"):
        quarter_turns(torch.rand(1, 1, 5, 4, 5), torch.zeros(1).long())


def test_blocks_are_set_until_they_hold_the_share():
    side, generator = 20, torch.Generator().manual_seed(0)
    share = torch.tensor([0.0, 0.05, 0.15, 0.3]).repeat(25)
    mask = block_mask(torch.rand(100, 128, 6, generator=generator), share, side)
    covered = mask.flatten(1).float().mean(1)
    assert (covered[share == 0] == 0).all()
    # The last block may hold up to a quarter of each side; overlaps take from the others.
    assert (covered <= share + 0.25**3 + 1e-6).all()
    for of in (0.05, 0.15, 0.3):
        assert 0.7 * of < covered[share == of].mean() < of + 0.005


def test_one_block_is_a_box():
    uniform = torch.tensor([[[0.5, 0.0, 0.999, 0.0, 0.999, 0.999]]])
    mask = block_mask(uniform, torch.tensor([0.001]), 20)[0]
    inside = mask.nonzero()
    assert inside.min(0).values.tolist() == [9, 0, 18]
    assert inside.max(0).values.tolist() == [9, 4, 19]
    assert len(inside) == 1 * 5 * 2


def test_cut_outs_are_noise_or_what_another_cube_had_before():
    cubes = torch.full((3, 1, 16, 16, 16), 2.0) + 10 * torch.arange(3.0)[:, None, None, None, None]
    out = cut_out(cubes, _draws(1, 3))
    untouched = out == cubes
    assert 0.4 < untouched.float().mean() < 1
    of_others = torch.isin(out, cubes.unique()) & ~untouched
    is_noise = (out >= 0) & (out <= 1)
    assert (untouched | of_others | is_noise).all()
    assert is_noise.any()
    assert of_others.any()
    assert torch.equal(cubes.unique(), torch.tensor([2.0, 12.0, 22.0]))


def test_views_of_a_row_do_not_depend_on_who_else_is_in_the_batch_of_a_process():
    cubes = torch.rand(4, 1, 8, 8, 8)
    whole = draw_views(cubes, _draws(3, 4))
    half = draw_views(cubes[2:], _draws(3, 4, slice(2, 4)))
    assert torch.equal(whole["turns"][:, 2:], half["turns"])
    assert torch.equal(whole["uncut"][:, 2:], half["uncut"])
    assert whole["views"].shape == (2, 4, 1, 8, 8, 8)
    assert not torch.equal(whole["views"][0], whole["views"][1])
