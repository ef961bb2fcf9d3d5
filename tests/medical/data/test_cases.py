from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from core.augment.draws import Draws
from core.data.checks import DataError
from core.trainers.system import Batch
from medical.data.case_loader import case_loader
from medical.data.case_splits import keep_splits, kept_splits
from medical.data.cases import Cases
from medical.data.load import load_cases
from medical.data.prepared import ResidentVolumes, VolumesOnDisk, corners_of
from tests.medical.data.files import hu, save

CPU = torch.device("cpu")
COARSE = {"size": 16, "spacing": [8.0, 8.0, 8.0], "workers": 0}


@pytest.fixture(scope="module")
def resident(demo: Path) -> Cases:
    return load_cases(demo, **COARSE)


@pytest.fixture(scope="module")
def on_disk(demo: Path) -> Cases:
    return load_cases(demo, resident_gib=0, **COARSE)


def _draws(n_rows: int) -> Draws:
    return Draws(7, n_rows, slice(0, n_rows), CPU)


def test_what_is_resident_and_what_is_on_disk_is_the_same(resident: Cases, on_disk: Cases) -> None:
    assert isinstance(resident.store, ResidentVolumes)
    assert isinstance(on_disk.store, VolumesOnDisk)
    assert resident.digest() == on_disk.digest()
    rows = torch.tensor([5, 0, 9, 0])
    assert torch.equal(resident.whole(rows), on_disk.whole(rows))
    pair = resident.labelled_crops(rows, _draws(4)), on_disk.labelled_crops(rows, _draws(4))
    for ours, theirs in zip(*pair, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(resident.crops(rows, _draws(4)), pair[0][0])
    assert pair[0][0].shape == (4, 1, 16, 16, 16)
    assert 0 <= pair[0][0].min() < pair[0][0].max() <= 1
    for row in (0, 7):
        assert torch.equal(resident.volume(row), on_disk.volume(row))
        assert torch.equal(resident.segmentation(row), on_disk.segmentation(row))
        assert torch.equal(resident.affine(row), on_disk.affine(row))


def test_crops_are_parts_of_their_volumes_with_their_labels(resident: Cases) -> None:
    rows = torch.tensor([3, 1])
    crops, labels = resident.labelled_crops(rows, _draws(2))
    places = _draws(2).uniform(0, 1, 3)
    for number, row in enumerate(rows.tolist()):
        volume, truth = resident.volume(row), resident.segmentation(row)
        shape = torch.tensor(volume.shape[1:])
        x, y, z = corners_of(places[number][None], shape[None], 16)[0].tolist()
        part = (slice(x, x + 16), slice(y, y + 16), slice(z, z + 16))
        assert torch.equal(crops[number], volume[(slice(None), *part)])
        assert torch.equal(labels[number, 0], truth[part])


def test_every_place_that_fits_is_as_likely_as_any_other() -> None:
    places = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0))
    places[0] = 1 - 2**-24
    corners = corners_of(places, torch.tensor([[10, 8, 9]]).expand(6000, 3), 8)
    assert corners.amin(0).tolist() == [0, 0, 0]
    assert corners.amax(0).tolist() == [2, 0, 1]
    for axis, n_places in ((0, 3), (2, 2)):
        counts = torch.bincount(corners[:, axis], minlength=n_places)
        assert (counts - 6000 / n_places).abs().max() < 150


def test_training_never_holds_the_test_cases(resident: Cases, on_disk: Cases) -> None:
    for data in (resident, on_disk):
        kept = data.without_test()
        hidden = {data.ids[row] for row in data.splits["test"].tolist()}
        assert hidden
        assert set(kept.ids) == set(data.ids) - hidden
        assert len(kept.store) == len(kept.ids) == len(kept.reports) == len(kept.findings)
        assert len(kept.splits["test"]) == 0
        for split in ("train", "valid"):
            was = [data.ids[row] for row in data.splits[split].tolist()]
            assert [kept.ids[row] for row in kept.splits[split].tolist()] == was
        row = kept.splits["valid"][:1]
        old = torch.tensor([data.ids.index(kept.ids[int(row)])])
        assert torch.equal(kept.whole(row), data.whole(old))
        assert kept.reports[int(row)] == data.reports[int(old)]
        assert torch.equal(kept.labelled("train"), kept.splits["train"])


