"""Patch features of slides in files, as CLAM and TRIDENT store them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError

_EXPECTED = "features (N, D), and coords (N, 2) where they are known"


@dataclass(frozen=True)
class Bag:
    """One slide.

    Attributes:
        features: (N, D) float32.
        corners: (N, 2) x and y at level 0, or None where the file has none.
    """

    features: Float[Tensor, "patches dim"]
    corners: Int64[Tensor, "patches 2"] | None = None


def write_bag(
    file: str | Path,
    bag: Bag,
    size: int | None = None,
    magnification: float | None = None,
    slide_magnification: float | None = None,
) -> None:
    """Writes `features` and `coords` to `.h5`, or the features alone to `.pt`.

    Args:
        file: its suffix says which; folders are made.
        bag: what is written.
        size: of a patch in pixels at its magnification; with both magnifications it becomes
            attributes of `coords`, by TRIDENT's names.
        magnification: of the patches.
        slide_magnification: of the slide's level 0.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    features = bag.features.detach().float().cpu()
    if file.suffix == ".pt":
        torch.save(features.clone(), file)
        return
    import h5py

    with h5py.File(file, "w") as h5:
        h5.create_dataset("features", data=features.numpy())
        if bag.corners is not None:
            coords = h5.create_dataset("coords", data=bag.corners.cpu().numpy().astype(np.int64))
            coords.attrs["name"] = file.stem
            if size and magnification and slide_magnification:
                coords.attrs["patch_size"] = size
                side = round(size * slide_magnification / magnification)
                coords.attrs["patch_size_level0"] = side
                coords.attrs["target_magnification"] = magnification
                coords.attrs["level0_magnification"] = slide_magnification
                coords.attrs["overlap"] = 0


def read_bag(file: str | Path) -> Bag:
    """A bag from `.h5` (`features`, `coords`) or `.pt` (a tensor, or a dict of these).

    Raises:
        DataError: the file is none, holds no features, or NaN.
    """
    file = Path(file)
    content = _read_h5(file) if file.suffix in (".h5", ".hdf5") else _read_pt(file)
    content = {name: of for name, of in content.items() if of is not None}
    kinds = {n: type(content[n]).__name__ for n in ("features", "coords") if n in content}
    if not all(isinstance(content[name], Tensor) for name in kinds):
        found = ", ".join(f"{name} of type {kind}" for name, kind in kinds.items())
        raise DataError(found, path=file, expected=_EXPECTED)
    features = content.get("features")
    if features is not None and features.ndim == 3 and features.shape[0] == 1:
        features = features[0]  # as some versions of TRIDENT write it
    if features is None or features.ndim != 2 or not features.is_floating_point():
        shape = "no features" if features is None else f"features of shape {list(features.shape)}"
        raise DataError(shape, path=file, expected=_EXPECTED)
    broken = int((~torch.isfinite(features)).any(1).sum())
    if broken:
        raise DataError(f"{broken} patches with NaN or infinite features", path=file)
    corners = content.get("coords")
    if corners is not None:
        corners = corners.flatten(0, -2).long() if corners.ndim > 1 else corners
        if corners.shape != (len(features), 2):
            raise DataError(
                f"{len(features)} features, coords of shape {list(corners.shape)}",
                path=file,
                expected=_EXPECTED,
            )
    return Bag(features.float(), corners)


def _read_h5(file: Path) -> dict[str, Tensor]:
    import h5py

    try:
        with h5py.File(file) as h5:
            return {
                name: torch.from_numpy(np.asarray(h5[name]))
                for name in ("features", "coords")
                if name in h5
            }
    except (OSError, TypeError) as error:
        raise DataError(
            f"cannot be read as HDF5 ({str(error)[:120]})", path=file, expected=_EXPECTED
        ) from None


def _read_pt(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Pickles that would run code, archives that are cut off, other files: torch names each
        # in another way.
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(
            f"cannot be read as tensors alone ({reason})", path=file, expected=_EXPECTED
        ) from None
    if isinstance(content, Tensor):
        return {"features": content}
    return content if isinstance(content, dict) else {}
