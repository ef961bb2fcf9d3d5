import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tifffile import TiffFile

from core.data.checks import DataError
from core.data.stored_rows import StoredRows
from medical.data.slide_checks import check_slides
from medical.data.slide_files import Grid, opened, read_patch, slide_mpp
from medical.data.slides import load_slides
from medical.data.slides_demo import write_pyramid, write_slides
from medical.data.tissue_mask import tissue_grid, tissue_mask

CUT = {"magnification": 10, "size": 64}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides") / "demo"
    write_slides(folder, train=2, valid=1, test=2, n_classes=2, regions=3, width=640, height=512)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "data"))


def test_patches_are_the_pixels_of_the_level_with_their_resolution(written: Path) -> None:
    data = load_slides(written, **CUT)
    assert data.shapes == {"image": [3, 64, 64]}
    assert len(data.slides) == 10
    row = 7
    slide = data.slides[data.slide_of[row]]
    x, y = data.corners[row].tolist()
    assert data.ids[row] == f"{slide.id}@{x}-{y}"
    # A magnification of 10 is level 1 of a slide scanned at 20.
    with TiffFile(slide.path) as tiff:
        level = tiff.pages[1].asarray()
    expected = level[y // 2 : y // 2 + 64, x // 2 : x // 2 + 64]
    np.testing.assert_array_equal(data.inputs["image"][row].permute(1, 2, 0).numpy(), expected)
    assert data.patients[row] == slide.patient
    assert data.classes["slide"][data.labels["slide"][row]] == data.slide_classes[slide.label]


def test_nothing_of_the_test_slides_is_left_for_training(written: Path) -> None:
    data = load_slides(written, **CUT)
    kept = data.without_test()
    assert {slide.split for slide in kept.slides} == {"train", "valid"}
    assert len(kept.ids) == len(kept.corners) == len(kept.inputs["image"])
    assert kept.slide_of.max() == len(kept.slides) - 1
    for number, slide in enumerate(kept.slides):
        names = [kept.ids[row] for row in kept.rows_of(number).tolist()]
        assert names
        assert all(name.startswith(f"{slide.id}@") for name in names)
    tests = {slide.patient for slide in data.slides if slide.split == "test"}
    assert tests.isdisjoint(kept.patients)


def test_streamed_slides_and_few_patches_a_slide(written: Path) -> None:
    whole = load_slides(written, **CUT)
    few = load_slides(written, **CUT, stream=True, patches_per_slide=5)
    column = few.inputs["image"]
    assert isinstance(column, StoredRows)
    rows = few.splits["train"][[0, -1]]
    torch.testing.assert_close(column.index_select(0, rows), whole.inputs["image"][rows])
    counts = torch.bincount(few.slide_of[few.splits["train"]])
    assert counts[counts > 0].tolist() == [5] * 4
    assert few.ids == whole.ids, "evaluation sees all patches"
    assert len(few.without_test().rows_of(0)) == len(whole.rows_of(0))


def test_a_finer_grid_reads_the_same_place_at_full_resolution(written: Path) -> None:
    path = written / "slide_000.tif"
    with TiffFile(path) as tiff:
        level = tiff.pages[0].asarray()
    found = read_patch(path, (130, 70), Grid(64, 0.5), 0.5)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), level[70:134, 130:194])
    between = read_patch(path, (128, 64), Grid(64, 0.75), 0.5).float()
    area = torch.from_numpy(level[64:160, 128:224]).permute(2, 0, 1).float()
    expected = torch.nn.functional.interpolate(area[None], (64, 64), mode="area")[0]
    assert (between - expected).abs().mean() < 4


def test_tissue_is_what_is_coloured(written: Path) -> None:
    pixels = np.full((40, 60, 3), 240, np.uint8)
    pixels += np.random.default_rng(0).integers(0, 6, pixels.shape, dtype=np.uint8)
    assert not tissue_mask(pixels).any(), "noise is no tissue"
    pixels[10:30, 20:50] = (200, 120, 180)
    pixels[18:22, 30:36] = 240
    mask = tissue_mask(pixels)
    truth = np.zeros((40, 60), bool)
    truth[10:30, 20:50] = True
    assert (mask != truth).mean() < 0.03
    corners = tissue_grid(truth, (600, 400), 100.0, 0.9)
    assert corners.tolist() == [
        [200, 100],
        [300, 100],
        [400, 100],
        [200, 200],
        [300, 200],
        [400, 200],
    ]
    assert len(tissue_grid(truth, (600, 400), 700.0, 0.1)) == 0


def plain(file: Path, mpp: float | None) -> None:
    """A slide of tissue whose file says, or does not say, how large its pixels are."""
    pixels = np.full((1024, 1024, 3), 250, np.uint8)
    pixels[100:900, 100:900] = (200, 120, 180)
    write_pyramid(file, pixels, mpp or 0.5)
    if mpp is None:
        with TiffFile(file, mode="r+") as tiff:
            for page in tiff.pages:
                page.tags["ResolutionUnit"].overwrite(1)