def test_the_digest_is_of_all_that_was_read(resident: Cases, demo: Path, tmp_path: Path) -> None:
    digests = {resident.digest()}
    digests.add(replace(resident, reports=["", *resident.reports[1:]]).digest())
    digests.add(replace(resident, patients=["x", *resident.patients[1:]]).digest())
    digests.add(load_cases(demo, split_seed=1, **COARSE).digest())
    digests.add(load_cases(demo, **COARSE | {"window": [-175.0, 249.0]}).digest())
    assert len(digests) == 5
    for name, seed in (("a", 1), ("b", 2)):
        save(tmp_path / f"{name}.nii.gz", hu(seed=seed))
    options = {"reports": False, "ratios": [1, 0, 0], "size": 8, "spacing": [2, 2, 2]}
    before = load_cases(tmp_path, **options).digest()
    save(tmp_path / "a.nii.gz", hu(seed=3))
    assert load_cases(tmp_path, **options).digest() != before


def test_nobody_is_in_two_splits_and_the_written_splits_are_read_again(
    resident: Cases, demo: Path, tmp_path: Path
) -> None:
    of = {name: set() for name in resident.patients}
    for split, rows in resident.splits.items():
        for row in rows.tolist():
            of[resident.patients[row]].add(split)
    assert len(resident.patients) > len(of)  # some return
    assert all(len(own) == 1 for own in of.values())
    keep_splits(tmp_path, resident.patients, resident.splits)
    again = load_cases(demo, **kept_splits(tmp_path), split_seed=9, **COARSE)
    for split, rows in resident.splits.items():
        assert torch.equal(again.splits[split], rows)
    # A comparison trains without the test cases: what it sees is not all of the splits.
    (tmp_path / "arm").mkdir()
    part = resident.without_test()
    keep_splits(tmp_path / "arm", part.patients, part.splits)
    assert kept_splits(tmp_path / "arm") == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_from_disk_are_those_of_resident_volumes(
    resident: Cases, on_disk: Cases, workers: int
) -> None:
    def prepare(batch: Batch, draws: Draws) -> Batch:
        return batch | {"turns": draws.uniform(0, 4)}

    pair = [
        case_loader(data, "train", 3, seed=5, prepare=prepare)
        for data in (resident, replace(on_disk, workers=workers))
    ]
    for epoch in range(2):
        batches = [list(loader) for loader in pair]
        assert len(batches[0]) == len(pair[0])
        for ours, theirs in zip(*batches, strict=True):
            assert ours.keys() == theirs.keys() == {"row", "volume", "crop", "turns"}
            for name, values in ours.items():
                assert torch.equal(values, theirs[name]), (epoch, name)
        assert torch.equal(
            torch.cat([batch["row"] for batch in batches[0]]).sort().values,
            resident.splits["train"],
        )
        first = batches[0][0]
        assert torch.equal(first["volume"], resident.whole(first["row"]))


def test_two_processes_share_what_one_would_see_and_a_killed_one_goes_on(on_disk: Cases) -> None:
    def loader(rank: int = 0, world_size: int = 1):
        return case_loader(on_disk, "train", 4, 5, rank, world_size)

    whole = list(loader())
    shares = [list(loader(rank, 2)) for rank in (0, 1)]
    for one, *parts in zip(whole, *shares, strict=True):
        for name, values in one.items():
            assert torch.equal(values, torch.cat([part[name] for part in parts])), name
    killed, resumed = loader(), loader()
    state = [killed.state_dict() for _, _ in zip(range(2), killed, strict=False)][-1]
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - 2
    for ours, expected in zip(rest, whole[2:], strict=True):
        assert torch.equal(ours["crop"], expected["crop"])


