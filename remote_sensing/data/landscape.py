"""Land as two satellites see it: parcels, forest, water and towns through the seasons.

Reflectance is that of green plants over soil, in a share that follows the season; backscatter
follows the class, the season and the moisture of the soil. Values are plausible, not measured.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import gaussian_filter

CLASSES = (
    *("water", "broadleaf forest", "conifer forest"),
    *("winter cereal", "maize", "meadow", "town"),
)
WATER, BROADLEAF, CONIFER, CEREAL, MAIZE, MEADOW, TOWN = range(1, 8)
SEASONS = ("winter", "spring", "summer", "autumn")
OPTICAL_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A"),
    *("B09", "B11", "B12"),
)
RADAR_BANDS = ("VV", "VH")
# Reflectance of the bands above.
_GREEN = np.array([0.03, 0.03, 0.05, 0.03, 0.08, 0.25, 0.32, 0.35, 0.36, 0.36, 0.17, 0.08])
_SOIL = np.array([0.08, 0.09, 0.11, 0.14, 0.16, 0.18, 0.19, 0.21, 0.22, 0.23, 0.29, 0.25])
_WATER = np.array([0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.012, 0.01, 0.01, 0.008, 0.005, 0.003])
_ROOFS = np.array([0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.18, 0.19, 0.19, 0.21, 0.20])
_HAZE = np.array([1.0, 0.8, 0.55, 0.4, 0.35, 0.3, 0.28, 0.25, 0.22, 0.2, 0.08, 0.05])
_CLOUD = np.array([0.6, 0.62, 0.6, 0.6, 0.62, 0.63, 0.63, 0.63, 0.63, 0.5, 0.42, 0.33])
# Share of green by season, and what light the canopy swallows.
_GREENNESS = {
    BROADLEAF: (0.25, 0.60, 0.95, 0.60),
    CONIFER: (0.85, 0.88, 0.90, 0.87),
    CEREAL: (0.35, 0.90, 0.30, 0.10),
    MAIZE: (0.05, 0.10, 0.90, 0.30),
    MEADOW: (0.50, 0.85, 0.75, 0.70),
}
_BRIGHTNESS = {BROADLEAF: 0.85, CONIFER: 0.55, CEREAL: 1.0, MAIZE: 1.05, MEADOW: 1.0}
# Backscatter in dB, VV and VH: of bare soil or stems, and what full growth adds.
_BARE = {
    WATER: (-20.0, -28.0),
    BROADLEAF: (-9.5, -15.5),
    CONIFER: (-9.0, -14.5),
    CEREAL: (-11.0, -20.0),
    MAIZE: (-10.5, -20.5),
    MEADOW: (-12.5, -20.5),
    TOWN: (-5.0, -12.0),
}
_GROWN = {
    BROADLEAF: (0.3, 1.0),
    CONIFER: (0.0, 0.2),
    CEREAL: (-4.0, 1.5),
    MAIZE: (1.5, 5.5),
    MEADOW: (0.5, 1.5),
}
_LOOKS = 4.4  # of a ground range detected product


@dataclass(frozen=True)
class Land:
    """One place, of square pixels of 10 m.

    Attributes:
        cover: (side, side) classes from 1.
        vigour: (side, side) how well plants grow, about 1.
        texture: (side, side) buildings and trees, standard normal.
        slope: (side, side) how much light the ground gets, about 1.
    """

    cover: UInt8[np.ndarray, "side side"]
    vigour: Float[np.ndarray, "side side"]
    texture: Float[np.ndarray, "side side"]
    slope: Float[np.ndarray, "side side"]


def smooth(side: int, width: float, rng: np.random.Generator) -> Float[np.ndarray, "side side"]:
    """A random field of mean 0 and deviation 1 whose hills are about `width` pixels wide."""
    field = gaussian_filter(rng.standard_normal((side, side)), width, mode="wrap")
    return (field - field.mean()) / field.std()


def make_land(side: int, rng: np.random.Generator) -> Land:
    """Parcels of three crops, woods, a lake or a river, and a town; each place in its own mix."""
    parcel, crop_of_parcel = _parcels(side, rng)
    cover = crop_of_parcel[parcel]
    kind = smooth(side, side / 8, rng) > rng.normal(0, 0.7)
    wood = smooth(side, side / 10, rng) > rng.normal(0.5, 0.7)
    cover = np.where(wood, np.where(kind, BROADLEAF, CONIFER), cover)
    if rng.random() < 0.5:
        cover = np.where(smooth(side, side / 7, rng) > rng.normal(1.1, 0.5), TOWN, cover)
    if rng.random() < 0.6:
        cover = np.where(_water(side, rng), WATER, cover)
    growth = 1 + 0.12 * rng.standard_normal(len(crop_of_parcel))[parcel]
    return Land(
        cover.astype(np.uint8),
        growth + 0.06 * smooth(side, 3, rng),
        smooth(side, 0.6, rng),
        1 + 0.06 * smooth(side, side / 6, rng),
    )


def _parcels(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Number of the parcel of each pixel, and the crop of each parcel."""
    angle, long, wide = rng.uniform(0, np.pi), rng.uniform(25, 45), rng.uniform(10, 20)
    rows, columns = np.mgrid[:side, :side]
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    strip = np.floor(across / wide).astype(int)
    shift = rng.uniform(0, long, 4096)[strip % 4096]
    number = np.floor((along + shift) / long).astype(int)
    _, parcel = np.unique(strip * 100_003 + number, return_inverse=True)
    parcel = parcel.reshape(side, side)
    crops = rng.choice([CEREAL, MAIZE, MEADOW], parcel.max() + 1, p=rng.dirichlet([1.5] * 3))
    return parcel, crops


