import pytest
import torch

from core.augment.transformations import (
    AxisRotations,
    ColourPermutations,
    Combinations,
    Rotations,
    TimeReversal,
    Transformations,
)
from core.data.checks import DataError

IMAGE, SERIES = (3, 4, 4), (6, 5)
GROUPS = [
    (Rotations(), IMAGE, 4),
    (Rotations((0, 2)), IMAGE, 2),
    (ColourPermutations(), IMAGE, 6),
    (Combinations(Rotations(), ColourPermutations()), IMAGE, 24),
    (TimeReversal(), SERIES, 2),
    (AxisRotations(), SERIES, 4),
    (Combinations(AxisRotations(0), TimeReversal()), SERIES, 8),
]


@pytest.mark.parametrize(("group", "shape", "count"), GROUPS)
def test_a_group_is_closed_and_begins_with_the_identity(
    group: Transformations, shape: tuple[int, ...], count: int
) -> None:
    x = torch.rand(2, *shape)
    copies = group(x)
    assert group.count == count
    assert copies.shape == (2, count, *shape)
    assert torch.equal(copies[:, 0], x)
    values = {row.numpy().tobytes() for row in copies[0]}
    assert len(values) == count
    for number in range(count):  # no transformation of a copy leads out of the copies
        again = group(copies[:, number])[0]
        assert {row.numpy().tobytes() for row in again} == values


def test_the_outer_group_changes_slowly() -> None:
    x = torch.rand(2, *IMAGE)
    outer, inner = Rotations(), ColourPermutations(((0, 1, 2), (1, 2, 0)))
    copies = Combinations(outer, inner)(x)
    torch.testing.assert_close(copies[:, 2], torch.rot90(x, 1, (2, 3)))
    torch.testing.assert_close(copies[:, 3], torch.rot90(x, 1, (2, 3))[:, [1, 2, 0]])


def test_a_sensor_turns_about_its_axis_and_keeps_its_length() -> None:
    x = torch.zeros(1, 6, 1)
    x[0, :, 0] = torch.tensor([1.0, 2, 3, 4, 5, 6])
    copies = AxisRotations(2)(x)[0, :, :, 0]
    assert copies[1].tolist() == [-2, 1, 3, -5, 4, 6]
    assert copies[2].tolist() == [-1, -2, 3, -4, -5, 6]
    assert AxisRotations(0)(x)[0, 1, :3, 0].tolist() == [1, -3, 2]


@pytest.mark.parametrize(
    ("group", "shape", "message"),
    [
        (Rotations(), (3, 4, 5), "square"),
        (Rotations(), (16,), "square"),
        (ColourPermutations(), (1, 4, 4), "no colours"),
        (AxisRotations(), (4, 9), "no axes"),
    ],
)
def test_samples_that_cannot_be_transformed(
    group: Transformations, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        group(torch.rand(2, *shape))
