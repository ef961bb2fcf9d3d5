"""NumPy files: arrays of numbers, and the feature tables of the items."""

import math
from pathlib import Path
from tokenize import TokenError

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int
from torch import Tensor
from torch.nn import ModuleDict

from core.data.checks import DataError

_KIND_NAMES = {"O": "objects", "U": "text", "S": "bytes", "c": "complex numbers", "V": "records"}


def read_array(path: Path, *, kinds: str, expected: str) -> np.ndarray:
    """Reads a `.npy` file after looking at its header; never executes pickled code.

    Args:
        path: the file.
        kinds: the allowed `dtype.kind` letters.
        expected: these in words, for the message.

    Raises:
        DataError: if it is missing, no `.npy` file, of another kind of value, or truncated.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(file)
            n_bytes = path.stat().st_size - file.tell()
            if min(shape, default=0) < 0:
                raise ValueError(shape)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})",
            path=path,
            expected=expected,
            fix="check its name and its permissions",
        ) from None
    except (ValueError, SyntaxError, TokenError):
        raise DataError(
            "not a NumPy file, or damaged or cut off in its header",
            path=path,
            expected=f"a .npy file of {expected}",
            fix="write it with numpy.save, or copy it again",
        ) from None
    if dtype.hasobject or dtype.kind not in kinds:
        raise DataError(
            f"holds {_KIND_NAMES.get(dtype.kind, dtype.name)} (dtype {dtype})",
            path=path,
            expected=expected,
            fix="convert the array before numpy.save, e.g. array.astype('float32')",
        )
    n_expected = math.prod(shape) * dtype.itemsize
    if n_bytes < n_expected:
        raise DataError(
            f"truncated: {n_bytes:,} bytes of data for shape {shape}",
            path=path,
            expected=f"{n_expected:,} bytes",
            fix="copy or write it again",
        )
    return np.load(path, allow_pickle=False)


def feature_files(folder: Path, names: list[str] | None) -> dict[str, Path]:
    """Modality -> its `<modality>_feat.npy` in `folder`: those of `names`, or all.

    Raises:
        DataError: if a named one is missing, or a name cannot be used.
    """
    found = {path.name.removesuffix("_feat.npy"): path for path in folder.glob("*_feat.npy")}
    for name, path in found.items():
        # Modalities name parts of modules, and stand beside users and items in `embed`.
        if not name.isidentifier() or name in ("user", "item") or hasattr(ModuleDict, name):
            raise DataError(
                f"the modality cannot be named {name!r}",
                path=path,
                expected="letters, digits and _, e.g. image_feat.npy; not user or item",
                fix="rename the file",
            )
    if names is None:
        return dict(sorted(found.items()))
    for name in names:
        if name not in found:
            raise DataError(
                f"no features {name!r}; there are: {', '.join(sorted(found)) or 'none'}",
                path=folder / f"{name}_feat.npy",
                expected="one row for each item",
                fix="write the file, or leave the name out of features",
            )
    return {name: found[name] for name in names}


def read_features(path: Path) -> Float32[np.ndarray, "rows dim"]:
    """Reads a feature table, one row for each item.

    Raises:
        DataError: as `read_array`, if it has not two dimensions, or holds NaN or infinity.
    """
    expected = "numbers (n_items, dim)"
    table = read_array(path, kinds="fiub", expected=expected)
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(
            f"shape {table.shape}",
            path=path,
            expected=expected,
            fix="save one row of features for each item",
        )
    with np.errstate(over="ignore"):
        table = table.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:
        column = int(np.flatnonzero(~np.isfinite(table[bad[0]]))[0])
        raise DataError(
            f"row {bad[0]}, column {column} is {table[bad[0], column]} in float32"
            f" ({bad.size:,} of {len(table):,} rows hold NaN or infinity)",
            path=path,
            expected="finite numbers",
            fix="correct the rows; an item without an image or text can get the mean of the others",
        )
    return table


def align_features(
    path: Path,
    table: Float32[np.ndarray, "rows dim"],
    item_ids: list[str],
    item_numbers: Int[np.ndarray, " n_items"] | None,
    mapping: dict[str, int] | None,
) -> Float32[Tensor, "n_items dim"]:
    """Picks the row of every item.

    Items whose ids are integers own the row of that number, if there are max + 1 rows. Otherwise
    `i_id_mapping.csv` tells the row of an id, and there is one row for each of its items.

    Args:
        path: the file of the features, for messages.
        table: its content.
        item_ids: the ids of the items in the files.
        item_numbers: the same as integers, None where they are text.
        mapping: id -> row, None where there is no mapping file.

    Raises:
        DataError: if rows and items do not match, or an item is not in the mapping.
    """
    if item_numbers is not None and len(table) == item_numbers.max() + 1:
        gapless = len(item_numbers) == len(table)
        return torch.from_numpy(table if gapless else table[item_numbers])
    mapping_file = path.parent / "i_id_mapping.csv"
    # Gapless integers number the rows already: a mapping file only tells where they came from.
    if item_numbers is not None and (
        mapping is None or len(item_numbers) == item_numbers.max() + 1
    ):
        raise DataError(
            f"{len(table):,} rows of features for {len(item_ids):,} items with ids up to"
            f" {item_numbers.max()}",
            path=path,
            expected=f"{item_numbers.max() + 1:,} rows: row = item id",
            fix="write one row for each item"
            if len(item_numbers) == item_numbers.max() + 1
            else f"write max id + 1 rows, or say which row is whose in {mapping_file.name}",
        )
    if mapping is None:
        raise DataError(
            f"item ids are text (e.g. {item_ids[0]!r}): which row of features is whose is unknown",
            path=mapping_file,
            expected="a tab separated file: original id, row of the features from 0",
            fix="write it, or leave the features out with features=[]",
        )
    if len(table) != len(mapping):
        raise DataError(
            f"{len(table):,} rows of features for {len(mapping):,} items in {mapping_file.name}",
            path=path,
            expected=f"{len(mapping):,} rows",
            fix="write one row for each item of the mapping",
        )
    rows = pl.Series(item_ids).replace_strict(mapping, default=None, return_dtype=pl.Int64)
    if rows.null_count():
        missing = item_ids[rows.is_null().arg_true()[0]]
        raise DataError(
            f"item {missing!r} is not in the file ({rows.null_count():,} items are not)",
            path=mapping_file,
            expected="every item of the interactions",
            fix="add it with its row of the features",
        )
    return torch.from_numpy(table[rows.to_numpy()])
