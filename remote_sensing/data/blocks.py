"""Splits by blocks of ground, so that no test chip has a training chip for a neighbour."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from jaxtyping import Float64
from rasterio.crs import CRS
from rasterio.warp import transform

from core.data.checks import DataError
from core.data.samples import SPLITS

# Cylindrical, of equal areas, in metres: for several UTM zones, and for degrees.
_WORLD = "EPSG:6933"


def split_by_blocks(
    crs: Sequence[str],
    corners: Float64[np.ndarray, "n 4 2"],
    block: float,
    buffer: float | None,
    ratios: Sequence[float],
    seed: int,
) -> list[str]:
    """The split of each chip, `""` for those that lie too near to a block of another split.

    The ground is cut into squares, each of which goes to one split as a whole, drawn by its place
    and the seed: a chip's split depends on no other chip.

    Args:
        crs: of each chip.
        corners: of each chip, in its own CRS.
        block: side of a square in metres.
        buffer: metres around a chip that must lie in squares of the chip's own split; None is the
            side of the largest chip.
        ratios: shares of train, valid, test.
        seed: of the draw.

    Raises:
        DataError: the ratios are not three shares of 1, or a block is smaller than a chip with
            its buffer.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise DataError(f"data.ratios={list(ratios)}", expected="three shares with the sum 1")
    in_metres = len(set(crs)) == 1 and not CRS.from_user_input(crs[0]).is_geographic
    places = corners if in_metres else _of_world(crs, corners)
    margin = float(np.ptp(places, axis=1).max()) if buffer is None else buffer
    low, high = places.min(1) - margin, places.max(1) + margin
    widest = float((high - low).max())
    if block < widest:
        raise DataError(
            f"data.block={block:g} m, but a chip and its margin measure {widest:g} m",
            expected="blocks of several chips",
        )
    inside = 1e-6 * block  # a chip that ends where its block ends does not lie in the next
    first = np.floor((low + inside) / block).astype(np.int64)
    last = np.floor((high - inside) / block).astype(np.int64)
    drawn: dict[tuple[int, int], str] = {}
    splits = []
    for a, b in zip(first, last, strict=True):
        squares = {(x, y) for x in {a[0], b[0]} for y in {a[1], b[1]}}
        own = set()
        for square in squares:
            if square not in drawn:
                drawn[square] = _draw(square, ratios, seed)
            own.add(drawn[square])
        splits.append(own.pop() if len(own) == 1 else "")
    return splits


def _draw(square: tuple[int, int], ratios: Sequence[float], seed: int) -> str:
    digest = sha256(f"{seed} {square[0]} {square[1]}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    number = int(np.searchsorted(np.cumsum(ratios)[:-1], share, side="right"))
    return SPLITS[number]


def _of_world(
    crs: Sequence[str], corners: Float64[np.ndarray, "n 4 2"]
) -> Float64[np.ndarray, "n 4 2"]:
    found, names = np.empty_like(corners), np.asarray(crs)
    for name in np.unique(names):
        own = corners[names == name]
        x, y = transform(name, _WORLD, own[..., 0].ravel(), own[..., 1].ravel())
        found[names == name] = np.stack([x, y], -1).reshape(own.shape)
    return found
