"""SimpleShot: the nearest class mean of centred unit features (Wang et al. 2019, arXiv 1911.04623).

Features lose the mean of the support and are brought to unit length; a class is the mean of its
support, which is shorter than 1 and stays so: by Euclidean distance that counts, by cosine it would
not.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.evaluation.prototypes import sample_episodes

# Distances held at a time: 64 MiB of float32 on a CPU, 1 GiB on an accelerator.
_BLOCK = {"cpu": 1 << 24, "other": 1 << 28}


class SimpleShot(NamedTuple):
    """Classes as points.

    Attributes:
        mean: (dim,) of the support, which features lose.
        prototypes: (classes, dim) means of the centred unit features; NaN for a class without any.
    """

    mean: Float[Tensor, " dim"]
    prototypes: Float[Tensor, "classes dim"]

    @classmethod
    def fit(
        cls, support: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], n_classes: int
    ) -> "SimpleShot":
        """Means of the classes of labelled rows, in float32 or better."""
        x = support.to(torch.promote_types(support.dtype, torch.float32))
        mean = x.mean(0)
        unit = normalize(x - mean, dim=1)
        sums = unit.new_zeros(n_classes, unit.shape[1]).index_add_(0, labels.long(), unit)
        counts = torch.bincount(labels.long(), minlength=n_classes)
        return cls(mean, sums / counts[:, None])

    def centred(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m dim"]:
        """The features without the mean of the support, of unit length."""
        return normalize(features.to(self.mean.dtype) - self.mean, dim=1)

    def squared_distances(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m classes"]:
        """Of the centred unit features to the prototypes; infinite to a class without any."""
        unit, squares = self.centred(features), self.prototypes.square().sum(1)
        distances = unit.square().sum(1, keepdim=True) + squares - 2 * unit @ self.prototypes.T
        return distances.clamp(min=0).nan_to_num(torch.inf)

    def predict(self, features: Float[Tensor, "m dim"]) -> Int64[Tensor, " m"]:
        """The class of the nearest prototype."""
        return self.squared_distances(features).argmin(1)


@torch.no_grad()
def simpleshot_episodes(
    support: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m dim"],
    query_labels: Int[Tensor, " m"],
    shots: int,
    episodes: int = 1000,
    seed: int = 0,
) -> Float[Tensor, " episodes"]:
    """Balanced accuracy of SimpleShot on all queries, with `shots` rows of every class drawn anew.

    Each episode centres by its own support. With the mean m and the prototypes p of an episode, the
    query of largest 2 (q - m) p / |q - m| - |p|^2 wins: the products q m and q p of all queries
    with all episodes of a block are one matrix product, and no centred copy of the queries is made.

    Args:
        support: labelled rows to draw from.
        labels: their classes; those with fewer than `shots` rows are left out.
        queries: rows to be classified, all of them in every episode.
        query_labels: their classes; rows of a class without support are left out.
        shots: rows of each class.
        episodes: how many draws.
        seed: of the draws, the same on every device.

    Raises:
        DataError: fewer than two classes have so many rows, or no query is of one.
    """
    numbers, dense = torch.unique(labels, return_inverse=True)
    enough = torch.bincount(dense) >= shots
    classes = numbers[enough]
    kept = torch.isin(query_labels, classes)
    if len(classes) < 2 or not kept.any():
        raise DataError(
            f"{len(classes)} classes have {shots} rows or more",
            expected="two or more, and queries of them",
            fix="draw fewer rows of a class: task.shots",
        )
    dtype = torch.promote_types(support.dtype, torch.float32)
    # The same shift of all changes nothing but the rounding.
    origin = support.to(dtype).mean(0)
    x, q = support.to(dtype) - origin, queries[kept].to(dtype) - origin
    truth = torch.searchsorted(classes, query_labels[kept])
    rows, order = _support_rows(labels, len(classes), shots, episodes, seed)
    budget = _BLOCK["cpu" if x.device.type == "cpu" else "other"]
    at_once = max(1, budget // max(len(q) * (len(classes) + 1), rows[0].numel() * x.shape[1]))
    hits = [
        (predicted == truth).to(dtype)
        for some, own in zip(rows.split(at_once), order.split(at_once), strict=True)
        for predicted in [_predicted(x[some], own, q, classes)]
    ]
    counts = torch.bincount(truth, minlength=len(classes))
    present = counts > 0
    weight = (present / counts.clamp(min=1) / present.sum()).to(dtype)[truth]
    return torch.cat(hits) @ weight


def _support_rows(
    labels: Tensor, n_classes: int, shots: int, episodes: int, seed: int
) -> tuple[Int64[Tensor, "episodes n_way shots"], Int64[Tensor, "episodes n_way"]]:
    """Rows of every class, and which class stands where."""
    rows = sample_episodes(labels, n_classes, shots, 0, episodes, seed)
    return rows, labels[rows[:, :, 0]]


def _predicted(
    support: Float[Tensor, "episodes n_way shots dim"],
    classes_of: Int64[Tensor, "episodes n_way"],
    queries: Float[Tensor, "m dim"],
    classes: Int64[Tensor, " n_way"],
) -> Int64[Tensor, "episodes m"]:
    """Place in `classes` of the nearest prototype."""
    episodes, n_way = classes_of.shape
    mean = support.mean((1, 2))
    prototypes = normalize(support - mean[:, None, None], dim=3).mean(2)
    points = torch.cat([prototypes, mean[:, None]], 1).flatten(0, 1)
    products = (queries @ points.T).unflatten(1, (episodes, n_way + 1))
    with_mean = products[..., n_way]
    length = queries.square().sum(1, keepdim=True) - 2 * with_mean + mean.square().sum(1)
    across = (products[..., :n_way] - (prototypes @ mean[..., None])[..., 0]) / (
        length.clamp(min=torch.finfo(length.dtype).tiny).sqrt()[..., None]
    )
    scores = 2 * across - prototypes.square().sum(2)
    place = torch.searchsorted(classes, classes_of)
    return place.gather(1, scores.argmax(2).T)
