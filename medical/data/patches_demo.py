"""Generated patches of tissue, as PNG in folders of classes with the patients they are of."""

from pathlib import Path

import numpy as np
import torch
from torchvision.io import write_png

from core.data.demo_folder import demo_folder
from medical.data.patches import TABLE
from medical.data.tissue_paint import TISSUES, Stain, Tissue, paint


def write_patches(
    path: str | Path,
    train: int = 200,
    valid: int = 40,
    test: int = 100,
    patients: int = 40,
    size: int = 64,
    mpp: float = 1.0,
    seed: int = 0,
) -> None:
    """Writes `train/CLASS/*.png`, `valid/`, `test/` and `patients.csv`: six kinds of tissue.

    A patient's patches share a stain, are of all classes, and are in one split.

    Args:
        path: the folder; an earlier demo in its place is replaced.
        train: patches of each class for training.
        valid: for validation.
        test: for the test.
        patients: in all; shared among the splits by their numbers of patches, one at least each.
        size: height and width in pixels.
        mpp: micrometres a pixel; 1.0 is a magnification of 10.
        seed: of everything.

    Raises:
        DataError: `path` is something other than an empty folder or a demo, or unwritable.
    """
    rng = np.random.default_rng(seed)
    counts = {"train": train, "valid": valid, "test": test}
    own = {*counts, TABLE}
    with demo_folder(Path(path), own, {"generator": "patches", "seed": seed}) as folder:
        lines = ["file,patient_id"]
        first = 0
        for split, count in counts.items():
            n_patients = max(1, round(patients * count / sum(counts.values())))
            stains = [Stain.draw(rng) for _ in range(n_patients)]
            for tissue in TISSUES:
                place = Path(split) / tissue.name
                (folder / place).mkdir(parents=True)
                for number in range(count):
                    whose = number % n_patients
                    patient = f"p{first + whose:03d}"
                    file = place / f"{patient}_{number:04d}.png"
                    write_patch(folder / file, tissue, stains[whose], size, mpp, rng)
                    lines.append(f"{file.as_posix()},{patient}")
            first += n_patients
        (folder / TABLE).write_text("\n".join(lines) + "\n")


def write_patch(
    file: Path, tissue: Tissue, stain: Stain, size: int, mpp: float, rng: np.random.Generator
) -> None:
    """Paints one patch and writes it as PNG."""
    amounts = paint(tissue, size, size, mpp, rng)
    pixels = stain.rgb(*amounts, rng)
    write_png(torch.from_numpy(pixels).permute(2, 0, 1), str(file))
