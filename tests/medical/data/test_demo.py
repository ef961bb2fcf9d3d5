import json
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest

from core.data.checks import DataError
from medical.data.demo import write_demo
from medical.data.load import load_cases
from medical.data.phantom_reports import write_report
from medical.data.phantoms import CLASSES, SITES, Lesion, draw_anatomy, draw_lesions, torso
from medical.data.read_volume import read_volume

# HU that each kind has in its middle, within four deviations of the noise.
HU = {
    "nodule": (-10, 110),
    "effusion": (-45, 70),
    "cyst": (-55, 80),
    "hemangioma": (115, 235),
    "stone": (250, 900),
    "aneurysm": (125, 245),
}


def test_each_finding_is_where_it_is_said_to_be(demo: Path) -> None:
    known = json.loads((demo / "findings.json").read_text())
    kinds = set()
    for name, findings in known.items():
        volume = read_volume(demo / "images" / f"{name}.nii.gz")
        labels = read_volume(demo / "labels" / f"{name}.nii.gz")
        np.testing.assert_allclose(labels.affine, volume.affine)
        for one in findings:
            voxel = np.linalg.inv(volume.affine) @ [*one["centre_mm"], 1]
            x, y, z = np.rint(voxel[:3]).astype(int)
            assert CLASSES[labels.values[x, y, z]] == "lesion", (name, one)
            low, high = HU.get(one["kind"], (-np.inf, np.inf))
            assert low < volume.values[x, y, z] < high, (name, one)
            side = one["centre_mm"][0]
            assert not one["site"].startswith("right") or side > 0
            if one["site"].startswith("left") and "liver" not in one["site"]:
                assert side < 0
            kinds.add(one["kind"])
    assert len(kinds) >= 5
    assert any(not findings for findings in known.values())


def test_spacing_axes_and_tilt_differ_and_some_files_need_their_intercept(demo: Path) -> None:
    images = [nibabel.load(file) for file in sorted((demo / "images").iterdir())]
    assert len({nibabel.aff2axcodes(image.affine) for image in images}) >= 3
    assert len({round(float(image.header.get_zooms()[0]), 2) for image in images}) == len(images)
    stored = [np.asarray(image.dataobj.get_unscaled()).min() for image in images]
    assert {bool(low >= 0) for low in stored} == {True, False}
    assert {np.asarray(image.dataobj).min() < -900 for image in images} == {True}
    tilts = [np.abs(nibabel.affines.obliquity(image.affine)).max() for image in images]
    assert min(tilts) < 1e-4
    assert max(tilts) > 0.02


def test_organs_have_their_hu_and_their_sides() -> None:
    steps = np.meshgrid(*(np.arange(-165, 166, 6.0),) * 3, indexing="ij")
    x, y, z = (axis.astype(np.float32) for axis in steps)
    hu, labels = torso(draw_anatomy(np.random.default_rng(4)), [], x, y, z)
    ranges = {
        "lungs": (-850, -820),
        "liver": (90, 125),
        "spine": (250, 450),
        "kidneys": (160, 170),
        "aorta": (175, 185),
    }
    for name, (low, high) in ranges.items():
        own = labels == CLASSES.index(name)
        assert low < np.median(hu[own]) < high, name
    liver = labels == CLASSES.index("liver")
    assert np.median(x[liver]) > 30
    assert np.median(y[labels == CLASSES.index("spine")]) < -50
    assert np.median(z[labels == CLASSES.index("lungs")]) > np.median(z[liver]) + 50


def test_every_kind_at_every_site_shows_in_the_window_and_in_the_report() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        lesions = draw_lesions(rng, draw_anatomy(rng), 3)
        assert len({lesion.site for lesion in lesions}) == 3
        assert all(lesion.site in SITES[lesion.kind] for lesion in lesions)
        text = write_report(rng, lesions)
        for lesion in lesions:
            if lesion.kind not in ("effusion",):
                assert f"{lesion.size:.0f}" in text
            assert lesion.site in text.lower()  # of the impression, in words that do not vary
    texts = {write_report(np.random.default_rng(seed), lesions) for seed in range(30)}
    assert len(texts) == 30


def test_a_report_never_denies_what_is_there() -> None:
    denials = {
        "nodule": ("no pulmonary nodule", "lungs are clear"),
        "effusion": ("no pleural effusion", "free of fluid"),
        "stone": ("no renal calculus", "kidneys are normal"),
        "aneurysm": ("no aortic aneurysm", "normal caliber"),
    }
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kind = list(denials)[seed % 4]
        lesion = Lesion(kind, SITES[kind][0], 30.0, (0.0, 0.0, 0.0))
        text = write_report(rng, [lesion]).lower()
        assert not any(denied in text for denied in denials[kind])
        spine = write_report(rng, [Lesion("metastasis", "thoracic spine", 20.0, (0, 0, 0))])
        assert "vertebral bodies are intact" not in spine
        liver = write_report(rng, [Lesion("metastasis", SITES["metastasis"][0], 20.0, (0, 0, 0))])
        assert "liver is unremarkable" not in liver
        assert "No focal liver lesion" not in liver


def test_findings_are_voxels_of_the_whole_cube(demo: Path) -> None:
    data = load_cases(demo, size=32, spacing=[7.0, 7.0, 7.0])
    cubes = data.whole(data.splits["train"])
    seen = 0
    for row, cube in zip(data.splits["train"].tolist(), cubes, strict=True):
        for one in data.findings[row]:
            assert all(0 <= place < 32 for place in one.centre)
            if one.kind == "nodule" and one.size >= 24:
                x, y, z = (round(place) for place in one.centre)
                # Tissue in a lung that the window shows black.
                assert cube[0, x, y, z] > 0.2
                seen += 1
    assert seen >= 1


def test_the_same_seed_gives_the_same_and_who_returns_has_grown(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "a", patients=3, voxel=7.0, preview=True)
    for file in ("images/ct0001.nii.gz", "labels/ct0002.nii.gz"):
        ours, theirs = (nibabel.load(folder / file) for folder in (tmp_path / "a", demo))
        assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    assert (tmp_path / "a" / "preview.png").stat().st_size > 10_000
    table = pl.read_csv(demo / "cases.csv")
    known = json.loads((demo / "findings.json").read_text())
    twice = table.group_by("patient_id").agg(pl.col("image")).filter(pl.col("image").list.len() > 1)
    assert len(twice) >= 1
    for images in twice["image"]:
        first, second = (known[Path(image).name[:6]] for image in images)
        assert [one["site"] for one in first] == [one["site"] for one in second]
        for one, later in zip(first, second, strict=True):
            assert later["size_mm"] == round(one["size_mm"] * 1.15)


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        write_demo(tmp_path, patients=1)
    assert (tmp_path / "thesis.txt").read_text() == "all my work"