def test_an_unknown_magnification_is_asked_for(tmp_path: Path) -> None:
    plain(tmp_path / "known.tif", 0.25)
    plain(tmp_path / "unknown.tif", None)
    assert slide_mpp(tmp_path / "known.tif", None) == pytest.approx(0.25)
    assert slide_mpp(tmp_path / "known.tif", 0.5) == 0.5
    with (
        pytest.warns(UserWarning, match="nobody says"),
        pytest.raises(
            DataError, match=r"unknown.tif: its magnification is unknown[\s\S]*data.slide_mpp"
        ),
    ):
        load_slides(tmp_path, ratios=(1, 0, 0), **CUT)
    (tmp_path / "slides.csv").write_text("slide_id,case_id,mpp\nknown,a,\nunknown.tif,b,0.5\n")
    data = load_slides(tmp_path, ratios=(1, 0, 0), **CUT)
    assert [slide.mpp for slide in data.slides] == pytest.approx([0.25, 0.5])
    assert len(data.rows_of(1)) > len(data.rows_of(0)) > 0
    with pytest.raises(DataError, match=r"scanned at 0.5[\s\S]*magnification of 40"):
        load_slides(tmp_path, magnification=40, ratios=(1, 0, 0))


def test_check_names_what_is_wrong_with_each_slide(folder: Path) -> None:
    assert check_slides(folder, **CUT).problems == []
    glass = np.full((512, 640, 3), 245, np.uint8)
    write_pyramid(folder / "slide_001.tif", glass, 0.5)
    cut = folder / "slide_002.tif"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (folder / "slide_003.tif").write_text("no slide")
    table = folder / "slides.csv"
    lines = table.read_text().splitlines()
    patient = lines[1].split(",")[1]
    last = lines[-1].split(",")
    lines[-1] = ",".join([last[0], patient, *last[2:]])
    table.write_text("\n".join(lines))
    found = "\n".join(map(str, check_slides(folder, **CUT).problems))
    for part in (
        r"slide_001.tif: no tissue",
        r"slide_002.tif: ",
        r"slide_003.tif: cannot be read as TIFF",
        f"patient {patient} is in train and test",
    ):
        assert part in found, found
    assert "truncated" in found or "cannot be read as TIFF" in found
    with pytest.raises(DataError):
        load_slides(folder, **CUT)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("slide_000,", "slide_x,", "no row for slide_000.tif"),
        ("slide_000,p000", "slide_000,", "no patient for slide_000"),
        (",train", ",trian", "split 'trian' of slide_000"),
        ("patient_id", "who", "columns slide_id, who"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    folder: Path, old: str, new: str, message: str
) -> None:
    table = folder / "slides.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_slides(folder, **CUT)


def test_handles_are_opened_again_after_a_fork(written: Path) -> None:
    import multiprocessing

    path = written / "slide_000.tif"
    here = id(opened(path))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_handle_of, (path,)) != here


def _handle_of(path: Path) -> int:
    kept = opened  # the cache of the parent is here too
    return id(kept(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"magnification": 0}, "data.magnification=0"),
        ({"size": 0}, "data.size=0"),
        ({"min_tissue": 1.5}, "data.min_tissue=1.5"),
        ({"patches_per_slide": 0}, "data.patches_per_slide=0"),
    ],
)
def test_arguments_that_cannot_be(written: Path, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_slides(written, **CUT | arguments)
    assert message in str(check_slides(written, **CUT | arguments).problems[0])


def test_a_table_says_each_thing_once(folder: Path) -> None:
    table = folder / "slides.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[1].replace("p000", "p000 "), *lines[2:]]))
    assert load_slides(folder, **CUT).slides[0].patient == "p000"
    table.write_text("\n".join([*lines, lines[1].replace("train", "test")]))
    with pytest.raises(DataError, match="more than one row for slide_000"):
        load_slides(folder, **CUT)
    table.write_text("\n".join([f"{lines[0]},mpp", *(f"{line},0" for line in lines[1:])]))
    with pytest.raises(DataError, match=r"0\.0 micrometres a pixel"):
        load_slides(folder, **CUT)
    table.write_text("\n".join(lines))
    shutil.copy(folder / "slide_000.tif", folder / "slide_000.tiff")
    with pytest.raises(DataError, match="two slides are called slide_000"):
        load_slides(folder, **CUT)


def test_regions_are_in_the_split_of_their_patient(folder: Path) -> None:
    data = load_slides(folder, **CUT)
    assert [len(data.regions.splits[split]) for split in ("train", "valid", "test")] == [9, 0, 0]
    tested = next(slide.patient for slide in data.slides if slide.split == "test")
    table = folder / "regions" / "patients.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line.replace(",p001", f",{tested}") for line in lines))
    data = load_slides(folder, **CUT)
    idle = {data.regions.ids[row] for row in data.regions.splits["test"].tolist()}
    assert idle == {line.split(",")[0] for line in lines if line.endswith(",p001")}
    assert idle.isdisjoint(data.without_test().regions.ids)
    report = check_slides(folder, **CUT)
    assert any("3 patches are of patients of validation or test" in w for w in report.warnings)


def test_a_file_of_splits_stands_above_the_table(written: Path, tmp_path: Path) -> None:
    own = load_slides(written, **CUT)
    first, last = own.slides[0].patient, own.slides[-1].patient
    file = tmp_path / "splits.csv"
    file.write_text(f"patient_id,split\n{first},test\n")
    read = load_slides(written, **CUT, splits=file)
    assert {slide.patient: slide.split for slide in read.slides} == {
        slide.patient: slide.split for slide in own.slides
    } | {first: "test"}
    assert last in {slide.patient for slide in read.slides if slide.split == "test"}
    for split, rows in read.splits.items():
        numbers = set(read.slide_of[rows].tolist())
        assert numbers == {n for n, slide in enumerate(read.slides) if slide.split == split}
