"""Views of cubes for self-supervision: quarter turns and cut-outs, batched on the device.

As in the pre-training of MONAI's SwinUNETR (Tang et al. 2022), which VELVET-Med takes over.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core.augment.draws import Draws
from core.data.checks import DataError

MAX_SHARE = 0.3  # of the voxels that a round of cut-outs may replace
_SIDES = 0.05, 0.25  # of a block, as shares of the axis
_BLOCKS = 128  # of which as many are used as the share asks for: 75 for the largest one, on average
# Noise of a few thousand voxels, the average block, scaled to its smallest and largest value.
_NOISE_MEAN, _NOISE_DEVIATION = 0.5, 0.15


def quarter_turns(
    cubes: Float[Tensor, "batch 1 x y z"], turns: Int64[Tensor, " batch"]
) -> Float[Tensor, "batch 1 x y z"]:
    """Each cube turned by so many times 90 degrees in the plane of its last two axes.

    Raises:
        DataError: these axes are not equally long.
    """
    if cubes.shape[-1] != cubes.shape[-2]:
        raise DataError(
            f"quarter turns of slices of {cubes.shape[-2]} by {cubes.shape[-1]} voxels",
            expected="two equal sides",
        )
    all_turns = torch.stack([cubes.rot90(k, (-2, -1)) for k in range(4)])
    return all_turns[turns, torch.arange(len(cubes), device=cubes.device)]


def block_mask(
    uniform: Float[Tensor, "batch blocks 6"], share: Float[Tensor, " batch"], side: int
) -> Bool[Tensor, "batch side side side"]:
    """True inside of blocks, which are set until they hold a share of the voxels.

    Blocks that overlap count twice, and the last one may go beyond the share.

    Args:
        uniform: numbers in [0, 1) that say where each block begins and how long its sides are.
        share: of the voxels of each cube.
        side: of the cubes.
    """
    shortest, longest = (max(1, int(part * side)) for part in _SIDES)
    begin = (uniform[..., :3] * (side - shortest)).long()
    length = shortest + (uniform[..., 3:] * (longest - shortest + 1)).long()
    end = (begin + length.clamp(max=longest)).clamp(max=side)
    size = (end - begin).prod(-1)
    used = size.cumsum(1) - size < share[:, None] * side**3
    place = torch.arange(side, device=uniform.device)
    inside = (place >= begin[..., None]) & (place < end[..., None])
    x, y, z = (inside & used[..., None, None]).float().unbind(2)
    # A voxel is in as many blocks as the sum over blocks of the products of its three axes.
    in_blocks = (x[..., :, None] * y[..., None, :]).flatten(2).mT @ z
    return (in_blocks > 0).unflatten(1, (side, side))


def cut_out(
    cubes: Float[Tensor, "batch 1 side side side"], draws: Draws
) -> Float[Tensor, "batch 1 side side side"]:
    """Blocks of each cube replaced by noise, then others by what another cube has there.

    The other cube is drawn from the rows of this process, and copied as it was before any cut-out.
    Once in as many draws as there are rows it is the cube itself: then the second round replaces
    nothing, but puts back what the first had taken there.
    """
    rows, side = len(cubes), cubes.shape[-1]
    noise = draws.normal(1, side, side, side)
    noise = (_NOISE_MEAN + _NOISE_DEVIATION * noise).clamp(0, 1)
    other = (draws.uniform(0, 1) * rows).long().clamp(max=max(rows - 1, 0))
    out = cubes
    for filling in (noise, cubes[other]):
        share = draws.uniform(0, MAX_SHARE)
        mask = block_mask(draws.uniform(0, 1, _BLOCKS, 6), share, side)[:, None]
        out = torch.where(mask, filling, out)
    return out


def draw_views(cubes: Float[Tensor, "batch 1 side side side"], draws: Draws) -> dict[str, Tensor]:
    """Two views of each cube, what they were before the cut-outs, and how they were turned.

    Returns:
        `views` and `uncut`, (2, B, 1, side, side, side), and `turns`, (2, B), 0 to 3.
    """
    turns = [(draws.uniform(0, 4)).long().clamp(max=3) for _ in range(2)]
    uncut = [quarter_turns(cubes, turn) for turn in turns]
    views = [cut_out(cube, draws) for cube in uncut]
    return {
        "views": torch.stack(views),
        "uncut": torch.stack(uncut),
        "turns": torch.stack(turns),
    }
