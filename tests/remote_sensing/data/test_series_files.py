from pathlib import Path

import numpy as np
import pytest
from scipy.io import netcdf_file

from core.data.checks import DataError
from remote_sensing.data.series_files import read_series, write_fields
from tests.remote_sensing.data.test_series import N, fields

NAMES = {"view_names": ["S1", "S2_S2VI"], "target_names": ["barley", "maïs", "fallow land"]}


@pytest.mark.parametrize("ending", ["nc", "npz"])
def test_reads_what_was_written(ending: str, tmp_path: Path) -> None:
    wanted = fields(split=np.array(["train", "valid", "test", "train"] * 10))
    write_fields(tmp_path / f"series.{ending}", wanted, NAMES)
    read = read_series(tmp_path)
    assert read.path == tmp_path / f"series.{ending}"
    for name in ("S1", "S2", "S2VI", "DEM"):
        np.testing.assert_array_equal(read.variables[name], wanted[name])
    np.testing.assert_array_equal(read.target, wanted["target"])
    assert read.train_mask.dtype == bool
    np.testing.assert_array_equal(read.train_mask, wanted["train_mask"])
    assert read.ids == wanted["identifier"].tolist()
    assert read.split == wanted["split"].tolist()
    assert read.view_names == NAMES["view_names"]
    assert read.target_names == NAMES["target_names"]


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
def test_reads_what_xarray_writes(engine: str, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    wanted = fields()
    axes = {"S1": "abc", "S2": "abd", "S2VI": "abe", "DEM": "af"}
    data = xarray.Dataset(
        {name: (["identifier", *axes[name][1:]], wanted[name]) for name in axes}
        | {"target": ("identifier", wanted["target"])}
        | {"train_mask": ("identifier", wanted["train_mask"])},
        coords={"identifier": wanted["identifier"]},
    )
    joined = engine == "scipy"  # the classic format has no lists of texts
    data.attrs = {k: ",".join(v) if joined else v for k, v in NAMES.items()}
    data.to_netcdf(tmp_path / "series.nc", engine=engine)
    read = read_series(tmp_path)
    assert read.variables.keys() == axes.keys()
    for name in axes:
        np.testing.assert_array_equal(read.variables[name], wanted[name])
    np.testing.assert_array_equal(read.target, wanted["target"])
    np.testing.assert_array_equal(read.train_mask, wanted["train_mask"])
    assert read.ids == wanted["identifier"].tolist()
    assert read.view_names == NAMES["view_names"]
    assert read.target_names == NAMES["target_names"]


@pytest.mark.parametrize("kind", ["classic", "hdf5"])
def test_fill_values_are_missing(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "series.nc"
    stored = np.arange(N * 12, dtype=np.int16).reshape(N, 6, 2)
    stored[2, 3, 1] = -999
    if kind == "classic":
        write_fields(file, {"S1": stored.astype(np.int32), "target": np.arange(N) % 3})
        with netcdf_file(file, "a") as opened:
            opened.variables["S1"]._FillValue = np.int32(-999)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as opened:
            opened["target"] = np.arange(N) % 3
            opened["S1"] = stored
            opened["S1"].attrs["_FillValue"] = np.array([-999], np.int16)
    found = read_series(tmp_path).variables["S1"]
    assert np.isnan(found[2, 3, 1])
    np.testing.assert_array_equal(np.nan_to_num(found, nan=-999), stored)


@pytest.mark.parametrize("kind", ["classic", "hdf5"])
def test_coordinates_of_other_axes_are_no_modality(kind: str, tmp_path: Path) -> None:
    file, s1 = tmp_path / "series.nc", fields()["S1"]
    if kind == "classic":
        write_fields(file, {"S1": s1, "target": np.arange(N) % 3})
        with netcdf_file(file, "a") as opened:
            opened.createDimension("time", 6)
            opened.createVariable("time", "i4", ("time",))[:] = np.arange(6)
            opened.createVariable("spatial_ref", "i4", ())
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as opened:
            opened["S1"], opened["target"] = s1, np.arange(N) % 3
            opened["identifier"], opened["time"] = np.arange(N) + 7, np.arange(6)
            opened["identifier"].make_scale("identifier")
            opened["time"].make_scale("time")
            opened["spatial_ref"] = 0
    read = read_series(tmp_path)
    assert list(read.variables) == ["S1"]
    assert read.ids[0] == ("0" if kind == "classic" else "7")


def test_a_name_in_a_list_of_names_may_hold_a_comma(tmp_path: Path) -> None:
    names = ["wheat, winter", "wheat, spring", "fallow"]
    write_fields(tmp_path / "series.npz", fields(), {"target_names": names})
    assert read_series(tmp_path).target_names == names


def test_netcdf4_without_h5py_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "series.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match=r"series\.nc: is NetCDF-4, which h5py reads"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"target": None}, "no target"),
        ({"S1": np.zeros((N - 1, 6, 2))}, "40 targets, but S1 39"),
        ({"train_mask": np.ones(3, bool)}, "40 targets, but train_mask 3"),
        ({"identifier": np.array(["same"] * N)}, "39 identifiers stand at several rows"),
        ({"S1": np.array([["text"]] * N)}, "S1 is of <U4"),
        ({"S1": np.zeros(N)}, r"S1 is of float64 \[40\]"),
        (dict.fromkeys(("S1", "S2", "S2VI", "DEM")), "no modality"),
    ],
)
def test_fields_that_do_not_belong_together(changed: dict, words: str, tmp_path: Path) -> None:
    write_fields(tmp_path / "series.npz", fields(**changed))
    with pytest.raises(DataError, match=rf"series\.npz: {words}"):
        read_series(tmp_path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 files of series"):
        read_series(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read_series(tmp_path / "nowhere")
    write_fields(tmp_path / "a.nc", fields())
    whole = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.nc: cannot be read"):
        read_series(tmp_path)
    (tmp_path / "b.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"b\.npz: cannot be read"):
        read_series(tmp_path / "b.npz")
    with pytest.raises(DataError, match="2 files of series"):
        read_series(tmp_path)


def test_statistics_must_be_of_the_variable(tmp_path: Path) -> None:
    write_fields(tmp_path / "series.npz", fields())
    (tmp_path / "stats").mkdir()
    file = tmp_path / "stats" / "stats_S1.npz"
    write_fields(file, {"mean": np.zeros(3), "std": np.ones(3)})
    with pytest.raises(DataError, match=r"stats_S1\.npz: statistics of 3 features\n.*2, as S1"):
        read_series(tmp_path)
    write_fields(file, {"mean": np.zeros(2)})
    with pytest.raises(DataError, match=r"stats_S1\.npz: no std"):
        read_series(tmp_path)


def test_packed_values_are_refused(tmp_path: Path) -> None:
    from scipy.io import netcdf_file

    write_fields(tmp_path / "series.nc", fields())
    with netcdf_file(tmp_path / "series.nc", "a") as opened:
        opened.variables["S2"].scale_factor = 0.0001
    with pytest.raises(DataError, match="S2 is packed"):
        read_series(tmp_path)
