from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from core.data.checks import DataError
from medical.data.layouts import CaseFiles
from medical.data.prepare import (
    Preparation,
    expected_bytes,
    prepare_case,
    read_prepared,
    resample,
    slice_places,
    whole_cube,
    whole_position,
)
from medical.data.read_volume import Volume, read_volume, to_axes
from tests.medical.data.files import hu, oblique, save


def _case(image: Path, label: Path | None = None, frame: int | None = None) -> CaseFiles:
    return CaseFiles("a", "p", image, None, label, None, frame)


@pytest.mark.parametrize("size", [16, 40])
def test_equals_the_chain_of_monai(tmp_path: Path, size: int) -> None:
    from monai.transforms import (
        Compose,
        CropForegroundd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
        SpatialPadd,
    )

    affine = np.array([[0, 0, 2.4, -9], [-1.7, 0, 0, 30], [0, 1.3, 0, 4], [0, 0, 0, 1.0]])
    values = hu((20, 18, 16))
    # Rounding must not decide whether a plane between air and tissue is black.
    values[:2] = values[-2:] = -1000
    file = save(tmp_path / "a.nii.gz", values, affine)
    keys, side = "image", (size,) * 3
    chain = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            Orientationd(keys, "RAS", labels=None),
            ScaleIntensityRanged(keys, -175, 250, 0, 1, clip=True),
            Spacingd(keys, pixdim=(1, 1, 0.5), mode="bilinear", min_pixdim=(1, 1, 1)),
            CropForegroundd(keys, source_key=keys, allow_smaller=True),
            SpatialPadd(keys, side),
        ]
    )
    expected = chain({"image": str(file)})["image"]
    found = prepare_case(_case(file), Preparation(size))
    assert found.voxels.shape == expected.shape[1:]
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    # Half a step of 8 bits, and single precision.
    assert (found.voxels.float() / 255 - expected[0].as_tensor()).abs().max() < 0.5 / 255 + 1e-4
    places = np.linspace(0, expected.shape[3] - 1, size).round().astype(int)
    whole = interpolate(expected.as_tensor()[:, :, :, places][None], side, mode="area")[0, 0]
    assert (found.whole.float() / 255 - whole).abs().max() < 0.5 / 255 + 1e-4


def test_what_is_linear_in_millimetres_stays_so_however_the_axes_lie(tmp_path: Path) -> None:
    for axes in ("RAS", "LPI", "SAL"):
        affine, shape = oblique(axes=axes), (30, 26, 12)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        slope = np.array([1.0, -2.0, 0.7])
        values = (grid @ affine[:3, :3].T + affine[:3, 3]) @ slope - 140
        file = save(tmp_path / "a.nii.gz", values.astype(np.float32), affine)
        low, high = float(values.min()) - 1, float(values.max()) + 1
        how = Preparation(8, (1.0, 1.3, 0.9), "window", (low, high))
        found = prepare_case(_case(file), how)
        # Away from the last voxels, beyond which values no longer change.
        inner = np.stack(np.meshgrid(*(np.arange(1, n - 5) for n in found.voxels.shape)), -1)
        inner = inner.reshape(-1, 3)
        a = found.affine.numpy()
        expected = (inner @ a[:3, :3].T + a[:3, 3]) @ slope - 140
        seen = found.voxels.numpy()[tuple(inner.T)] / 255 * (high - low) + low
        assert np.abs(seen - expected).max() < 0.5 / 255 * (high - low) + 1e-2
        lengths = np.linalg.norm(a[:3, :3], axis=0)
        np.testing.assert_allclose(lengths, (1.0, 1.3, 0.9), atol=1e-6)


