from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch.nn.functional import normalize

from core.augment.multi_crop import MultiCrop
from core.data.checks import DataError
from core.trainers.system import Batch, System
from medical.data.bags import read_bag
from medical.data.other_images import photographs_and_digits
from medical.data.patches import Patches, load_patches
from medical.data.patches_demo import write_patches
from medical.data.slides import Slides, load_slides
from medical.data.slides_demo import write_slides
from medical.patch_task import PatchProbing, resized
from medical.slide_task import SlideProbing
from medical.systems.uni import UNI


class Colours(System):
    """Means and deviations of the colours: nothing to train."""

    def embed(self, batch: Batch) -> dict[str, torch.Tensor]:
        flat = batch["image"].flatten(2)
        # Of a length at which the linear probe's penalty, which knows no scale, is weak.
        return {"image": 50 * torch.cat([flat.mean(2), flat.std(2), flat.square().mean(2)], 1)}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Patches:
    folder = tmp_path_factory.mktemp("patches") / "demo"
    write_patches(folder, train=12, valid=4, test=6, patients=8, size=32)
    return load_patches(folder)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Slides:
    folder = tmp_path_factory.mktemp("slides") / "demo"
    write_slides(folder, train=2, valid=1, test=2, n_classes=2, regions=6, width=640, height=512)
    return load_slides(folder, magnification=10, size=64)


def test_all_heads_and_their_intervals_over_patients(patches: Patches) -> None:
    task = PatchProbing(shots=(1, 4, 99), episodes=10, sizes=[16], bags=[0.5], background="stroma")
    found = task.evaluate(Colours(), patches, "test")
    chance = 1 / 6
    for head in ("linear", "knn", "simpleshot"):
        assert found.metrics[f"{head}_balanced_accuracy"] > 1.5 * chance, head
        assert f"{head}_balanced_accuracy/16_px" in found.metrics
    metrics = found.metrics
    assert metrics["retrieval@1"] <= metrics["retrieval@3"] <= metrics["retrieval@5"]
    assert "simpleshot_episodes@4" in metrics
    assert "simpleshot_episodes@99" not in metrics, "more than a class has"
    assert "mi_simpleshot_gain/50_percent" in metrics
    assert found.unit == "patient"
    assert set(found.unit_ids) == {patches.patients[r] for r in patches.splits["test"].tolist()}
    monitor = found.per_unit[task.monitor]
    assert monitor.mean() == pytest.approx(metrics[task.monitor])
    assert [row["by"] for row in found.table] == ["linear", "knn", "simpleshot"]


def test_validation_never_sees_the_test(patches: Patches) -> None:
    task = PatchProbing()
    with_all = task.evaluate(Colours(), patches, "valid").metrics
    without = task.evaluate(Colours(), patches.without_test(), "valid").metrics
    assert with_all == without
    assert not any(name.startswith("linear") for name in without), "what nobody asked for"


def test_without_labels_only_the_rank_is_told(patches: Patches) -> None:
    bare = Patches(patches.inputs, {}, patches.splits, patches.ids, {}, patches.patients)
    assert PatchProbing(monitor="rankme").evaluate(Colours(), bare, "valid").metrics.keys() == {
        "rankme"
    }
    with pytest.raises(DataError, match=r"task\.monitor=rankme needs none"):
        PatchProbing().evaluate(Colours(), bare, "valid")


def test_batches_hold_crops_and_masks_and_no_pixels_of_the_test(patches: Patches) -> None:
    system = UNI(
        image_size=16,
        patch=4,
        dim=8,
        depth=1,
        heads=1,
        n_prototypes=4,
        hidden_dim=4,
        bottleneck_dim=4,
    )
    task = PatchProbing(MultiCrop(16, 8, 1))
    first = next(iter(task.train_loader(system, patches, 24, seed=0)))
    assert first["views"].shape == (2, 24, 3, 16, 16)
    assert first["local_views"].shape == (1, 24, 3, 8, 8)
    assert first["hidden"].shape == (2, 24, 16)
    assert "image" not in first
    with pytest.raises(DataError, match="learns from crops"):
        PatchProbing().train_loader(system, patches, 24, seed=0)


def test_other_images_take_the_place_of_tissue_in_training_alone(patches: Patches) -> None:
    task = PatchProbing(images="photographs_and_digits")
    loader = task.train_loader(Colours(), patches, 72, seed=0)
    (batch,) = list(loader)
    images = photographs_and_digits(72, 32)
    assert batch["image"].shape == (72, 3, 32, 32)
    order = batch["index"].argsort()
    torch.testing.assert_close(batch["image"][order], images.float() / 255)
    grey = (images[:, 0] == images[:, 2]).flatten(1).all(1)
    assert grey.tolist() == [False] * 36 + [True] * 36
    plain = PatchProbing().evaluate(Colours(), patches, "valid").metrics
    assert task.evaluate(Colours(), patches, "valid").metrics == plain


def test_resizing_brings_the_shorter_side_and_keeps_the_middle() -> None:
    images = torch.rand(2, 3, 20, 40)
    assert resized(images, None) is images
    torch.testing.assert_close(resized(images, 20), images[..., 10:30])
    assert resized(images, 10).shape == (2, 3, 10, 10)
    assert resized(images, 30).shape == (2, 3, 30, 30)


