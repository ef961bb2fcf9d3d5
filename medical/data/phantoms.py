"""Torsos in CT: an anatomy drawn for each patient, with lesions of known kind, site and size.

All lengths are mm, all positions in RAS+ (to the patient's right, front and head) about the middle
of the diaphragm; the intensities are those of the portal venous phase, in HU.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

CLASSES = ["background", "lungs", "liver", "spine", "kidneys", "aorta", "lesion"]
# Kind -> where it occurs.
SITES = {
    "nodule": (
        "right upper lobe",
        "right lower lobe",
        "left upper lobe",
        "left lower lobe",
    ),
    "effusion": ("right", "left"),
    "cyst": ("right lobe of the liver", "left lobe of the liver", "right kidney", "left kidney"),
    "metastasis": ("right lobe of the liver", "left lobe of the liver", "thoracic spine"),
    "hemangioma": ("right lobe of the liver",),
    "stone": ("right kidney", "left kidney"),
    "aneurysm": ("thoracic aorta", "abdominal aorta"),
}
_SIZES = {
    "nodule": (16, 36),
    "effusion": (28, 55),
    "cyst": (18, 38),
    "metastasis": (18, 34),
    "hemangioma": (22, 40),
    "stone": (12, 18),
    "aneurysm": (42, 62),
}
_AIR, _FAT, _SOFT, _LUNG, _BONE, _DISC = -1000, -100, 45, -840, 320, 90
_HU = {"nodule": 50, "effusion": 12, "cyst": 4, "hemangioma": 175, "stone": 800, "aneurysm": 185}
_METASTASIS = {"liver": 50, "spine": 40}  # both are seen in a soft tissue window

_VESSEL = 3.0  # radius of a vessel in the lungs

Space = Float[np.ndarray, "x y z"]
Points = Float[np.ndarray, " points"]
Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Lesion:
    """What is wrong with a patient.

    Attributes:
        kind: see `SITES`.
        site: see `SITES`.
        size: diameter in mm; of an effusion its depth; of an aneurysm that of the vessel.
        centre: in mm.
    """

    kind: str
    site: str
    size: float
    centre: tuple[float, float, float]


@dataclass(frozen=True)
class Anatomy:
    """A patient.

    Attributes:
        scale: of all lengths.
        fat: thickness under the skin.
        liver: HU of the liver.
        shift: how far the organs of the abdomen lie off their usual places.
        vessels: (n, 6) ends of the vessels in the lungs.
    """

    scale: float
    fat: float
    liver: float
    shift: tuple[float, float, float]
    vessels: Float[np.ndarray, "n 6"]


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient at random."""
    vessels = []
    for side in (1, -1):
        hilum = np.array([side * 40, -5, 60])
        for _ in range(14):
            away = rng.normal(0, 1, 3) * [0.5, 0.8, 1.0] + [side * 0.9, 0, 0]
            end = hilum + away / np.linalg.norm(away) * rng.uniform(40, 75)
            vessels.append([*hilum, *end])
    return Anatomy(
        scale=float(rng.uniform(0.92, 1.06)),
        fat=float(rng.uniform(8, 20)),
        liver=float(rng.uniform(95, 120)),
        shift=(float(rng.normal(0, 3)), float(rng.normal(0, 3)), float(rng.normal(0, 4))),
        vessels=np.array(vessels),
    )


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, n_lesions: int) -> list[Lesion]:
    """Lesions at random, no two of them at one site."""
    places = [(kind, site) for kind, sites in SITES.items() for site in sites]
    lesions: list[Lesion] = []
    for number in rng.permutation(len(places)):
        kind, site = places[number]
        if len(lesions) < n_lesions and site not in {lesion.site for lesion in lesions}:
            size = float(round(rng.uniform(*_SIZES[kind])))
            lesions.append(Lesion(kind, site, size, _centre(rng, anatomy, kind, site, size)))
    return lesions


def grown(lesion: Lesion, factor: float) -> Lesion:
    """The same lesion at a later time."""
    return Lesion(lesion.kind, lesion.site, float(round(lesion.size * factor)), lesion.centre)


