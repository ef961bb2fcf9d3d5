"""Reconstruction of masked patches."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.distributed import global_mean
from core.losses.precision import full_precision


@full_precision
def mae(
    prediction: Float[Tensor, "batch patches values"],
    target: Float[Tensor, "batch patches values"],
    mask: Float[Tensor, "batch patches"],
    *,
    normalize_target: bool = True,
) -> Float[Tensor, ""]:
    """Mean over the removed patches of the mean squared error within a patch.

    He et al. 2022, section 3.

    Args:
        prediction: (B, P, V) decoder outputs.
        target: (B, P, V) true patches, see `patchify`.
        mask: (B, P) 1 or True where the patch was removed.
        normalize_target: standardise every target patch with its unbiased variance (+ 1e-6).

    Returns:
        Scalar in float32 at least; 0 where nothing was removed.
    """
    if normalize_target:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    return global_mean((prediction - target).square().mean(-1), mask.bool())


def patchify(
    images: Float[Tensor, "batch channels height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Cuts images into patches, row by row; a patch is (y, x, channel), channel fastest.

    Raises:
        ValueError: height or width is no multiple of `patch`.
    """
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(
            f"an image of {height} x {width} has no whole patches of {patch} x {patch}"
        )
    grid = images.view(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def random_masking(
    noise: Float[Tensor, "batch patches"], ratio: float = 0.75
) -> tuple[Int[Tensor, "batch kept"], Float[Tensor, "batch patches"], Int[Tensor, "batch patches"]]:
    """Removes the patches of the largest noise, the same number in every image.

    Args:
        noise: (B, P) random numbers.
        ratio: share of patches to remove; int(P (1 - ratio)) are kept.

    Returns:
        The indices of the kept patches, the mask (1 = removed), and the indices that bring
        kept-then-removed patches back into their order.
    """
    patches = noise.shape[1]
    kept = int(patches * (1 - ratio))
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    return order[:, :kept], (restore >= kept).to(noise.dtype), restore
