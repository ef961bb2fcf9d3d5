from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from core.data.checks import DataError
from medical.data.layouts import find_cases
from medical.data.load import load_cases, patients_of
from medical.data.read_volume import geometry_of, read_volume, to_axes
from tests.medical.data.files import save_series

STORED = np.random.default_rng(0).integers(0, 1500, (7, 6, 5))


def test_a_series_in_hu_at_its_place_whatever_the_files_are_called(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "ct", STORED)
    volume = read_volume(folder)
    assert np.array_equal(volume.values, STORED * 2 - 1000)
    assert volume.axes == "LPS"
    assert volume.spacing == pytest.approx((0.7, 0.9, 2.5))
    # DICOM counts to the left and the back: signs of x and y change.
    assert (volume.affine @ [2, 3, 4, 1])[:3] == pytest.approx([10 - 1.4, 20 - 2.7, 40])
    shape, affine = geometry_of(folder)
    assert shape == STORED.shape
    np.testing.assert_allclose(affine, volume.affine)


def test_a_coronal_and_an_oblique_series(tmp_path: Path) -> None:
    coronal = read_volume(save_series(tmp_path / "a", STORED, orientation=(1, 0, 0, 0, 0, -1)))
    assert coronal.axes == "LIP"
    assert to_axes(coronal).values.shape == (7, 5, 6)
    tilt = np.radians(20)
    across = (1.0, 0.0, 0.0, 0.0, float(np.cos(tilt)), float(np.sin(tilt)))
    oblique = read_volume(save_series(tmp_path / "b", STORED, orientation=across))
    step = (oblique.affine @ [0, 0, 4, 1] - oblique.affine @ [0, 0, 0, 1])[:3]
    # RAS of the normal (0, -sin, cos), 2.5 mm a slice.
    assert step == pytest.approx([0, 10 * np.sin(tilt), 10 * np.cos(tilt)], abs=1e-4)


def test_several_series_in_a_folder_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    save_series(tmp_path, STORED)
    save_series(tmp_path, STORED[::-1], series="9.8.7")
    with pytest.raises(DataError, match=r"2 series: .*body 9.8.7, 5 files") as caught:
        read_volume(tmp_path)
    assert "data.series=UID" in str(caught.value)
    assert np.array_equal(read_volume(tmp_path, series="9.8.7").values, STORED[::-1] * 2 - 1000)
    with pytest.raises(DataError, match=r"no series 5\n.*1.2.3.4 or 9.8.7"):
        read_volume(tmp_path, series="5")


def test_what_is_missing_in_a_series_is_named(tmp_path: Path) -> None:
    gap = save_series(tmp_path / "gap", STORED)
    sorted(gap.iterdir())[1].unlink()
    with pytest.raises(DataError, match=r"5 mm apart, most are 2.5"):
        read_volume(gap)
    with pytest.raises(DataError, match="CT without RescaleSlope and RescaleIntercept"):
        read_volume(save_series(tmp_path / "raw", STORED, rescale=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM series"):
        read_volume(tmp_path / "empty")


def test_folders_of_series_are_cases_whose_patients_the_tags_name(tmp_path: Path) -> None:
    for name, patient in (("one", "p7"), ("two", "p7"), ("three", "p8")):
        save_series(tmp_path / name, STORED, patient=patient)
        (tmp_path / f"{name}.txt").write_text("Normal.")
    layout = find_cases(tmp_path)
    assert [case.id for case in layout.cases] == ["one", "three", "two"]
    assert patients_of(layout) == ["p7", "p8", "p7"]
    assert all(case.report == tmp_path / f"{case.id}.txt" for case in layout.cases)


def _change(folder: Path, change: Callable[[pydicom.Dataset], None]) -> Path:
    for file in sorted(folder.iterdir()):
        data = pydicom.dcmread(file)
        change(data)
        data.save_as(file)
    return folder


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_tags_that_are_there_but_empty_are_named(tmp_path: Path, tag: str) -> None:
    folder = _change(save_series(tmp_path / "a", STORED), lambda data: setattr(data, tag, None))
    for read in (read_volume, geometry_of):
        with pytest.raises(DataError, match=f"no {tag}"):
            read(folder)


def test_rescale_is_needed_of_every_slice_and_may_differ(tmp_path: Path) -> None:
    def empty(data: pydicom.Dataset) -> None:
        if data.InstanceNumber == 3:
            data.RescaleIntercept = None

    with pytest.raises(DataError, match="CT without RescaleIntercept"):
        read_volume(_change(save_series(tmp_path / "a", STORED), empty))

    def differ(data: pydicom.Dataset) -> None:
        data.RescaleSlope = 1 if data.InstanceNumber == 1 else 0.25

    values = read_volume(_change(save_series(tmp_path / "b", STORED), differ)).values
    expected = STORED * np.array([1, 0.25, 0.25, 0.25, 0.25]) - 1000
    assert np.array_equal(values, expected)


@pytest.mark.parametrize(
    ("tag", "value"),
    [("ImageOrientationPatient", [1, 0, 0, 0, 0, -1]), ("PixelSpacing", [0.9, 0.8])],
)
def test_slices_of_another_direction_or_spacing_are_no_part_of_a_volume(
    tmp_path: Path, tag: str, value: list[float]
) -> None:
    def localizer(data: pydicom.Dataset) -> None:
        if data.InstanceNumber == 4:
            setattr(data, tag, value)

    with pytest.raises(DataError, match=rf"{tag} .* in slice 4[\s\S]*localizer"):
        read_volume(_change(save_series(tmp_path / "a", STORED), localizer))


def test_what_the_system_left_in_a_folder_hides_no_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_series(tmp_path / "all" / "one", STORED)
    (folder / ".DS_Store").write_bytes(bytes(200))
    (folder / "0_notes.txt").write_text("seen by two")
    (folder / "keys").mkdir()
    layout = find_cases(tmp_path / "all")
    assert [case.id for case in layout.cases] == ["one"]
    assert patients_of(layout) == ["p7"]
    options = {"reports": False, "ratios": [1, 0, 0], "size": 8, "spacing": [2, 2, 2]}
    assert load_cases(tmp_path / "all", **options).ids == ["one"]
    monkeypatch.chdir(folder)
    assert load_cases(".", **options).ids == ["one"]
