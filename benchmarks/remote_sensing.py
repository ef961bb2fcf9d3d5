"""Chips on the CPU: the loader against torchgeo's, then CROMA (`benchmarks.remote_sensing_croma`).

    python -m benchmarks.remote_sensing

Both loaders read random windows of 120 pixels of the same tiled GeoTIFFs, two scenes of twelve
uint16 and two float32 bands, as many worker processes, and hand over batches between 0 and 1. Cold
is without the pages of the files in memory (as the kernel was asked to forget them), warm after
another pass. torchgeo is no dependency: install it in a folder of its own,
`pip install --target DIR torchgeo`, and name that in PYTHONPATH; without it ours runs alone.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from affine import Affine
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import remote_sensing_croma
from benchmarks.race import interleaved, median_and_spread, paired_ratio, peer
from core.report import print_table
from remote_sensing.data.bands import OPTICAL, RADAR
from remote_sensing.data.chips import Chips
from remote_sensing.data.read_chips import load_chips
from remote_sensing.data.voronoi_scenes import write_raster
from remote_sensing.task import ChipProbing

SIDE, SIZE, BATCH, CHIPS, REPEATS = 1536, 120, 64, 256, 3
OPTICAL_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A"),
    *("B09", "B11", "B12"),
)
RADAR_BANDS = ("VV", "VH")
PIXEL, EAST, NORTH = 10.0, 400_000.0, 5_800_000.0


def write_scenes(folder: Path) -> None:
    """Two scenes of 15 km side by side, in blocks of 256 pixels, and which of them is for what."""
    rng = np.random.default_rng(0)
    for number, name in enumerate("ab"):
        place = Affine(PIXEL, 0, EAST + number * SIDE * PIXEL, 0, -PIXEL, NORTH)
        optical = rng.integers(1100, 5000, (len(OPTICAL_BANDS), SIDE, SIDE), dtype=np.uint16)
        radar = rng.normal(-14, 3, (len(RADAR_BANDS), SIDE, SIDE)).astype(np.float32)
        write_raster(folder / OPTICAL / f"{name}.tif", optical, place, OPTICAL_BANDS, 0)
        write_raster(folder / RADAR / f"{name}.tif", radar, place, RADAR_BANDS, np.nan)
    (folder / "splits.csv").write_text("scene,split\na,train\nb,train\n")


def forget(folder: Path) -> None:
    """Asks the kernel to drop the pages of all files."""
    for file in folder.rglob("*.tif"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def of_ours(data: Chips, workers: int) -> Callable[[], Iterator[dict[str, Tensor]]]:
    """Batches of the training loader, without augmentation."""
    for column in data.inputs.values():
        column.workers = workers  # type: ignore[union-attr]
    system: Any = type("Nothing", (), {})()
    return lambda: iter(ChipProbing().train_loader(system, data, BATCH, 0))


def of_torchgeo(
    folder: Path, data: Chips, workers: int
) -> Callable[[], Iterator[dict[str, Tensor]]] | None:
    """Batches of the intersection of two raster data sets, by the random sampler."""
    datasets, samplers = peer("torchgeo.datasets"), peer("torchgeo.samplers")
    if datasets is None or samplers is None:
        return None
    optical = datasets.RasterDataset(str(folder / OPTICAL))
    radar = datasets.RasterDataset(str(folder / RADAR))
    both = optical & radar
    sampler = samplers.RandomGeoSampler(both, size=SIZE, length=CHIPS)
    ends = [data.statistics[s][b] for s in (OPTICAL, RADAR) for b in data.bands[s]]
    low, high = torch.tensor(ends).T[..., None, None]

    def collate(samples: list[dict[str, Any]]) -> Tensor:
        return torch.stack([sample["image"] for sample in samples])

    def batches() -> Iterator[dict[str, Tensor]]:
        loader = DataLoader(both, BATCH, sampler=sampler, num_workers=workers, collate_fn=collate)
        for images in loader:
            scaled = ((images - low) / (high - low)).clamp(0, 1)
            yield {OPTICAL: scaled[:, : len(OPTICAL_BANDS)], RADAR: scaled[:, len(OPTICAL_BANDS) :]}

    return batches


def race_loaders() -> None:
    """Prints chips a second, cold and warm, without and with a worker process for each core."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CONSILIENCE_CACHE"] = str(folder / "cache")
        write_scenes(folder)
        data = load_chips(folder, size=SIZE, windows=CHIPS, held=0.0, device="cpu")
        rows = []
        for workers in (0, 2):
            ours, theirs = of_ours(data, workers), of_torchgeo(folder, data, workers)
            works = {"ours": ours} | ({"torchgeo": theirs} if theirs else {})

            def consume(batches: Callable[[], Iterator[dict[str, Tensor]]], cold: bool) -> None:
                if cold:
                    forget(folder)
                seen = 0
                for batch in batches():
                    seen += len(batch[OPTICAL])
                    assert batch[OPTICAL].shape[1:] == (len(OPTICAL_BANDS), SIZE, SIZE)
                assert seen == CHIPS

            for state in ("cold", "warm"):
                times = interleaved(
                    {
                        name: lambda batches=batches, state=state: consume(batches, state == "cold")
                        for name, batches in works.items()
                    },
                    REPEATS,
                )
                for name, seconds in times.items():
                    rows.append(
                        {
                            "by": name,
                            "files": state,
                            "workers": workers,
                            "s": median_and_spread(seconds),
                            "chips/s": f"{CHIPS / float(np.median(seconds)):.0f}",
                            "times ours": paired_ratio(seconds, times["ours"]),
                        }
                    )
        print_table(rows, f"{CHIPS} random chips of {SIZE} px, 12 + 2 bands, batches of {BATCH}")


def main() -> None:
    """All races."""
    race_loaders()
    remote_sensing_croma.main()


if __name__ == "__main__":
    main()
