import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from core.data.checks import DataError
from medical.data.read_volume import (
    axes_of,
    frames_of,
    geometry_of,
    read_volume,
    to_axes,
)
from tests.medical.data.files import hu, oblique, save


def test_hu_after_slope_and_intercept_and_the_files_own_type_without(tmp_path: Path) -> None:
    stored = hu() + 1024
    scaled = read_volume(save(tmp_path / "a.nii.gz", stored, slope=1, intercept=-1024))
    assert np.array_equal(scaled.values, hu())
    plain = read_volume(save(tmp_path / "b.nii", hu()))
    assert plain.values.dtype == np.int16
    assert np.array_equal(plain.values, hu())


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAI", "ASR", "PIR", "SRP"])
def test_each_voxel_keeps_its_place_in_the_patient_and_its_value(tmp_path: Path, axes: str) -> None:
    volume = read_volume(save(tmp_path / "a.nii.gz", affine=oblique(axes=axes)))
    assert volume.axes == axes
    turned = to_axes(volume)
    assert turned.axes == "RAS"
    expected = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii.gz"))
    assert np.array_equal(turned.values, np.asarray(expected.dataobj))
    np.testing.assert_allclose(turned.affine, expected.affine, atol=1e-5)
    back = to_axes(turned, axes)
    assert np.array_equal(back.values, volume.values)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)
    assert sorted(turned.spacing) == pytest.approx(sorted(volume.spacing))


def test_the_first_axis_of_ras_goes_to_the_patients_right(tmp_path: Path) -> None:
    values = np.full((10, 8, 6), -1000, np.int16)
    values[2, 3, 4] = 500
    # Stored towards the left: index 2 of 10, 3 mm each, from +12.
    affine = np.diag([-3.0, -2.0, 1.0, 1.0])
    affine[0, 3] = 12
    turned = to_axes(read_volume(save(tmp_path / "a.nii.gz", values, affine)))
    (place,) = np.argwhere(turned.values == 500)
    assert place.tolist() == [7, 4, 4]
    assert (turned.affine @ [*place, 1])[:3] == pytest.approx([6, -6, 4])


def test_volumes_as_m3d_cap_has_them_and_of_several_frames(tmp_path: Path) -> None:
    first = save(tmp_path / "m3d.nii.gz", np.arange(120, dtype=np.uint8).reshape(1, 4, 5, 6))
    assert frames_of(first) == 1
    assert read_volume(first).values.shape == (4, 5, 6)
    values = np.stack([hu(seed=1), hu(seed=2), hu(seed=3)], axis=3)
    several = save(tmp_path / "time.nii.gz", values)
    assert frames_of(several) == 3
    assert geometry_of(several)[0] == (20, 18, 16)
    with pytest.raises(DataError, match=r"4-D file of 3 volumes.*\n.*\n.*data.frames=split"):
        read_volume(several)
    assert np.array_equal(read_volume(several, frame=1).values, hu(seed=2))
    with pytest.raises(DataError, match="no volume 3"):
        read_volume(several, frame=3)


