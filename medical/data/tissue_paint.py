"""Painted tissue: what generated patches and slides in haematoxylin and eosin look like."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

# Optical densities of the two stains in red, green and blue (Ruifrok and Johnston 2001).
_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])


@dataclass(frozen=True)
class Tissue:
    """A family of tissue.

    Attributes:
        name: as the class is called.
        spacing: least distance of two nuclei in micrometres.
        kept: share of the nuclei that a full packing would have.
        radius: of a nucleus in micrometres, as a circle of its area.
        elongation: long over short axis.
        disorder: deviation of the nuclei's direction from that of the fibres, in radians.
        clusters: how strongly nuclei gather, 0 to 1.
        gaps: share of the area that is lumen, with the nuclei around it.
        chromatin: how dark nuclei are.
        fibres: strength of the oriented pattern between them.
    """

    name: str
    spacing: float
    kept: float
    radius: float
    elongation: float
    disorder: float
    clusters: float
    gaps: float
    chromatin: float
    fibres: float


TISSUES = (
    Tissue("stroma", 10.0, 0.35, 2.6, 3.0, 0.2, 0.0, 0.0, 1.0, 0.9),
    Tissue("lymphocytes", 6.2, 0.9, 2.7, 1.1, 3.0, 0.3, 0.0, 1.5, 0.2),
    Tissue("glands", 6.5, 0.95, 3.0, 1.5, 3.0, 0.0, 0.3, 1.1, 0.3),
    Tissue("solid", 9.0, 0.9, 4.4, 1.2, 3.0, 0.0, 0.0, 0.75, 0.1),
    Tissue("spindle", 6.5, 0.8, 2.9, 2.8, 0.35, 0.0, 0.0, 1.05, 0.6),
    Tissue("nests", 7.0, 0.9, 3.3, 1.2, 3.0, 0.9, 0.0, 0.95, 0.5),
)
NAMES = [tissue.name for tissue in TISSUES]


@dataclass(frozen=True)
class Stain:
    """How one laboratory has stained the slides of a patient.

    Attributes:
        vectors: (2, 3) optical densities of haematoxylin and eosin.
        strengths: (2,) factors of their amounts.
        light: (3,) of the empty slide, 0 to 1.
    """

    vectors: Float[np.ndarray, "2 3"]
    strengths: Float[np.ndarray, " 2"]
    light: Float[np.ndarray, " 3"]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Stain":
        """A stain whose colours, amounts and light vary as between laboratories."""
        vectors = np.stack([_HAEMATOXYLIN, _EOSIN]) + rng.normal(0, 0.05, (2, 3))
        vectors = np.clip(vectors, 0.02, None)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(vectors, rng.uniform(0.75, 1.3, 2), rng.uniform(0.9, 0.98, 3))

    def rgb(
        self,
        haematoxylin: Float[np.ndarray, "height width"],
        eosin: Float[np.ndarray, "height width"],
        rng: np.random.Generator,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Pixels by the law of Beer and Lambert, with the noise of a camera."""
        amounts = np.stack([haematoxylin, eosin], -1).astype(np.float32) * self.strengths
        seen = self.light * np.exp(-amounts @ self.vectors)
        seen = seen + rng.normal(0, 0.012, seen.shape)
        return (255 * np.clip(seen, 0, 1) + 0.5).astype(np.uint8)


def paint(
    tissue: Tissue, height: int, width: int, mpp: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "height width"], Float[np.ndarray, "height width"]]:
    """Amounts of haematoxylin and eosin of a field of one tissue.

    Args:
        tissue: the family.
        height: in pixels.
        width: in pixels.
        mpp: micrometres a pixel.
        rng: of everything.
    """
    tissue = _varied(tissue, rng)
    direction = rng.uniform(0, np.pi)
    rows, columns = (np.arange(n, dtype=np.float32) * mpp for n in (height, width))
    bend = smooth_noise(height, width, 18 / mpp, rng)
    across = rows[:, None] * np.float32(np.cos(direction)) + columns * np.float32(np.sin(direction))
    waves = np.sin(2 * np.pi / 7 * across + 4 * bend)
    strength = tissue.fibres * np.clip(0.25 + 0.12 * bend, 0, None)
    grain = smooth_noise(height, width, 1.5 / mpp, rng)
    eosin = 0.55 + strength * waves + 0.08 * grain

    # A third more than the field, so that the edges are like the middle.
    margin = 15.0
    size = np.array([height, width]) * mpp + 2 * margin
    points = _packed(size, tissue.spacing, rng)
    points = points[rng.random(len(points)) < tissue.kept]
    lumen = None
    if tissue.gaps:
        points, lumen = _around_lumens(points, size, tissue, rng)
    if tissue.clusters:
        near = smooth_noise(*(int(side / 4) + 2 for side in size), 5.0, rng)
        here = near[tuple((points / 4).astype(int).T)]
        points = points[here > np.quantile(near, tissue.clusters * 0.5)]
    nuclei = _nuclei(points - margin, tissue, direction, height, width, mpp, rng)
    if lumen is not None:
        away = _ellipses(lumen[:, :2] - margin, lumen[:, 2], height, width, mpp)
        eosin = eosin * (1 - 0.92 * away)
        nuclei = nuclei * (1 - away)
    texture = 1 + 0.18 * smooth_noise(height, width, 0.8 / mpp, rng)
    haematoxylin = 0.06 + tissue.chromatin * nuclei * texture
    return haematoxylin, np.clip(eosin * (1 - 0.4 * nuclei), 0, None)


