"""Clips a sample at a time, as a `DataLoader` takes them: the peer of the batched views.

Preprocessed arrays of each clip are read from their files in `__getitem__` and augmented there with
numpy and scipy, by the same recipe and with the same probabilities as `SkeletonViews` and
`InertialViews`; the default collation makes batches of them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import interp1d
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from har.data.recordings import IMU, SKELETON
from har.data.windows import Windows

P, PIVOT = 0.75, 2

Clip = dict[str, Tensor]


def skeleton_view(
    x: Float[np.ndarray, "3 time joints"], rng: np.random.Generator
) -> Float[np.ndarray, "3 time joints"]:
    """Noise, a crop in time stretched again, then scaling, rotation and shear about the spine."""
    x = x + rng.normal(0, 0.1, x.shape)
    if rng.random() < P:
        last = x.shape[1] - 1
        length = rng.uniform(0.8, 0.9) * last
        start = rng.uniform(0, last - length)
        places = start + np.linspace(0, length, x.shape[1])
        x = interp1d(np.arange(x.shape[1]), x, axis=1)(places)
    matrix = np.eye(3)
    if rng.random() < P:
        matrix = np.diag(rng.uniform(0.7, 1.2, 3))
    if rng.random() < P:
        turn = Rotation.from_euler("xyz", rng.uniform(-10, 10, 3), degrees=True)
        matrix = turn.as_matrix() @ matrix
    if rng.random() < P:
        slopes = rng.normal(0, 0.2, (3, 3))
        np.fill_diagonal(slopes, 1)
        matrix = slopes @ matrix
    centre = x[..., PIVOT, None]
    return np.tensordot(matrix, x - centre, 1) + centre


def inertial_view(
    x: Float[np.ndarray, "channels time"], rng: np.random.Generator
) -> Float[np.ndarray, "channels time"]:
    """Noise, a factor for every number, two parts of the time swapped, the channels shuffled."""
    if rng.random() < P:
        x = x + rng.normal(0, 1, x.shape)
    if rng.random() < P:
        x = x * rng.normal(1, 1, x.shape)
    if rng.random() < P and rng.integers(1, 3) == 2:
        parts = np.split(x, [rng.integers(1, x.shape[1])], axis=1)
        x = np.concatenate([parts[i] for i in rng.permutation(2)], axis=1)
    if rng.random() < P:
        x = x[rng.permutation(len(x))]
    return x


class Clips(Dataset[Clip]):
    """One view of both modalities of a clip.

    Args:
        read: number of a clip -> its arrays.
        n_clips: how many there are.
    """

    def __init__(self, read: Callable[[int], tuple[np.ndarray, np.ndarray]], n_clips: int) -> None:
        self.read, self.n_clips = read, n_clips
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        """Number of clips."""
        return self.n_clips

    def __getitem__(self, row: int) -> Clip:
        """One view of clip `row`."""
        skeleton, imu = self.read(row)
        views = {SKELETON: skeleton_view(skeleton, self.rng), IMU: inertial_view(imu, self.rng)}
        return {name: torch.from_numpy(x.astype(np.float32)) for name, x in views.items()}


def write_arrays(data: Windows, folder: Path) -> None:
    """Writes the arrays of every window into files of their own."""
    for name, values in data.inputs.items():
        for row, array in enumerate(values.cpu().numpy()):
            np.save(folder / f"{name}_{row}.npy", array)


def from_files(data: Windows, folder: Path) -> Clips:
    """Clips whose arrays are read when they are needed."""

    def read(row: int) -> tuple[np.ndarray, np.ndarray]:
        return np.load(folder / f"{SKELETON}_{row}.npy"), np.load(folder / f"{IMU}_{row}.npy")

    return Clips(read, len(data.ids))


def from_memory(data: Windows) -> Clips:
    """Clips whose arrays have been read before."""
    skeletons, series = (data.inputs[name].cpu().numpy() for name in (SKELETON, IMU))
    return Clips(lambda row: (skeletons[row], series[row]), len(data.ids))


def sample_loader(clips: Clips, batch_size: int, workers: int, pin_memory: bool) -> DataLoader:
    """Shuffled batches, a shorter last one left out; workers live on from epoch to epoch."""
    return DataLoader(
        clips,
        batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_seed_worker,
    )


def _seed_worker(number: int) -> None:
    info = torch.utils.data.get_worker_info()
    info.dataset.rng = np.random.default_rng([number, info.seed])
