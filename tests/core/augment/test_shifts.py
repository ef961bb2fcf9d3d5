import pytest
import torch

from core.augment.draws import Draws
from core.augment.shifts import PaddedCrop, RandomRoll


def draws(n: int, own: slice | None = None) -> Draws:
    return Draws(0, n, own or slice(0, n), torch.device("cpu"))


def test_a_roll_is_one_of_nine_equally_often() -> None:
    image = torch.rand(1, 2, 5, 7)
    views = RandomRoll(1)(image.expand(900, 2, 5, 7), draws(900))
    rolled = [image[0].roll((y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    hits = torch.stack([(views == one).flatten(1).all(1) for one in rolled])
    assert (hits.sum(0) == 1).all()
    assert hits.sum(1).min() > 60


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    image = torch.rand(1, 3, 6, 6)
    padded = torch.nn.functional.pad(image, [2] * 4)
    windows = padded.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    for flip_p, known in ((0.0, windows), (1.0, windows.flip(3))):
        views = PaddedCrop(2, flip_p)(image.expand(500, 3, 6, 6), draws(500))
        hits = (views[:, None] == known).flatten(2).all(2)
        assert (hits.sum(1) == 1).all()
        assert hits.any(0).all()  # all 25 places


@pytest.mark.parametrize("view", [RandomRoll(2), PaddedCrop()])
def test_a_share_of_the_batch_is_seen_as_in_the_whole(view: RandomRoll | PaddedCrop) -> None:
    x = torch.rand(7, 3, 8, 8)
    part = slice(2, 5)
    assert torch.equal(view(x, draws(7))[part], view(x[part], draws(7, part)))