def test_four_dimensional_files_become_cases_of_one_patient(tmp_path: Path) -> None:
    values = torch.arange(2).numpy() * 40 + hu((12, 10, 9))[..., None]
    save(tmp_path / "a.nii.gz", values.astype("int16"))
    save(tmp_path / "b.nii.gz", hu((12, 10, 9), seed=3))
    options = {"reports": False, "ratios": [0.5, 0.5, 0], "size": 8, "spacing": [2, 2, 2]}
    with pytest.raises(DataError, match="4-D file of 2 volumes"):
        load_cases(tmp_path, **options)
    data = load_cases(tmp_path, frames="split", **options)
    assert data.ids == ["a_0", "a_1", "b"]
    assert data.patients == ["a", "a", "b"]
    difference = data.whole(torch.tensor([1])) - data.whole(torch.tensor([0]))
    assert difference.max() > 0.05
    with pytest.raises(DataError, match=r"data\.frames=both"):
        load_cases(tmp_path, frames="both", **options)


def test_reports_that_are_missing_empty_or_not_utf8(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    report = tmp_path / "a.txt"
    options = {"ratios": [1, 0, 0], "size": 8, "spacing": [2, 2, 2]}
    for content, said in (
        (None, "a has no report"),
        (b" \n", "an empty report"),
        ("Häufung".encode("latin1"), r"not UTF-8 \(byte 1\)"),
    ):
        if content is not None:
            report.write_bytes(content)
        with pytest.raises(DataError, match=said):
            load_cases(tmp_path, **options)
    report.write_bytes("\ufeffHäufung.".encode())
    assert load_cases(tmp_path, **options).reports == ["Häufung."]
    report.unlink()
    assert load_cases(tmp_path, reports=False, **options).reports == [""]


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    save(tmp_path / "s" / "a.nii.gz", torch.full((20, 18, 16), 2).numpy().astype("uint8"))
    (tmp_path / "cases.csv").write_text("image,report,label\na.nii.gz,Normal.,s/a.nii.gz\n")
    (tmp_path / "labels.json").write_text('{"0": "background", "1": "liver"}')
    with pytest.raises(DataError, match=r"class 2 in a segmentation\n.*0 to 1: background, liver"):
        load_cases(tmp_path, ratios=[1, 0, 0], size=8, spacing=[2, 2, 2])


def test_volumes_of_one_file_are_of_one_patient_where_a_table_says_none(tmp_path: Path) -> None:
    save(
        tmp_path / "a.nii.gz",
        torch.stack([torch.from_numpy(hu(seed=s)) for s in (1, 2)], 3).numpy(),
    )
    save(tmp_path / "b.nii.gz", hu(seed=3))
    (tmp_path / "cases.csv").write_text("image\na.nii.gz\nb.nii.gz\n")
    options = {"reports": False, "ratios": [0.5, 0.5, 0], "size": 8, "spacing": [2, 2, 2]}
    assert load_cases(tmp_path, frames="split", **options).patients == ["a", "a", "b"]


@pytest.mark.parametrize("resident_gib", [0, 1])
def test_files_beside_the_volumes_are_asked_for_in_words(
    tmp_path: Path, resident_gib: float
) -> None:
    save(tmp_path / "a.nii.gz")
    table = tmp_path / "cases.csv"
    table.write_text("image,label\na.nii.gz,gone.nii.gz\n")
    options = {"reports": False, "ratios": [1, 0, 0], "size": 8, "spacing": [2, 2, 2]}
    with pytest.raises(DataError, match=r"gone.nii.gz: no such file"):
        load_cases(tmp_path, resident_gib=resident_gib, **options)
    table.write_text("image\na.nii.gz\n")
    image = nibabel.load(tmp_path / "a.nii.gz")
    image.header["srow_x"] = np.nan
    nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(
        tmp_path / "a.nii.gz"
    )
    with pytest.raises(DataError, match="affine holds numbers that are not finite"):
        load_cases(tmp_path, resident_gib=resident_gib, **options)
    save(tmp_path / "a.nii.gz")
    for content in ("{", '{"a": [{"kind": "cyst"}]}', '["a"]'):
        (tmp_path / "findings.json").write_text(content)
        with pytest.raises(DataError, match=r"findings.json: not the findings[\s\S]*rename"):
            load_cases(tmp_path, resident_gib=resident_gib, **options)