def test_search_by_a_file_and_its_gallery(patches: Patches, tmp_path: Path) -> None:
    from torchvision.io import write_png

    row = int(patches.splits["test"][3])
    write_png(patches.inputs["image"][row], str(tmp_path / "asked.png"))
    task = PatchProbing()
    query = f"file:{tmp_path / 'asked.png'}"
    rows = task.search(Colours(), patches, query, 4)
    assert rows[0]["id"] == patches.ids[row]
    assert rows[0]["cosine"] == pytest.approx(1, abs=1e-5)
    others = task.search(Colours(), patches, f"image:{patches.ids[row]}", 3)
    assert [r["id"] for r in others] == [r["id"] for r in rows[1:]]
    task.draw_search(patches, query, rows, tmp_path / "found.png")
    task.draw_search(patches, f"image:{patches.ids[row]}", others, tmp_path / "more.png")
    assert (tmp_path / "found.png").stat().st_size > 5000
    with pytest.raises(DataError, match="cannot be decoded"):
        task.search(Colours(), patches, "file:gone.png", 3)


def test_slides_are_judged_by_three_heads(slides: Slides) -> None:
    task = SlideProbing(nearest=3, abmil_epochs=2)
    found = task.evaluate(Colours(), slides, "test")
    for head in ("abmil", "mean_pooling", "mi_simpleshot"):
        assert 0 <= found.metrics[f"{head}_balanced_accuracy"] <= 1
    tests = [slide for slide in slides.slides if slide.split == "test"]
    assert set(found.unit_ids) == {slide.patient for slide in tests}
    valid = task.evaluate(Colours(), slides.without_test(), "valid").metrics
    assert "mean_pooling_balanced_accuracy" in valid
    assert not any(name.startswith("abmil") for name in valid)
    with pytest.raises(DataError, match="no slides"):
        task.evaluate(Colours(), slides.without_test(), "test")


def test_bags_hold_the_features_of_every_patch(slides: Slides, tmp_path: Path) -> None:
    task, system = SlideProbing(), Colours()
    lines = task.embed_into(system, slides, tmp_path)
    assert len(lines) == len(slides.slides)
    whole = task.vectors(system, slides)["image"]
    for number, slide in enumerate(slides.slides[:3]):
        bag = read_bag(tmp_path / f"{slide.id}.h5")
        rows = slides.rows_of(number)
        torch.testing.assert_close(bag.features, whole[rows])
        torch.testing.assert_close(bag.corners, slides.corners[rows])
    table = task.embed(system, slides)
    assert table["id"].to_list() == slides.ids
    assert isinstance(table.schema["embedding"], pl.List)


def test_monitors_and_choices_that_do_not_exist_are_refused() -> None:
    for make, message in (
        (lambda: PatchProbing(monitor="accuracy"), "task.monitor=accuracy"),
        (lambda: SlideProbing(monitor="knn_accuracy"), "task.monitor=knn_accuracy"),
        (lambda: PatchProbing(bags=[0.1]), "task.background=NAME"),
        (lambda: PatchProbing(images="cats"), "task.images=cats"),
    ):
        with pytest.raises(DataError, match=message):
            make()


def test_cosines_are_those_of_the_features(patches: Patches) -> None:
    vectors = normalize(PatchProbing().vectors(Colours(), patches)["image"], dim=1)
    (found,) = PatchProbing().search(Colours(), patches, f"image:{patches.ids[0]}", 1)
    cosines = vectors @ vectors[0]
    cosines[0] = -1
    assert found["cosine"] == pytest.approx(cosines.max().item(), abs=1e-5)


def test_only_labelled_regions_of_training_patients_make_prototypes(slides: Slides) -> None:
    task, system, regions = SlideProbing(), Colours(), slides.regions
    whole = task._prototypes(system, slides)
    held_out = regions.splits["train"][:2]
    idle = {"train": regions.splits["train"][2:], "valid": held_out[:0], "test": held_out}
    fewer = replace(slides, regions=replace(regions, splits=idle))
    assert not torch.equal(task._prototypes(system, fewer).prototypes, whole.prototypes)
    # Whatever these look like, they say nothing.
    pixels = regions.inputs["image"].index_fill(0, held_out, 0)
    darker = replace(fewer, regions=replace(fewer.regions, inputs={"image": pixels}))
    for one, other in zip(
        task._prototypes(system, darker), task._prototypes(system, fewer), strict=True
    ):
        torch.testing.assert_close(one, other)
    unknown = regions.labels["label"].index_fill(0, held_out, -1)
    bare = replace(slides, regions=replace(regions, labels={"label": unknown}))
    for one, other in zip(
        task._prototypes(system, bare), task._prototypes(system, fewer), strict=True
    ):
        torch.testing.assert_close(one, other)
    none = torch.full_like(regions.labels["label"], int(regions.labels["label"][0]))
    assert (
        task._prototypes(system, replace(slides, regions=replace(regions, labels={"label": none})))
        is None
    )
