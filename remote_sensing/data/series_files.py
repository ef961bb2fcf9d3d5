"""Files of satellite time series: the same fields in NetCDF and in npz."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from core.data.checks import DataError

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]

_FIELDS = (
    "`target` (n) or (n, labels); optionally `identifier`, `train_mask`, `split`, `view_names`, "
    "`target_names`; every other variable of n entries is a modality, the features last"
)
# Other variables of NetCDF that only name the steps of an axis, or have none, are no modality.
_NAMED = ("identifier", "target", "train_mask", "split")
_HDF5, _CLASSIC = b"\x89HDF", b"CDF"


@dataclass(frozen=True)
class SeriesFile:
    """One data set as it lies in its file, row for row.

    Attributes:
        path: the file.
        variables: name -> (n, ..., features), e.g. (n, time, bands); NaN where nothing was seen.
        target: (n,) or (n, labels).
        ids: (n) names of the rows.
        train_mask: (n,) bool, or None where the file has none.
        split: (n) of train, valid, test, or None.
        view_names: modalities to learn from, names of variables joined by `_`, or None.
        target_names: of the classes, labels or value; may be empty.
        statistics: variable -> mean and deviation of its features, where they lie in `stats/`.
    """

    path: Path
    variables: dict[str, Shaped[np.ndarray, "n ..."]]
    target: Shaped[np.ndarray, "n ..."]
    ids: list[str]
    train_mask: Shaped[np.ndarray, " n"] | None
    split: list[str] | None
    view_names: list[str] | None
    target_names: list[str]
    statistics: Statistics

    def modality(self, name: str) -> Shaped[np.ndarray, "n ..."]:
        """A variable, or those whose names are joined by `_`, side by side on the last axis.

        Raises:
            DataError: there is no such variable, or they cannot stand side by side.
        """
        parts = [self.variables[part] for part in self.parts(name)]
        if len({part.shape[:-1] for part in parts}) > 1:
            said = ", ".join(str(list(part.shape[1:])) for part in parts)
            raise DataError(
                f"the parts of {name} have the shapes {said}",
                path=self.path,
                expected="shapes that differ in the last axis alone",
            )
        return np.concatenate(parts, axis=-1)

    def parts(self, name: str) -> list[str]:
        """The variables that a modality is made of.

        Raises:
            DataError: there is no such variable.
        """
        parts = [name] if name in self.variables else name.split("_")
        unknown = [part for part in parts if part not in self.variables]
        if unknown:
            raise DataError(
                f"no modality {name}",
                path=self.path,
                expected=f"some of {', '.join(self.variables)}, or several joined by _",
            )
        return parts


def read_series(path: str | Path) -> SeriesFile:
    """Reads a `.nc` or `.npz` file, or the only one in a folder, and what `stats/` beside it holds.

    NetCDF in the classic formats is read by SciPy, NetCDF-4 by h5py where that is installed.

    Args:
        path: the file or the folder. A variable's statistics are `stats/stats_NAME.nc` or `.npz`
            with `mean` and `std`.

    Raises:
        DataError: the file cannot be read, or its fields do not belong together.
    """
    file = _file(Path(path))
    fields = _fields(file)
    target = fields.pop("target", None)
    if target is None or target.ndim == 0 or len(target) == 0:
        raise DataError("no target", path=file, expected=_FIELDS)
    n = len(target)
    views, names = (_names(fields.pop(key, None)) for key in ("view_names", "target_names"))
    ids = _texts(fields.pop("identifier", np.arange(n)))
    mask, split = fields.pop("train_mask", None), fields.pop("split", None)
    given = {"identifier": ids, "train_mask": mask, "split": split}
    lengths = {name: len(of) for name, of in (given | fields).items() if of is not None}
    wrong = [f"{name} {length}" for name, length in lengths.items() if length != n]
    if wrong:
        raise DataError(
            f"{n} targets, but {', '.join(wrong)}", path=file, expected="one entry a sample"
        )
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise DataError(
            f"{repeated} identifiers stand at several rows",
            path=file,
            fix="keep one row of each, usually the last",
        )
    variables = {name: _numbers(file, name, of) for name, of in fields.items()}
    if not variables:
        raise DataError("no modality", path=file, expected=_FIELDS)
    statistics = _statistics(file.parent / "stats", variables)
    return SeriesFile(
        file,
        variables,
        target,
        ids,
        None if mask is None else mask.astype(bool),
        None if split is None else _split_names(file, split),
        views or None,
        names,
        statistics,
    )


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(file for file in path.glob("*") if file.suffix in (".nc", ".npz"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} files of series" if path.is_dir() else "no such file or folder"
    raise DataError(what, path=path, expected="one .nc or .npz file, or a folder with one")


def _fields(file: Path) -> dict[str, np.ndarray]:
    """Variables and attributes of a file by their names."""
    try:
        with file.open("rb") as opened:
            start = opened.read(4)
        if start.startswith(_CLASSIC):
            return _read_classic(file)
        if start.startswith(_HDF5):
            return _read_hdf5(file)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # damaged files break their readers in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot be read ({reason[:200]})", path=file, expected="a NetCDF or npz file"
        ) from error


def _read_classic(file: Path) -> dict[str, np.ndarray]:
    from scipy.io import netcdf_file

    with netcdf_file(file, mmap=False) as read:
        fields = {
            name: _decoded(file, name, of[...].copy(), vars(of))
            for name, of in read.variables.items()
            if name in _NAMED or (of.dimensions and of.dimensions != (name,))
        }
        for name in ("view_names", "target_names"):
            if hasattr(read, name):
                fields[name] = np.array(getattr(read, name))
    return fields


def _read_hdf5(file: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError:
        raise DataError(
            "is NetCDF-4, which h5py reads, and that is not installed",
            path=file,
            fix="install h5py, or write it anew: xarray.load_dataset(FILE).to_netcdf(NEW, "
            'format="NETCDF3_64BIT")',
        ) from None
    with h5py.File(file) as read:
        fields = {}
        for name, of in read.items():
            if not isinstance(of, h5py.Dataset):
                continue
            # What has the name of a dimension and no values is the dimension alone.
            alone = b"not a netCDF variable" in bytes(of.attrs.get("NAME", b""))
            is_axis = bytes(of.attrs.get("CLASS", b"")) == b"DIMENSION_SCALE" or of.ndim == 0
            if not alone and (name in _NAMED or not is_axis):
                values = of.asstr()[...] if h5py.check_string_dtype(of.dtype) else of[...]
                fields[name] = _decoded(file, name, np.asarray(values), of.attrs)
        for name in ("view_names", "target_names"):
            if name in read.attrs:
                fields[name] = np.asarray(read.attrs[name])
    return fields


def _decoded(
    file: Path, name: str, values: np.ndarray, attributes: Mapping[str, Any]
) -> np.ndarray:
    """Numbers, NaN where the variable's attributes say that there is none."""
    if "scale_factor" in attributes or "add_offset" in attributes:
        raise DataError(
            f"{name} is packed (scale_factor, add_offset)",
            path=file,
            fix="write it as plain numbers",
        )
    for key in ("_FillValue", "missing_value"):
        if key in attributes and values.dtype.kind in "fiu":
            missing = values == attributes[key]
            values = np.where(missing, np.nan, values) if missing.any() else values
    return values


