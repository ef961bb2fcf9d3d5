import math

import numpy as np
import pytest
import torch
from torch import Tensor

from core.data.checks import DataError
from core.encoders.positions import (
    ALiBiPositions,
    LearnedPositions,
    Positions,
    RotaryPositions,
    SinCosPositions,
    grid_places,
)

LIKE = torch.zeros(1, dtype=torch.float64)


def _waves(index: np.ndarray, dim: int) -> np.ndarray:
    """MAE's table of one axis: sines of index x 10000^(-k / (dim / 2)), then cosines."""
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
    angles = np.einsum("n,k->nk", index, omega)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _sincos(grid: tuple[int, ...], dim: int) -> Tensor:
    return SinCosPositions(dim).embedding(grid_places(grid, LIKE), grid)


def test_places_are_counted_row_by_row() -> None:
    assert grid_places((2, 3), LIKE).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_places((2,), torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32


def test_sincos_of_an_image_is_that_of_mae() -> None:
    height, width, dim = 3, 5, 16
    rows, columns = np.divmod(np.arange(height * width), width)
    expected = np.concatenate([_waves(columns, dim // 2), _waves(rows, dim // 2)], axis=1)
    np.testing.assert_allclose(_sincos((height, width), dim), expected, rtol=0, atol=1e-12)


def test_sincos_of_a_volume_puts_the_last_axis_first_and_leaves_odd_channels() -> None:
    rows = grid_places((2, 3, 4), LIKE).numpy()
    expected = np.concatenate([_waves(rows[:, axis], 4) for axis in (2, 1, 0)], axis=1)
    table = _sincos((2, 3, 4), 15)
    np.testing.assert_allclose(table[:, :12], expected, rtol=0, atol=1e-12)
    assert (table[:, 12:] == 0).all()


def test_sincos_of_a_series_is_that_of_the_transformer() -> None:
    table = _sincos((6,), 4)
    for t in range(6):
        expected = [math.sin(t), math.sin(t / 100), math.cos(t), math.cos(t / 100)]
        assert table[t].tolist() == pytest.approx(expected)


def test_learned_positions_keep_their_table_and_are_resized_for_other_grids() -> None:
    from timm.layers import resample_abs_pos_embed

    torch.manual_seed(0)
    positions = LearnedPositions(6, (4, 4))
    table = positions.embedding(grid_places((4, 4), LIKE), (4, 4))
    assert table is positions.table.weight
    resized = positions.embedding(grid_places((7, 5), LIKE), (7, 5))
    expected = resample_abs_pos_embed(table[None], [7, 5], [4, 4], num_prefix_tokens=0)[0]
    torch.testing.assert_close(resized, expected)


def test_learned_positions_of_volumes_keep_a_constant() -> None:
    positions = LearnedPositions(3, (2, 4, 4))
    torch.nn.init.constant_(positions.table.weight, 0.5)
    resized = positions.embedding(grid_places((3, 5, 6), LIKE), (3, 5, 6))
    torch.testing.assert_close(resized, torch.full((90, 3), 0.5))


def test_learned_positions_refuse_another_number_of_axes() -> None:
    with pytest.raises(DataError, match="2 axes"):
        LearnedPositions(3, (4, 4)).embedding(grid_places((2, 2, 2), LIKE), (2, 2, 2))


@pytest.mark.parametrize("grid", [(9,), (4, 7), (2, 3, 4)])
def test_rotary_scores_depend_on_the_shift_alone_and_keep_lengths(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    positions = RotaryPositions(12)
    places = grid_places(grid, LIKE)[None]
    query = torch.randn(1, 1, 1, 12, dtype=torch.float64).expand(-1, -1, places.shape[1], -1)
    key = torch.randn(1, 1, 1, 12, dtype=torch.float64).expand_as(query)

    def scores(shift: float) -> Tensor:
        turn = positions.rotation(places + shift, grid)
        return turn.turn(query) @ turn.turn(key).mT

    torch.testing.assert_close(scores(0.0), scores(3.7))
    turned = positions.rotation(places, grid).turn(query)
    torch.testing.assert_close(turned.norm(dim=-1), query.norm(dim=-1))
    assert scores(0.0)[0, 0, 0].std() > 0.1


def test_rotary_angles_are_those_of_the_formula() -> None:
    # Head of 8 channels: two angles for the row, then two for the column, by 1 and by 100^(1/2).
    rotation = RotaryPositions(8, base=100.0).rotation(grid_places((2, 4), LIKE)[None], (2, 4))
    row, column = 2 * 1.5 / 2 - 1, 2 * 2.5 / 4 - 1
    angles = 2 * math.pi * torch.tensor([row, row / 10, column, column / 10] * 2)
    torch.testing.assert_close(rotation.cos[0, 4 + 2], angles.double().cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(rotation.sin[0, 4 + 2], angles.double().sin(), rtol=0, atol=1e-6)


def test_tokens_that_are_nowhere_are_not_turned() -> None:
    places = torch.full((1, 2, 2), torch.nan)
    rotation = RotaryPositions(8).rotation(places, (3, 3))
    x = torch.randn(1, 1, 2, 8)
    assert torch.equal(rotation.turn(x), x)


def test_rotary_needs_pairs_for_each_axis() -> None:
    with pytest.raises(DataError, match="multiple of 6"):
        RotaryPositions(8).rotation(grid_places((2, 2, 2), LIKE)[None], (2, 2, 2))


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
        (6, [2, 4, 6, 8, 1, 3]),
    ],
)
def test_alibi_slopes(heads: int, exponents: list[float]) -> None:
    expected = torch.tensor([2.0**-exponent for exponent in exponents])
    torch.testing.assert_close(ALiBiPositions(heads).slopes, expected)


def test_alibi_equals_an_explicit_loop_between_two_images() -> None:
    positions = ALiBiPositions(2)
    queries, keys = grid_places((3, 4), LIKE), grid_places((2, 2), LIKE)
    queries = queries[torch.tensor([[7, 2, 5], [0, 1, 11]])]
    bias = positions.bias(queries, keys.expand(2, -1, -1)).rows(0, 3)
    assert bias.shape == (2, 2, 3, 4)
    for b in range(2):
        for h, slope in enumerate([1 / 16, 1 / 256]):
            for i in range(3):
                for j in range(4):
                    distance = math.dist(queries[b, i].tolist(), keys[j].tolist())
                    assert bias[b, h, i, j].item() == pytest.approx(-slope * distance)


def test_alibi_leaves_tokens_that_are_nowhere_alone_and_moves_with_the_module() -> None:
    positions = ALiBiPositions(4)
    places = torch.cat([torch.full((1, 1, 2), torch.nan), grid_places((2, 2), LIKE)[None]], dim=1)
    bias = positions.bias(places, places).rows(0, 5)
    assert (bias[:, :, 0] == 0).all() and (bias[:, :, :, 0] == 0).all()
    assert (bias[:, :, 1, 2:] < 0).all()
    assert positions.to("meta").slopes.device.type == "meta"
    assert not positions.state_dict()


def test_no_positions_give_nothing() -> None:
    places = grid_places((2, 2), LIKE)[None]
    positions = Positions()
    assert positions.embedding(places[0], (2, 2)) is None
    assert positions.rotation(places, (2, 2)) is None
    assert positions.bias(places, places) is None
