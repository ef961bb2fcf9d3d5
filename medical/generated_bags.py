"""Slides put together from labelled patches, of which few show what the slide is of."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.simpleshot import SimpleShot
from medical.bag_heads import bag_means, mi_simpleshot
from medical.scores import judged_classes

_PATCHES = 60  # of a slide
_SLIDES = 20  # of every class
_SEED = 0


class Labelled(NamedTuple):
    """Features of some patches and their classes."""

    features: Float[Tensor, "n dim"]
    labels: Int64[Tensor, " n"]


def compare_bag_heads(
    train: Labelled, test: Labelled, background: int, purity: float
) -> dict[str, float]:
    """Balanced accuracy of slides by their nearest patches, and by the mean of all.

    A slide of each class but the background has 60 patches, of which the share `purity` is of its
    class and the rest is background; 20 slides of every class, put together from training and from
    test patches. MI-SimpleShot has the training patches of these classes as its labelled regions
    and sees no training slide; the mean of a slide is classified by SimpleShot on the means of the
    training slides, which are as pure.

    Args:
        train: patches with features.
        test: patches of other patients.
        background: the class that fills slides.
        purity: share of a slide that shows its class, above 0.

    Returns:
        `mi_simpleshot/10_percent`, `mean_pooling/10_percent` and their difference,
        `mi_simpleshot_gain/10_percent`, for a purity of 0.1.

    Raises:
        DataError: no class besides the background has patches of both splits, or a purity that is
            no share.
    """
    if not 0 < purity <= 1:
        raise DataError(f"task.bags: {purity}", expected="shares above 0, up to 1")
    classes = [c for c in train.labels.unique().tolist() if c != background]
    classes = [c for c in classes if bool((test.labels == c).any())]
    if len(classes) < 2 or not bool((test.labels == background).any()):
        raise DataError(
            "slides need patches of the background and of two classes besides it, in training and "
            "test",
            fix="leave task.bags out",
        )
    generator = torch.Generator().manual_seed(_SEED)
    of_train, _ = _slides(train, classes, background, purity, generator)
    of_test, truth = _slides(test, classes, background, purity, generator)
    truth = truth.to(test.features.device)

    regions = [(train.labels == c).nonzero().flatten() for c in classes]
    numbers = torch.cat([torch.full_like(rows, n) for n, rows in enumerate(regions)])
    prototypes = SimpleShot.fit(train.features[torch.cat(regions)], numbers, len(classes))
    by_patches = -mi_simpleshot(prototypes, of_test)
    slides = SimpleShot.fit(bag_means(of_train), truth, len(classes))
    by_mean = -slides.squared_distances(bag_means(of_test))

    ids = range(len(truth))
    found = {
        name: judged_classes(scores, truth, ids, "slide").metrics["balanced_accuracy"]
        for name, scores in (("mi_simpleshot", by_patches), ("mean_pooling", by_mean))
    }
    found["mi_simpleshot_gain"] = found["mi_simpleshot"] - found["mean_pooling"]
    return {f"{name}/{100 * purity:g}_percent": value for name, value in found.items()}


def _slides(
    patches: Labelled, classes: list[int], background: int, purity: float, draw: torch.Generator
) -> tuple[list[Float[Tensor, "patches dim"]], Int64[Tensor, " slides"]]:
    rows_of = {c: (patches.labels == c).nonzero().flatten() for c in (*classes, background)}
    n_own = max(1, round(_PATCHES * purity))
    bags, labels = [], []
    for number, own in enumerate(classes):
        for _ in range(_SLIDES):
            drawn = [
                rows[torch.randint(len(rows), (n,), generator=draw).to(rows.device)]
                for rows, n in ((rows_of[own], n_own), (rows_of[background], _PATCHES - n_own))
            ]
            bags.append(patches.features[torch.cat(drawn)])
            labels.append(number)
    return bags, torch.tensor(labels)