def test_segmentations_go_with_their_volume(tmp_path: Path) -> None:
    values = np.full((24, 20, 14), -1000, np.int16)
    values[4:15, 6:15, 3:12] = 200
    labels = (values > 0).astype(np.uint8) * 3
    affine = oblique(axes="LSA")
    image = save(tmp_path / "a.nii.gz", values, affine)
    label = save(tmp_path / "b.nii.gz", labels, affine)
    found = prepare_case(_case(image, label), Preparation(30, (1.1, 0.7, 1.6)))
    assert found.labels.shape == found.voxels.shape
    assert set(found.labels.unique().tolist()) == {0, 3}
    # Nearest and linear differ by less than a voxel, at the surface alone.
    bright = found.voxels > 255 * (375 / 425) - 1
    assert (bright & (found.labels == 0)).sum() == 0
    assert ((found.labels == 3) & (found.voxels == 0)).sum() == 0


def test_nearest_takes_values_and_linear_blends_them() -> None:
    volume = Volume(np.zeros((4, 1, 1)), np.diag([2.0, 1.0, 1.0, 1.0]))
    values = torch.tensor([0.0, 10.0, 20.0, 30.0]).view(4, 1, 1)
    linear, affine = resample(values, volume, (1.0, 1.0, 1.0))
    assert linear.flatten().tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert affine[0, 0] == 1
    thick, _ = resample(values, volume, (3.0, 1.0, 1.0))
    assert thick.flatten().tolist() == [0, 15, 30]
    nearest, _ = resample(values.byte(), volume, (1.5, 1.0, 1.0), nearest=True)
    assert nearest.flatten().tolist() == [0, 10, 20, 20, 30]


def test_the_whole_cube_is_of_rounded_slices_and_areas() -> None:
    assert slice_places(10, 4).tolist() == [0, 3, 6, 9]
    assert slice_places(5, 8).tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    image = torch.zeros(8, 6, 10)
    image[4, 3, 6] = 1
    cube = whole_cube(image, 4)
    assert torch.nonzero(cube).tolist() in ([[2, 1, 2], [2, 2, 2]], [[2, 2, 2]])
    x, y, z = whole_position(np.array([4.0, 3.0, 6.0]), (8, 6, 10), 4)
    assert (x, y) == pytest.approx((1.75, 11 / 6))
    assert z == 2


def test_percentiles_and_bytes(tmp_path: Path) -> None:
    values = np.zeros((12, 12, 12), np.float32)
    values[2:10, 2:10, 2:10] = np.linspace(100, 900, 512).reshape(8, 8, 8)
    file = save(tmp_path / "mr.nii.gz", values)
    found = prepare_case(_case(file), Preparation(8, (2.0, 2.0, 2.0), "percentiles"))
    low, high = np.percentile(values[values > 0], (0.5, 99.5))
    middle = float(found.voxels[4, 4, 4]) / 255
    expected = (values[6, 6, 6] - low) / (high - low)
    assert middle == pytest.approx(expected, abs=0.01)
    with pytest.raises(DataError, match="0 to 255"):
        prepare_case(_case(file), Preparation(8, intensity="bytes"))
    with pytest.raises(DataError, match=r"no voxel below 0 HU[\s\S]*slope and intercept"):
        prepare_case(_case(file), Preparation(8))


