"""Where tissue lies on a slide, and the grid of patches on it."""

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from scipy.ndimage import binary_fill_holes, binary_opening, gaussian_filter

# Below this chroma, of 255, a slide without tissue would be divided by its noise.
_LEAST_CHROMA = 14.0


def tissue_mask(pixels: UInt8[np.ndarray, "height width 3"]) -> Bool[np.ndarray, "height width"]:
    """True where an overview of a slide shows stained tissue.

    Tissue is coloured and glass is not: the difference of the largest and the smallest of red,
    green and blue, smoothed, is divided by Otsu's threshold. Holes, such as lumens, belong to the
    tissue; specks of one or two pixels do not.

    Args:
        pixels: an overview, about 8 to 16 micrometres a pixel.
    """
    smooth = gaussian_filter(pixels.astype(np.float32), (1, 1, 0))
    chroma = smooth.max(2) - smooth.min(2)
    coloured = chroma > max(_otsu(chroma), _LEAST_CHROMA)
    return binary_fill_holes(binary_opening(coloured))


def _otsu(values: Float[np.ndarray, "height width"]) -> float:
    """The threshold between two groups of least variance within (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum(), counts.sum()
    sums = (counts * middles).cumsum()
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middles[np.nan_to_num(apart).argmax()])


def tissue_grid(
    mask: Bool[np.ndarray, "height width"],
    size: tuple[int, int],
    side: float,
    least: float,
) -> Int64[np.ndarray, "n 2"]:
    """Upper left corners, x and y at level 0, of the patches with enough tissue, row by row.

    Args:
        mask: of the whole slide, at any scale.
        size: width and height of the slide at level 0.
        side: of a patch in pixels of level 0; patches touch, and lie wholly inside of the slide.
        least: share of a patch that must be tissue.
    """
    width, height = size
    columns, rows = int(width / side), int(height / side)
    if columns == 0 or rows == 0:
        return np.empty((0, 2), np.int64)
    # Sums over boxes from the sums over all that lies above and left.
    sums = np.pad(mask.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    scale_y, scale_x = mask.shape[0] / height, mask.shape[1] / width
    y = np.round(np.arange(rows + 1) * side * scale_y).astype(int).clip(max=mask.shape[0])
    x = np.round(np.arange(columns + 1) * side * scale_x).astype(int).clip(max=mask.shape[1])
    inside = sums[y[1:]][:, x[1:]] - sums[y[:-1]][:, x[1:]]
    inside -= sums[y[1:]][:, x[:-1]] - sums[y[:-1]][:, x[:-1]]
    area = np.diff(y)[:, None] * np.diff(x)[None]
    row, column = np.nonzero(inside >= least * np.maximum(area, 1))
    return np.round(np.stack([column, row], 1) * side).astype(np.int64)