def _texts(values: np.ndarray) -> list[str]:
    """Names from strings, bytes, numbers, or rows of single characters as NetCDF has them."""
    if values.dtype.kind == "S" and values.ndim == 2:
        values = np.ascontiguousarray(values).view(f"S{values.shape[1]}")[:, 0]
    return [
        of.decode().rstrip("\x00 ") if isinstance(of, bytes) else str(of)
        for of in values.reshape(len(values)).tolist()
    ]


def _names(values: np.ndarray | None) -> list[str]:
    """A list of names, which classic NetCDF can only keep as one text with commas."""
    if values is None:
        return []
    texts = [of.decode() if isinstance(of, bytes) else str(of) for of in np.ravel(values).tolist()]
    texts = texts[0].split(",") if len(texts) == 1 else texts
    return [name.strip(" []'\"") for name in texts if name.strip()]


def _split_names(file: Path, values: np.ndarray) -> list[str]:
    known = ("train", "valid", "test")
    names = [known[int(of)] if of in ("0", "1", "2") else of for of in _texts(values)]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DataError(
            f"split says {', '.join(unknown[:5])}", path=file, expected=", ".join(known)
        )
    return names


def _numbers(file: Path, name: str, values: Any) -> np.ndarray:  # noqa: ANN401 - any array
    if values.dtype.kind not in "fiub" or values.ndim < 2:
        raise DataError(
            f"{name} is of {values.dtype} {list(values.shape)}", path=file, expected=_FIELDS
        )
    return np.asarray(values)


def _statistics(folder: Path, variables: dict[str, np.ndarray]) -> Statistics:
    found: Statistics = {}
    for name, values in variables.items():
        for file in (folder / f"stats_{name}.nc", folder / f"stats_{name}.npz"):
            if not file.is_file():
                continue
            fields = _fields(file)
            missing = [key for key in ("mean", "std") if key not in fields]
            if missing:
                raise DataError(f"no {missing[0]}", path=file, expected="mean and std")
            mean, std = (np.asarray(fields[key], np.float64).reshape(-1) for key in ("mean", "std"))
            if not len(mean) == len(std) == values.shape[-1]:
                raise DataError(
                    f"statistics of {len(mean)} features",
                    path=file,
                    expected=f"{values.shape[-1]}, as {name} has",
                )
            found[name] = mean, std
    return found


def write_fields(
    file: Path,
    fields: dict[str, np.ndarray],
    names: dict[str, list[str]] | None = None,
    first_axis: str = "identifier",
) -> None:
    """Writes fields as npz or, by the file's name, as NetCDF in the classic 64-bit format.

    Args:
        file: `.npz` or `.nc`.
        fields: name -> numbers, booleans (in NetCDF int8) or texts (characters), all with one
            first axis.
        names: attribute -> names, in NetCDF one text with commas.
        first_axis: its name in NetCDF.
    """
    names = names or {}
    if file.suffix == ".npz":
        np.savez_compressed(file, **fields, **{key: np.array(of) for key, of in names.items()})
        return
    from scipy.io import netcdf_file

    with netcdf_file(file, "w", version=2) as written:
        written.createDimension(first_axis, len(next(iter(fields.values()))))
        for name, values in fields.items():
            values = _classic(values)
            axes = [first_axis]
            for place, size in enumerate(values.shape[1:], 1):
                axes.append(f"{name}_{place}")
                written.createDimension(axes[-1], size)
            kind = "c" if values.dtype.kind == "S" else values.dtype.str[1:]
            written.createVariable(name, kind, tuple(axes))[:] = values
        for name, texts in names.items():
            setattr(written, name, ",".join(texts).encode())


def _classic(values: np.ndarray) -> np.ndarray:
    """The same in a type that classic NetCDF has."""
    if values.dtype.kind == "U":
        # As xarray does: a text of fixed length is an axis of characters.
        return np.char.encode(values, "utf-8")[:, None].view("S1")
    small = {"b": np.int8, "i": np.int32}
    return values.astype(small.get(values.dtype.kind, values.dtype))