def test_what_is_no_volume_is_refused_with_file_and_reason(tmp_path: Path) -> None:
    good = save(
        tmp_path / "good.nii.gz", np.random.default_rng(0).integers(0, 999, (40, 40, 40), np.int32)
    )
    content = good.read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(content[: len(content) // 2])
    flipped = tmp_path / "flipped.nii.gz"
    flipped.write_bytes(content[:5000] + bytes(200) + content[5200:])
    text = tmp_path / "text.nii.gz"
    text.write_bytes(gzip.compress(b"no header"))
    for file in (cut, flipped, text, tmp_path / "absent.nii"):
        with pytest.raises(DataError, match=file.name):
            read_volume(file)
    flat = save(tmp_path / "flat.nii.gz", np.zeros((8, 8), np.int16))
    with pytest.raises(DataError, match="shape"):
        read_volume(flat)
    colors = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match=r"one number a voxel"):
        read_volume(save(tmp_path / "colors.nii.gz", colors))
    holes = hu().astype(np.float32)
    holes[3, 4, :5] = np.nan
    with pytest.raises(DataError, match="5 voxels are not numbers"):
        read_volume(save(tmp_path / "holes.nii.gz", holes))


def test_affines_that_place_no_voxel_are_refused(tmp_path: Path) -> None:
    for entry, said in ((np.nan, "not finite"), (0.0, "spacing of 0 x 2 x 2 mm")):
        affine = np.diag([entry, 2.0, 2.0, 1.0])
        image = nibabel.Nifti1Image(hu(), np.eye(4))
        image.header["sform_code"] = 2
        image.header["srow_x"], image.header["srow_y"] = affine[0], affine[1]
        image.header["srow_z"] = affine[2]
        nibabel.Nifti1Image(hu(), None, image.header).to_filename(tmp_path / "a.nii")
        with pytest.raises(DataError, match=said):
            read_volume(tmp_path / "a.nii")
    tilted = np.diag([1.0, 1.0, 3.0, 1.0])
    tilted[1, 2] = 1.0
    with pytest.raises(DataError, match=r"71\.6 degrees \(gantry tilt"):
        read_volume(save(tmp_path / "tilt.nii", affine=tilted))


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["CT_AVM", "CT_pitch", "chris_t1", "chris_PD", "MR_Gd", "spm152", "pcasl"]
)
def test_real_volumes_keep_voxels_sides_and_millimetres(real_data: Path, name: str) -> None:
    file = real_data / "volumes" / f"{name}.nii.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    frame = 4 if name == "pcasl" else None
    volume = read_volume(file, frame)
    image = nibabel.load(file)
    values = np.asarray(image.dataobj) if frame is None else np.asarray(image.dataobj)[..., frame]
    assert np.array_equal(volume.values, values.astype(np.float32))
    for axes in ("LPS", "SAR", "PIR"):
        turned = to_axes(volume, axes)
        assert axes_of(turned.affine) == axes
        back = to_axes(turned, volume.axes)
        assert np.array_equal(back.values, volume.values)
        np.testing.assert_allclose(back.affine, image.affine, atol=1e-6)
        # The brightest voxel stays where nibabel says that it is.
        before = np.unravel_index(values.argmax(), values.shape)
        after = np.unravel_index(turned.values.argmax(), turned.values.shape)
        places = [
            nibabel.affines.apply_affine(a, v)
            for a, v in ((image.affine, before), (turned.affine, after))
        ]
        if (values == values.max()).sum() == 1:
            np.testing.assert_allclose(*places, atol=1e-4)
    assert volume.spacing == pytest.approx(nibabel.affines.voxel_sizes(image.affine))


def test_headers_that_cannot_be_are_refused_in_words(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "good.nii").read_bytes())
    for offset, damage in ((70, b"\x4d\x00"), (40, b"\x09\x00"), (108, b"\x00\x00\xa0\xc0")):
        broken = content.copy()
        broken[offset : offset + len(damage)] = damage
        (tmp_path / "broken.nii").write_bytes(broken)
        for read in (read_volume, geometry_of):
            with pytest.raises(DataError, match=r"broken.nii: cannot be read"):
                read(tmp_path / "broken.nii")


def test_sides_are_in_mm_whatever_the_unit_of_the_file(tmp_path: Path) -> None:
    for unit, factor in (("meter", 0.001), ("micron", 1000.0), ("mm", 1.0), ("unknown", 1.0)):
        affine = oblique()
        affine[:3] *= factor
        image = nibabel.Nifti1Image(hu(), affine)
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii.gz")
        for found in (
            read_volume(tmp_path / "a.nii.gz").affine,
            geometry_of(tmp_path / "a.nii.gz")[1],
        ):
            np.testing.assert_allclose(found, oblique(), rtol=1e-5)


def test_a_file_that_does_not_say_which_side_is_which_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(hu(), None), tmp_path / "a.nii.gz")
    for read in (read_volume, geometry_of):
        with pytest.raises(DataError, match=r"neither sform nor qform is set"):
            read(tmp_path / "a.nii.gz")