def torso(
    anatomy: Anatomy, lesions: list[Lesion], x: Space, y: Space, z: Space
) -> tuple[Space, UInt8[np.ndarray, "x y z"]]:
    """HU, without noise, and classes of points in mm."""
    x, y, z = (axis / anatomy.scale for axis in (x, y, z))
    hu, labels = np.full(x.shape, _AIR, np.float32), np.zeros(x.shape, np.uint8)

    def put(where: Mask, value: float, name: str | None = None) -> None:
        hu[where] = value
        labels[where] = 0 if name is None else CLASSES.index(name)

    skin = (np.abs(x / 170) ** 2.4 + np.abs(y / 115) ** 2.4) ** (1 / 2.4)
    body = skin < 1
    put(body, _FAT)
    put(skin < 1 - anatomy.fat / 140, _SOFT)
    put((skin > 0.8) & (skin < 0.87) & ((z + 0.5 * y) % 30 < 9) & (z > -70), _BONE + 60)

    dome = 12 - (np.abs(x) / 28) ** 2 / 1.2 - ((y - 10) / 34) ** 2
    lungs = {s: _lung(x, y, z, s) & (z > dome) for s in (1, -1)}
    lung = lungs[1] | lungs[-1]
    put(lung, _LUNG, "lungs")
    hu[lung] = np.where(_near_vessel(anatomy.vessels, x[lung], y[lung], z[lung]), 60, _LUNG)
    put(_ellipsoid(x, y, z, (-22, 32, 40), (50, 42, 52)), 110)
    put((np.hypot(x, y + 2) < 9) & (z > 95), _AIR + 20)

    # What is not soft tissue by now keeps its place.
    inside = (skin < 0.8) & ~lung & (z < dome + 6)
    dx, dy, dz = anatomy.shift
    u, v, w = x - dx, y - dy, z - dz
    put(
        _ellipsoid(u, v, w, (62, 8, -58), (92, 78, 66)) & inside & (u > -55), anatomy.liver, "liver"
    )
    put(_ellipsoid(u, v, w, (-100, -28, -55), (32, 42, 52)) & inside, 118)
    put(_ellipsoid(u, v, w, (-62, 45, -70), (34, 28, 38)) & inside, 20)
    put(_ellipsoid(u, v, w, (-62, 58, -66), (22, 13, 28)) & inside, -950)
    for side in (1, -1):
        put(_ellipsoid(u, v, w, (side * 68, -52, -112), (27, 26, 46)), 165, "kidneys")

    behind = np.hypot(x, (y + 72) / 0.85)
    disc = z % 30 < 7
    put((behind < 23) & disc, _DISC)
    put((behind < 22) & ~disc, _BONE - 60, "spine")
    put((behind < 22) & (behind > 18) & ~disc, _BONE + 120, "spine")
    put((np.hypot(x / 1.2, y + 103) < 12) & ~disc, _BONE + 40, "spine")
    put(np.hypot(x, y + 93) < 6, 30)
    put(np.hypot(x + 14, y + 38) < 12, 180, "aorta")

    for lesion in lesions:
        at = _mask(lesion, anatomy, lungs, x, y, z)
        put(at & body, _intensity(lesion), "lesion")
    return hu, labels


def _intensity(lesion: Lesion) -> float:
    if lesion.kind == "metastasis":
        return _METASTASIS["spine" if "spine" in lesion.site else "liver"]
    return _HU[lesion.kind]


def _mask(
    lesion: Lesion, anatomy: Anatomy, lungs: dict[int, Mask], x: Space, y: Space, z: Space
) -> Mask:
    centre = np.array(lesion.centre) / anatomy.scale
    radius = lesion.size / 2 / anatomy.scale
    if lesion.kind == "effusion":
        side = 1 if lesion.site == "right" else -1
        return lungs[side] & (y < centre[1] + radius)
    if lesion.kind == "aneurysm":
        along = np.abs(z - centre[2]) / (1.6 * radius)
        return np.hypot(x - centre[0], y - centre[1]) < radius * np.sqrt(
            np.clip(1 - along**2, 0, 1)
        )
    return _ellipsoid(x, y, z, centre, (radius, radius, radius))


def _centre(
    rng: np.random.Generator, anatomy: Anatomy, kind: str, site: str, size: float
) -> tuple[float, float, float]:
    side = -1 if site.startswith("left") else 1
    usual = {
        "upper lobe": (side * 84, 15, 122),
        "lower lobe": (side * 84, -28, 45),
        "right lobe of the liver": (96, 0, -62),
        "left lobe of the liver": (2, 28, -48),
        "kidney": (side * 68, -52, -105),
        "thoracic spine": (0, -72, 78),
        "thoracic aorta": (-14, -38, 62),
        "abdominal aorta": (-14, -38, -105),
    }
    if kind == "effusion":
        # The lung reaches back to -70; the middle of its deepest part.
        middle = -70 + size / 2 / anatomy.scale
        place = np.array([side * 82, middle, 30])
    else:
        name = next(part for part in usual if site.endswith(part))
        fixed = "aorta" in name or "spine" in name
        place = usual[name] + rng.uniform(-1, 1, 3) * ((0, 0, 12) if fixed else (8, 8, 10))
        if "liver" in name or "kidney" in name:
            place = place + anatomy.shift
    x, y, z = (place * anatomy.scale).round(1).tolist()
    return x, y, z


def _lung(x: Space, y: Space, z: Space, side: int) -> Mask:
    wide = 56 if side == 1 else 52
    parts = (np.abs((x - side * 82) / wide), np.abs(y / 70), np.abs((z - 40) / 128))
    return parts[0] ** 2.6 + parts[1] ** 2.6 + parts[2] ** 2.6 < 1


def _ellipsoid(
    x: Space, y: Space, z: Space, centre: tuple[float, ...], radii: tuple[float, ...]
) -> Mask:
    axes = zip((x, y, z), centre, radii, strict=True)
    return sum(((axis - middle) / radius) ** 2 for axis, middle, radius in axes) < 1


def _near_vessel(
    vessels: Float[np.ndarray, "n 6"], x: Points, y: Points, z: Points
) -> Bool[np.ndarray, " points"]:
    near = np.zeros(x.shape, bool)
    for vessel in vessels.astype(np.float32):
        start, along = vessel[:3], vessel[3:] - vessel[:3]
        away = [axis - first for axis, first in zip((x, y, z), start, strict=True)]
        share = sum(a * b for a, b in zip(away, along, strict=True)) / (along @ along)
        share = np.clip(share, 0, 1)
        near |= sum((a - share * b) ** 2 for a, b in zip(away, along, strict=True)) < _VESSEL**2
    return near
