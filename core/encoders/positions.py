"""Where a patch is: added to its token, turned into queries and keys, or a bias between two."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.attention import DistanceBias, Rotation


def grid_places(grid: tuple[int, ...], like: Tensor) -> Float[Tensor, "patches axes"]:
    """Indices of the patches of a grid along its axes, row by row.

    Args:
        grid: patches along each axis.
        like: gives the device, and the dtype if that is float32 or better.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    axes = [torch.arange(size, device=like.device, dtype=dtype) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


class Positions(nn.Module):
    """No positions; each of the classes below gives one of the three things that can be given.

    Places are (..., N, axes) indices of patches; those of class tokens and registers are NaN, which
    means nowhere: such tokens are neither turned nor biased.
    """

    def embedding(
        self, places: Float[Tensor, "patches axes"], grid: tuple[int, ...]
    ) -> Float[Tensor, "patches dim"] | None:
        """What is added to the tokens of a whole grid."""
        return None

    def rotation(
        self, places: Float[Tensor, "#batch tokens axes"], grid: tuple[int, ...]
    ) -> Rotation | None:
        """By what queries and keys are turned."""
        return None

    def bias(
        self,
        queries: Float[Tensor, "#batch queries axes"],
        keys: Float[Tensor, "#batch keys axes"],
    ) -> DistanceBias | None:
        """What is added to the logits of queries and keys."""
        return None


class SinCosPositions(Positions):
    """Fixed sines and cosines of the index along each axis, added to the tokens.

    Vaswani et al. 2017, section 3.5; in two dimensions as in MAE (He et al. 2022). The channels
    split evenly among the axes, the last axis (the column) first; within an axis all sines come
    before all cosines, of the index x 10000^(-k/K), k = 0 ... K - 1. Channels over stay 0.

    Args:
        dim: width of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def embedding(
        self, places: Float[Tensor, "patches axes"], grid: tuple[int, ...]
    ) -> Float[Tensor, "patches dim"]:
        """(N, dim), the same for any size of the grid.

        Raises:
            DataError: there are fewer than two channels an axis.
        """
        count = self.dim // (2 * places.shape[-1])
        if count == 0:
            raise DataError(
                f"{self.dim} channels for positions along {places.shape[-1]} axes",
                expected="at least a sine and a cosine for each axis",
            )
        steps = torch.arange(count, device=places.device, dtype=places.dtype)
        angles = places.flip(-1)[..., None] * 10000 ** (-steps / count)
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return F.pad(waves, (0, self.dim - waves.shape[-1]))


class LearnedPositions(Positions):
    """A learned vector for every patch of a grid, interpolated on grids of another size.

    Dosovitskiy et al. 2021, section 3.1 and 3.2: bicubic with antialiasing in two dimensions,
    linear in one, trilinear in three.

    Args:
        dim: width of the tokens.
        grid: patches along each axis in training.
    """

    def __init__(self, dim: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.table = nn.Embedding(math.prod(self.grid), dim)
        nn.init.trunc_normal_(self.table.weight, std=0.02)

    def embedding(
        self, places: Float[Tensor, "patches axes"], grid: tuple[int, ...]
    ) -> Float[Tensor, "patches dim"]:
        """(N, dim).

        Raises:
            DataError: the grid has another number of axes.
        """
        if len(grid) != len(self.grid):
            raise DataError(
                f"a grid of {grid} patches", expected=f"{len(self.grid)} axes, as in {self.grid}"
            )
        if grid == self.grid:
            return self.table.weight
        table = self.table.weight.T.unflatten(1, self.grid)[None]
        if len(grid) == 2:
            resized = F.interpolate(table, grid, mode="bicubic", antialias=True)
        else:
            resized = F.interpolate(table, grid, mode="linear" if len(grid) == 1 else "trilinear")
        return resized[0].flatten(1).T


class RotaryPositions(Positions):
    """Queries and keys are turned by the place along each axis, mapped to [-1, 1].

    Su et al. 2021 along each axis, as in DINOv3 (Siméoni et al. 2025): the centre (i + ½) / size of
    a patch is mapped to [-1, 1], the angles are 2π x / base^(k/K), k = 0 ... K - 1, and the
    K = head_dim / (2 axes) angles of each axis stand in turn.

    Args:
        head_dim: width of one head, a multiple of twice the number of axes.
        base: the slowest turn is nearly so many times as slow as the fastest.
    """

    def __init__(self, head_dim: int, base: float = 100.0) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.base = base

    def rotation(
        self, places: Float[Tensor, "#batch tokens axes"], grid: tuple[int, ...]
    ) -> Rotation:
        """(B or 1, N, head_dim) tables.

        Raises:
            DataError: the width of a head does not split into pairs for each axis.
        """
        if self.head_dim % (2 * len(grid)):
            raise DataError(
                f"heads of {self.head_dim} channels turned along {len(grid)} axes",
                expected=f"a multiple of {2 * len(grid)} channels",
            )
        sizes = torch.tensor(grid, dtype=places.dtype, device=places.device)
        centres = (2 * (places + 0.5) / sizes - 1).nan_to_num(0)
        count = self.head_dim // (2 * len(grid))
        steps = torch.arange(count, device=places.device, dtype=places.dtype)
        angles = 2 * math.pi * centres[..., None] / self.base ** (steps / count)
        both_halves = angles.flatten(-2).repeat(1, 1, 2)
        return Rotation(both_halves.cos(), both_halves.sin())


class ALiBiPositions(Positions):
    """A penalty of the logits that grows with the distance of two patches, steeper in some heads.

    CROMA (Fuller et al. 2023), 2D-ALiBi, and X-ALiBi where queries and keys are patches of two
    images: -m_h |p_i - p_j|, Euclidean, in patches; it holds for grids of any size. The slopes are
    those of ALiBi (Press et al. 2022): 2^(-8 (h + 1) / H) for H a power of two, otherwise those of
    the power of two below, then every other one of twice that power.

    Args:
        heads: number of heads H.

    Attributes:
        slopes: (H,) float32.
    """

    slopes: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        power = 1 << (heads.bit_length() - 1)
        exponents = [8 * (head + 1) / power for head in range(power)]
        exponents += [8 * (2 * head + 1) / (2 * power) for head in range(heads - power)]
        slopes = torch.tensor([2**-exponent for exponent in exponents])
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(
        self,
        queries: Float[Tensor, "#batch queries axes"],
        keys: Float[Tensor, "#batch keys axes"],
    ) -> DistanceBias:
        """Slopes and (B or 1, N, M) distances, not the bias of every head, see `attend`."""
        distances = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
        return DistanceBias(self.slopes.to(distances.dtype), distances.nan_to_num(0))
