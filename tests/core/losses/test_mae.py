import pytest
import torch

from core.losses import mae, patchify, random_masking


def test_only_removed_patches_count() -> None:
    prediction, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    removed = mask.bool()
    expected = (prediction - target)[removed].square().mean()
    torch.testing.assert_close(mae(prediction, target, mask, normalize_target=False), expected)
    standard = (target - target.mean(-1, True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(
        mae(prediction, target, mask.float()), (prediction - standard)[removed].square().mean()
    )
    assert mae(prediction, target, torch.zeros(2, 3)).item() == 0


def test_patches_lie_in_reading_order() -> None:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    image = torch.stack([rows, columns])[None].float()
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 1].view(4, 2).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert patches[0, 3].view(4, 2)[0].tolist() == [2, 0]
    with pytest.raises(ValueError, match="4 x 6 has no whole patches of 4 x 4"):
        patchify(image, 4)


def test_masking_keeps_the_smallest_noise() -> None:
    noise = torch.rand(3, 8)
    kept, mask, restore = random_masking(noise, 0.75)
    assert kept.shape == (3, 2)
    assert (mask.sum(1) == 6).all()
    assert (mask.gather(1, kept) == 0).all()
    assert (noise.gather(1, kept).amax(1) < noise.where(mask.bool(), 2).amin(1)).all()
    ordered = noise.sort(1).values
    assert torch.equal(ordered.gather(1, restore), noise)