def test_a_prepared_volume_is_kept_until_its_file_or_its_preparation_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(path: Path, frame: int | None = None, series: str | None = None) -> Volume:
        read.append(path.name)
        return read_volume(path, frame, series)

    monkeypatch.setattr("medical.data.prepare.read_volume", counted)
    image = save(tmp_path / "a.nii.gz", hu(seed=1))
    label = save(tmp_path / "b.nii.gz", (hu(seed=1) > 0).astype(np.uint8))
    how = Preparation(8, (2.0, 2.0, 2.0))
    first = read_prepared(_case(image, label), how)
    again = read_prepared(_case(image, label), how)
    assert read == ["a.nii.gz", "b.nii.gz"]
    for name in ("voxels", "whole", "affine", "labels"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    read_prepared(_case(image, label), Preparation(8, (2.0, 2.0, 2.1)))
    assert len(read) == 4
    save(image, hu(seed=2))
    changed = read_prepared(_case(image, label), how)
    assert len(read) == 6
    assert not torch.equal(changed.voxels, first.voxels)
    read_prepared(_case(image), how, use_cache=False)
    assert len(read) == 7
    assert read_prepared(_case(image), how).labels is None


def test_volumes_that_cannot_be_prepared_are_refused(tmp_path: Path) -> None:
    black = save(tmp_path / "black.nii.gz", np.full((6, 6, 6), -1000, np.int16))
    with pytest.raises(DataError, match="no voxel is above -175"):
        prepare_case(_case(black), Preparation(4))
    odd = save(tmp_path / "odd.nii.gz", np.full((6, 6, 6), -32000, np.int16))
    with pytest.raises(DataError, match="HU, -4096 to 32767"):
        prepare_case(_case(odd), Preparation(4))
    good = save(tmp_path / "good.nii.gz")
    small = save(tmp_path / "small.nii.gz", np.zeros((20, 18, 15), np.uint8))
    with pytest.raises(DataError, match=r"shape \(20, 18, 15\), its volume has \(20, 18, 16\)"):
        prepare_case(_case(good, small), Preparation(4))
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    moved[2, 3] = 2.5
    aside = save(tmp_path / "aside.nii.gz", np.zeros((20, 18, 16), np.uint8), moved)
    with pytest.raises(DataError, match=r"lies 2.5 mm beside"):
        prepare_case(_case(good, aside), Preparation(4))
    soft = save(tmp_path / "soft.nii.gz", np.full((20, 18, 16), 0.5, np.float32))
    with pytest.raises(DataError, match="whole numbers"):
        prepare_case(_case(good, soft), Preparation(4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "data.size=0"),
        ({"spacing": (1.0, 0.0, 1.0)}, "data.spacing"),
        ({"intensity": "hounsfield"}, "window, bytes or percentiles"),
        ({"window": (250.0, -175.0)}, "lower first"),
    ],
)
def test_preparations_that_cannot_be(arguments: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Preparation(**arguments)


def test_the_size_is_known_from_headers(tmp_path: Path) -> None:
    # Nothing to crop, an odd order of axes, and one shorter than the cube.
    values = np.full((20, 18, 4), 100, np.int16)
    values[0, 0, 0] = -200
    for axes in ("RAS", "SRA", "PIL"):
        file = save(tmp_path / "a.nii.gz", values, oblique((0.8, 0.9, 3.0), axes))
        for spacing in ((1.0, 0.7, 2.3), (1.7, 3.1, 0.4)):
            how = Preparation(8, spacing)
            found = prepare_case(_case(file), how)
            assert found.voxels.numel() == expected_bytes(_case(file), how)
    assert expected_bytes(_case(file, file), how) == 2 * expected_bytes(_case(file), how)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "intensity"),
    [("CT_pitch", "bytes"), ("CT_AVM", "percentiles"), ("MR_Gd", "percentiles")],
)
def test_real_volumes_are_prepared_where_they_lie(
    real_data: Path, name: str, intensity: str
) -> None:
    file = real_data / "volumes" / f"{name}.nii.gz"
    if not file.is_file():
        pytest.skip(f"no {file}")
    found = prepare_case(_case(file), Preparation(64, (2.0, 2.0, 2.0), intensity))
    volume = to_axes(read_volume(file))
    # The middle of what is bright, in mm, before and after.
    middles = []
    for values, affine in (
        (volume.values.astype(np.float64), volume.affine),
        (found.voxels.numpy().astype(np.float64), found.affine.numpy()),
    ):
        scale = np.percentile(values[values > 0], 60)
        places = np.argwhere(values > scale)
        middles.append(affine[:3, :3] @ places.mean(0) + affine[:3, 3])
    assert np.abs(middles[0] - middles[1]).max() < 2.5
