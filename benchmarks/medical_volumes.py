"""Volumes a second: batches of whole volumes and crops, against MONAI on the same NIfTI files.

    python -m benchmarks.medical_volumes

Both sides read, orient, scale, resample, crop to the foreground and pad, and give a cube of the
whole volume and a random cube of each case. MONAI does so for every batch (plain), or keeps what is
not random in memory or in files, by its `CacheDataset` and `PersistentDataset`. All in this
process, without workers, unless said; an epoch is all volumes once.
"""

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.race import interleaved, paired_ratio
from core.report import print_table
from medical.data.case_loader import case_loader
from medical.data.cases import Cases
from medical.data.demo import write_demo
from medical.data.load import load_cases
from medical.data.prepare import slice_places

CASES, VOXEL = 6, 2.5
SIZE, SPACING, WINDOW = 96, (1.5, 1.5, 1.5), (-175.0, 250.0)
BATCH, REPEATS = 4, 3

Epoch = Callable[[], None]


def ours(folder: Path, cached: bool, resident: bool, workers: int = 0) -> Epoch:
    """An epoch of `case_loader`; without a cache everything is prepared anew, as on first use."""

    def load() -> Cases:
        return load_cases(
            folder,
            ratios=[1, 0, 0],
            size=SIZE,
            spacing=SPACING,
            resident_gib=64 if resident else 0,
            workers=workers,
            cache=cached,
        )

    if not cached:
        return lambda: drain(case_loader(load(), "train", BATCH, seed=0))
    loader = case_loader(load(), "train", BATCH, seed=0)
    drain(loader)
    return lambda: drain(loader)


def monai_files(folder: Path) -> list[dict[str, str]]:
    """The images, as MONAI's data sets take them."""
    return [{"crop": str(file)} for file in sorted((folder / "images").iterdir())]


def monai_transforms() -> Any:  # noqa: ANN401 - of MONAI
    """The same steps, the random crop last."""
    from monai.transforms import (
        Compose,
        CopyItemsd,
        CropForegroundd,
        EnsureTyped,
        Lambdad,
        LoadImaged,
        Orientationd,
        RandSpatialCropd,
        Resized,
        ScaleIntensityRanged,
        Spacingd,
        SpatialPadd,
    )

    side = (SIZE,) * 3
    return Compose(
        [
            LoadImaged("crop", ensure_channel_first=True),
            Orientationd("crop", "RAS", labels=None),
            ScaleIntensityRanged("crop", *WINDOW, 0, 1, clip=True),
            Spacingd("crop", pixdim=SPACING, mode="bilinear", dtype=np.float32),
            CropForegroundd("crop", source_key="crop", allow_smaller=True),
            SpatialPadd("crop", side),
            EnsureTyped("crop", track_meta=False),
            CopyItemsd("crop", names="volume"),
            Lambdad("volume", slices),
            Resized("volume", side, mode="area"),
            EnsureTyped("volume", track_meta=False),
            RandSpatialCropd("crop", side, random_size=False),
        ]
    )


def slices(volume: torch.Tensor) -> torch.Tensor:
    """Slices at even places along the last axis."""
    return volume[..., slice_places(volume.shape[-1], SIZE)]


def monai(folder: Path, kind: str, workers: int = 0) -> Epoch:
    """An epoch of MONAI's loader."""
    from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset

    files, transforms = monai_files(folder), monai_transforms()
    if kind == "plain":
        data = Dataset(files, transforms)
    elif kind == "memory":
        data = CacheDataset(files, transforms, progress=False, num_workers=1)
    else:
        data = PersistentDataset(files, transforms, cache_dir=folder.with_name("monai"))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers)
    if kind != "plain":
        drain(loader)
    return lambda: drain(loader)


def drain(batches: Iterable[dict[str, torch.Tensor]]) -> None:
    """Takes all batches and looks at what is in them."""
    for batch in batches:
        for name in ("volume", "crop"):
            assert batch[name].shape[1:] == (1, SIZE, SIZE, SIZE)
            assert batch[name].dtype == torch.float32


def on_clock(work: Epoch, seconds: list[float]) -> Epoch:
    """The same work; its CPU time, which a busy machine changes little, is kept."""

    def timed() -> None:
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)

    return timed


def main() -> None:
    """Prints volumes a second and how many times plain MONAI that is."""
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as temporary:
        os.environ["CONSILIENCE_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary) / "demo"
        write_demo(folder, patients=CASES, voxel=VOXEL)
        n_volumes = len(monai_files(folder))
        data = load_cases(folder, ratios=[1, 0, 0], size=SIZE, spacing=SPACING)
        mib = data.store.flat.numel() / 2**20
        print(f"{n_volumes} volumes of about {mib / n_volumes:.1f} million voxels once prepared")
        plain = "MONAI, plain"
        works = {
            plain: monai(folder, "plain"),
            "MONAI, plain, 2 workers": monai(folder, "plain", workers=2),
            "MONAI, PersistentDataset": monai(folder, "files"),
            "MONAI, CacheDataset": monai(folder, "memory"),
            "ours, prepared anew": ours(folder, cached=False, resident=True),
            "ours, cache on disk": ours(folder, cached=True, resident=False),
            "ours, cache on disk, 2 workers": ours(folder, cached=True, resident=False, workers=2),
            "ours, resident": ours(folder, cached=True, resident=True),
        }
        cpu: dict[str, list[float]] = {name: [] for name in works}
        times = interleaved(
            {name: on_clock(work, cpu[name]) for name, work in works.items()}, REPEATS
        )
        rows = [
            {
                "loader": name,
                "volumes/s": f"{n_volumes / statistics.median(own):.2f}",
                "times plain MONAI": paired_ratio(times[plain], own),
                # Of other processes it is not counted.
                "CPU s a volume": None
                if "workers" in name
                else f"{statistics.median(cpu[name]) / n_volumes:.3f}",
            }
            for name, own in times.items()
        ]
        print_table(rows, f"whole volume and crop of {SIZE} voxels a side, batches of {BATCH}")


if __name__ == "__main__":
    main()