def _varied(tissue: Tissue, rng: np.random.Generator) -> Tissue:
    """The same family as it is in one place: sizes, distances and darkness differ."""
    factor = rng.lognormal(0, [0.1, 0.1, 0.12])
    return replace(
        tissue,
        spacing=tissue.spacing * factor[0],
        radius=tissue.radius * factor[1],
        chromatin=tissue.chromatin * factor[2],
    )


def smooth_noise(
    height: int, width: int, scale: float, rng: np.random.Generator
) -> Float[np.ndarray, "height width"]:
    """Noise of mean 0 and deviation 1 that varies over `scale` pixels."""
    # Wide kernels act on fewer pixels, which are then enlarged.
    shrink = max(1, int(scale / 3))
    small = rng.standard_normal((height // shrink + 3, width // shrink + 3)).astype(np.float32)
    filtered = gaussian_filter(small, max(0.5, scale / shrink))
    grown = zoom(filtered, shrink, order=1)[:height, :width] if shrink > 1 else filtered
    cut = grown[:height, :width]
    return (cut - filtered.mean()) / max(float(filtered.std()), 1e-6)


def _packed(
    size: Float[np.ndarray, " 2"], spacing: float, rng: np.random.Generator
) -> Float[np.ndarray, "n 2"]:
    """Poisson-disk points: no two nearer than the spacing, drawn in rounds until few fit."""
    kept = np.empty((0, 2))
    per_round = int(1.2 * size.prod() / spacing**2)
    for _ in range(4):
        drawn = rng.random((per_round, 2)) * size
        if len(kept):
            drawn = drawn[cKDTree(kept).query(drawn)[0] >= spacing]
        pairs = cKDTree(drawn).query_pairs(spacing, output_type="ndarray")
        # Of two that are too near, the one drawn later goes.
        later = np.zeros(len(drawn), dtype=bool)
        later[pairs.max(1) if len(pairs) else []] = True
        kept = np.concatenate([kept, drawn[~later]])
    return kept


def _around_lumens(
    points: Float[np.ndarray, "n 2"],
    size: Float[np.ndarray, " 2"],
    tissue: Tissue,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "lumens 3"]]:
    """Nuclei in two rows around holes, and the holes: their middle and radius."""
    middles = _packed(size, 34.0, rng)
    radii = rng.uniform(6, 11, len(middles)) * np.sqrt(tissue.gaps / 0.3)
    distance, nearest = cKDTree(middles).query(points)
    beyond = distance - radii[nearest]
    ring = (beyond > 1.5) & (beyond < 9.0)
    between = (beyond >= 9.0) & (rng.random(len(points)) < 0.12)
    return points[ring | between], np.column_stack([middles, radii])


def _nuclei(
    centres: Float[np.ndarray, "n 2"],
    tissue: Tissue,
    direction: float,
    height: int,
    width: int,
    mpp: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "height width"]:
    """How much of each pixel is nucleus, 0 to 1: soft ellipses, darker at their rim."""
    n = len(centres)
    radius = tissue.radius * rng.lognormal(0, 0.15, n)
    stretch = np.sqrt(1 + (tissue.elongation - 1) * rng.uniform(0.6, 1.3, n))
    # Fibres run at right angles to the direction in which their waves follow each other.
    angle = direction + np.pi / 2 + rng.normal(0, tissue.disorder, n)
    dark = rng.uniform(0.75, 1.15, n)
    return _ellipses(centres, radius, height, width, mpp, stretch, angle, dark)


def _ellipses(
    centres: Float[np.ndarray, "n 2"],
    radius: Float[np.ndarray, " n"],
    height: int,
    width: int,
    mpp: float,
    stretch: Float[np.ndarray, " n"] | None = None,
    angle: Float[np.ndarray, " n"] | None = None,
    dark: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "height width"]:
    """Filled ellipses with soft edges, the darkest where they overlap; `dark` ones have a rim."""
    canvas = np.zeros(height * width, dtype=np.float32)
    if not len(centres):
        return canvas.reshape(height, width)
    stretch = np.ones(len(radius)) if stretch is None else stretch
    angle = np.zeros(len(radius)) if angle is None else angle
    reach = int(np.ceil((radius * stretch).max() / mpp)) + 1
    offsets = np.arange(-reach, reach + 1)
    pixel = np.round(centres / mpp).astype(int)
    y, x = pixel[:, :1] + offsets, pixel[:, 1:] + offsets

    def each(values: np.ndarray) -> Float[np.ndarray, "n 1 1"]:
        return values.astype(np.float32)[:, None, None]

    dy = (y * mpp - centres[:, :1]).astype(np.float32)[:, :, None]
    dx = (x * mpp - centres[:, 1:]).astype(np.float32)[:, None, :]
    cos, sin = each(np.cos(angle)), each(np.sin(angle))
    along = (dy * cos + dx * sin) / each(radius * stretch)
    across = (dx * cos - dy * sin) / each(radius / stretch)
    away = along**2 + across**2
    edge = np.clip((1 - away) * each(radius) / (1.2 * mpp) + 0.5, 0, 1)
    amount = edge if dark is None else edge * each(dark) * (0.8 + 0.3 * np.minimum(away, 1) ** 2)
    inside = (
        (y >= 0)[:, :, None] & (y < height)[:, :, None] & (x >= 0)[:, None] & (x < width)[:, None]
    )
    inside &= amount > 0
    flat = (y[:, :, None] * width + x[:, None, :])[inside]
    np.maximum.at(canvas, flat, amount[inside])
    return canvas.reshape(height, width)