def _water(side: int, rng: np.random.Generator) -> Bool[np.ndarray, "side side"]:
    if rng.random() < 0.5:
        return smooth(side, side / 8, rng) > rng.normal(1.2, 0.4)
    line = np.arange(side)
    bends = (
        rng.uniform(0.05, 0.2) * side * np.sin(line * rng.uniform(2, 7) / side + rng.uniform(0, 6))
    )
    middle = rng.uniform(0.25, 0.75) * side + bends
    river = np.abs(np.arange(side)[:, None] - middle) < rng.uniform(2, 6)
    return river if rng.random() < 0.5 else river.T


def reflectance(
    land: Land, season: int, rng: np.random.Generator
) -> Float[np.ndarray, "12 side side"]:
    """What an optical sensor sees of a place at one time, clouds included."""
    side = len(land.cover)
    green = np.zeros((side, side))
    light = np.ones((side, side))
    for code, shares in _GREENNESS.items():
        own = land.cover == code
        green[own] = (shares[season] + rng.normal(0, 0.04)) * land.vigour[own]
        light[own] = _BRIGHTNESS[code]
    woods = (land.cover == BROADLEAF) | (land.cover == CONIFER)
    light = light * np.where(woods, 1 + 0.12 * land.texture, 1)
    green = np.clip(green, 0, 1)
    soil = _SOIL * (1 - 0.25 * rng.random())  # wet soil is dark
    found = light * (green * _GREEN[:, None, None] + (1 - green) * soil[:, None, None])
    town = np.clip(1 + 0.45 * land.texture, 0.3, None) * _ROOFS[:, None, None]
    found = np.where(land.cover == TOWN, town, found)
    water = _WATER[:, None, None] * (1 + rng.uniform(0, 1))
    found = np.where(land.cover == WATER, water, found)
    sun = (0.75, 0.95, 1.0, 0.85)[season] * land.slope
    found = found * sun + rng.uniform(0, 0.04) * _HAZE[:, None, None]
    if rng.random() < 0.3:
        found = _clouded(found, rng)
    return found * (1 + 0.02 * rng.standard_normal(found.shape))


def _clouded(
    found: Float[np.ndarray, "12 side side"], rng: np.random.Generator
) -> Float[np.ndarray, "12 side side"]:
    side = found.shape[1]
    thick = np.clip(smooth(side, side / 12, rng) - rng.uniform(1.0, 2.2), 0, 1)
    shadow = np.roll(thick, (side // 10, side // 14), (0, 1))
    return (1 - thick) * found * (1 - 0.5 * shadow) + thick * _CLOUD[:, None, None]


def backscatter(
    land: Land, season: int, rng: np.random.Generator
) -> Float[np.ndarray, "2 side side"]:
    """What a radar of C band sees of a place at one time, VV and VH in dB, with speckle."""
    side = len(land.cover)
    found = np.zeros((2, side, side))
    moisture = 1.2 * rng.standard_normal()
    for code, bare in _BARE.items():
        own = land.cover == code
        shares = _GREENNESS.get(code, (0.0,) * 4)
        grown = np.array(_GROWN.get(code, (0.0, 0.0)))
        level = np.array(bare)[:, None] + grown[:, None] * shares[season] * land.vigour[own]
        if code == TOWN:
            level = level + 3.5 * land.texture[own]  # corners of buildings
        elif code == WATER:
            level = level + 2 * rng.standard_normal()  # wind
        elif code in (CEREAL, MAIZE, MEADOW):
            level = level + moisture
        found[:, own] = level
    speckle = rng.gamma(_LOOKS, 1 / _LOOKS, found.shape)
    return found + 10 * np.log10(speckle)
