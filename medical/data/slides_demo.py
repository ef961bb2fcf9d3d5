"""Generated slides: tiled pyramidal TIFF of tissue, some of which is what the slide is of."""

from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Bool, UInt8
from scipy.ndimage import gaussian_filter

from core.data.checks import DataError
from core.data.demo_folder import demo_folder
from medical.data.patches import TABLE
from medical.data.patches_demo import write_patch
from medical.data.tissue_paint import TISSUES, Stain, Tissue, paint, smooth_noise

SLIDES = "slides.csv"
_BACKGROUND = TISSUES[0]
_PER_PATIENT = 2
_TILE = 256


def write_slides(
    path: str | Path,
    train: int = 4,
    valid: int = 2,
    test: int = 4,
    n_classes: int = 4,
    regions: int = 30,
    purity: float = 0.2,
    width: int = 1280,
    height: int = 1024,
    mpp: float = 0.5,
    seed: int = 0,
) -> None:
    """Writes `*.tif`, `slides.csv` and `regions/CLASS/*.png`.

    A slide is of one class: in stroma lies some tissue of it, and some lymphocytes that say
    nothing. The regions are labelled patches of the training patients, of 64 pixels at a
    magnification of 10, and of stroma too. A patient has two slides, which share a stain.

    Args:
        path: the folder; an earlier demo in its place is replaced.
        train: slides of each class for training.
        valid: for validation.
        test: for the test.
        n_classes: 2 to 4.
        regions: labelled patches of each class.
        purity: share of a slide's tissue that is of its class.
        width: of a slide at full resolution, in pixels.
        height: likewise.
        mpp: micrometres a pixel at full resolution; 0.5 is a magnification of 20.
        seed: of everything.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable, or
            there are no such classes.
    """
    kinds = TISSUES[2:]
    if not 2 <= n_classes <= len(kinds):
        raise DataError(f"demo.n_classes={n_classes}", expected=f"2 to {len(kinds)}")
    rng = np.random.default_rng(seed)
    counts = {"train": train, "valid": valid, "test": test}
    names = [f"slide_{number:03d}.tif" for number in range(sum(counts.values()) * n_classes)]
    own = {SLIDES, "regions", *names}
    with demo_folder(Path(path), own, {"generator": "slides", "seed": seed}) as folder:
        lines = ["slide_id,patient_id,label,split"]
        stains: list[Stain] = []
        files = iter(names)
        for split, count in counts.items():
            for tissue in kinds[:n_classes]:
                for number in range(count):
                    if number % _PER_PATIENT == 0:
                        stains.append(Stain.draw(rng))
                    file, patient = next(files), f"p{len(stains) - 1:03d}"
                    pixels = paint_slide(tissue, stains[-1], purity, height, width, mpp, rng)
                    write_pyramid(folder / file, pixels, mpp)
                    lines.append(f"{Path(file).stem},{patient},{tissue.name},{split}")
            if split == "train":
                of_train = len(stains)
        (folder / SLIDES).write_text("\n".join(lines) + "\n")

        patients = ["file,patient_id"]
        for tissue in (_BACKGROUND, *kinds[:n_classes]):
            (folder / "regions" / tissue.name).mkdir(parents=True)
            for number in range(regions):
                whose = number % of_train
                file = f"{tissue.name}/p{whose:03d}_{number:03d}.png"
                write_patch(folder / "regions" / file, tissue, stains[whose], 64, 1.0, rng)
                patients.append(f"{file},p{whose:03d}")
        (folder / "regions" / TABLE).write_text("\n".join(patients) + "\n")


def paint_slide(
    tissue: Tissue,
    stain: Stain,
    purity: float,
    height: int,
    width: int,
    mpp: float,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "height width 3"]:
    """A piece of tissue on glass."""
    whole = _blob(height, width, 0.65, rng)
    haematoxylin, eosin = paint(_BACKGROUND, height, width, mpp, rng)
    distractor = TISSUES[1]
    for kind, share in ((distractor, 0.05), (tissue, purity)):
        where = _patch_of(whole, share, rng)
        rows, columns = (np.flatnonzero(where.any(axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        soft = gaussian_filter(where[box].astype(np.float32), 2)
        inside = paint(kind, *where[box].shape, mpp, rng)
        for stained, amount in zip((haematoxylin, eosin), inside, strict=True):
            stained[box] = stained[box] * (1 - soft) + amount * soft
    edge = gaussian_filter(whole.astype(np.float32), 2)
    return stain.rgb(haematoxylin * edge, eosin * edge, rng)


def write_pyramid(file: Path, pixels: UInt8[np.ndarray, "height width 3"], mpp: float) -> None:
    """Writes a tiled TIFF with levels of half the size each, as openslide reads it.

    The resolution stands in its tags, in pixels a centimetre, and in words in its description.
    """
    description = f"generated; MPP = {mpp:g}; AppMag = {10 / mpp:g}"
    with tifffile.TiffWriter(file) as writer:
        level = 0
        while True:
            per_centimetre = 1e4 / (mpp * 2**level)
            writer.write(
                pixels,
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 0),
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
                description=description if level == 0 else None,
                metadata=None,
            )
            if min(pixels.shape[:2]) <= _TILE:
                return
            even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2].astype(np.uint16)
            sums = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
            pixels = ((sums + 2) // 4).astype(np.uint8)
            level += 1


def _blob(
    height: int, width: int, share: float, rng: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """A piece around the middle that covers a share of the slide."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    level = y**2 + x**2 + 0.25 * smooth_noise(height, width, min(height, width) / 8, rng)
    return level < np.quantile(level, share)


def _patch_of(
    whole: Bool[np.ndarray, "height width"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """One connected share of a piece, somewhere in it."""
    rows, columns = np.nonzero(whole)
    middle = rng.integers(len(rows))
    height, width = whole.shape
    y, x = np.mgrid[:height, :width]
    away = (y - rows[middle]) ** 2 + (x - columns[middle]) ** 2
    rough = 1 + 0.3 * smooth_noise(height, width, min(height, width) / 10, rng)
    level = np.where(whole, away * np.clip(rough, 0.2, None), np.inf)
    return level <= np.quantile(level[whole], share)
