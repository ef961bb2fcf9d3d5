"""Few-shot classification by the nearest class mean (Snell et al. 2017, eq. 1 and 2)."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.statistics import Interval, paired_t_interval

# Numbers of features gathered at a time: 64 MiB of float32 on a CPU, 1 GiB on an accelerator.
_BLOCK_FEATURES = {"cpu": 1 << 24, "other": 1 << 28}


@torch.no_grad()
def few_shot_accuracy(
    features: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    n_way: int = 5,
    k_shot: int = 5,
    n_query: int = 15,
    episodes: int = 600,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Mean accuracy over random episodes, with Student's t interval over them.

    The interval covers the draw of the episodes and holds model and rows fixed; it says nothing
    about other rows of the same classes, nor about another training.

    Args:
        features: as the distances should see them; for cosines, normalise first.
        labels: classes, any integers; those with too few rows are left out.
        n_way: classes of an episode.
        k_shot: rows of each class that its mean is taken of.
        n_query: further rows of each class, to be classified.
        episodes: how many; each has an accuracy of its own.
        seed: of the draw, the same on every device.
        confidence: nominal coverage, in (0, 1).

    Raises:
        DataError: too few classes have k_shot + n_query rows, a size below 1, or NaN or infinite
            features.
    """
    if n_query < 1:
        raise DataError(f"{n_query} rows of each class to classify", expected="1 or more of each")
    if len(features) != len(labels):
        raise DataError(f"{len(labels)} labels for {len(features)} rows", expected="one a row")
    broken = int((~torch.isfinite(features)).any(1).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(features)} rows hold NaN or infinite values",
            expected="finite embeddings",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
    rows = sample_episodes(labels, n_way, k_shot, n_query, episodes, seed)
    budget = _BLOCK_FEATURES["cpu" if features.device.type == "cpu" else "other"]
    at_once = max(1, budget // (rows[0].numel() * features.shape[1]))
    truth = torch.arange(n_way, device=features.device).repeat_interleave(n_query)
    accuracies = []
    for block in rows.split(at_once):
        support, query = features[block].split([k_shot, n_query], dim=2)
        scores = nearest_mean(support, query.flatten(1, 2))
        accuracies.append((scores.argmax(2) == truth).double().mean(1))
    interval = paired_t_interval(torch.cat(accuracies).cpu().numpy(), confidence)
    return replace(interval, covers="episodes; trained model and rows fixed")


def nearest_mean(
    support: Float[Tensor, "episodes n_way k_shot dim"],
    queries: Float[Tensor, "episodes m dim"],
) -> Float[Tensor, "episodes m n_way"]:
    """Minus the squared distance of each query to each class mean, in float32 or better.

    A softmax over it is the classifier of a prototypical network.
    """
    dtype = torch.promote_types(support.dtype, torch.float32)
    with torch.autocast(support.device.type, enabled=False):
        means, queries = support.to(dtype).mean(2), queries.to(dtype)
        # Distances do not change with the origin, and their rounding is least around the middle.
        middle = means.mean(1, keepdim=True)
        means, queries = means - middle, queries - middle
        squares = queries.square().sum(2)[:, :, None] + means.square().sum(2)[:, None]
        return 2 * queries @ means.mT - squares


def sample_episodes(
    labels: Int[Tensor, " n"],
    n_way: int,
    k_shot: int,
    n_query: int,
    episodes: int,
    seed: int = 0,
) -> Int64[Tensor, "episodes n_way k_shot_and_n_query"]:
    """Draws classes, and rows of each of them, without replacement within an episode.

    Args:
        labels: classes, any integers; those with too few rows are never drawn.
        n_way: classes of an episode.
        k_shot: rows of each class to learn from, the first ones of the last axis.
        n_query: rows of each class to classify, the rest of it; may be 0.
        episodes: how many.
        seed: of the draw, the same on every device.

    Returns:
        Row numbers, on the device of the labels.

    Raises:
        DataError: too few classes have k_shot + n_query rows, or a size below 1.
    """
    if min(n_way, k_shot, episodes) < 1 or n_query < 0:
        raise DataError(
            f"{episodes} episodes of {n_way} classes with {k_shot} + {n_query} rows",
            expected="1 or more of each",
        )
    size = k_shot + n_query
    on_device, labels = labels.device, labels.cpu()
    order = labels.argsort(stable=True)
    counts = torch.unique(labels, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    large = (counts >= size).nonzero().flatten()
    if len(large) < n_way:
        raise DataError(
            f"{len(large)} of {len(counts)} classes have {size} rows or more",
            expected=f"{n_way} classes with {k_shot} rows to learn from and {n_query} to classify",
            fix="draw episodes of fewer classes or rows, or evaluate a larger split",
        )
    generator = torch.Generator().manual_seed(seed)
    classes = large[torch.rand(episodes, len(large), generator=generator).topk(n_way).indices]
    # Floyd's draw without replacement: a step for each row of a class, all episodes at once.
    uniform = torch.rand(size, episodes, n_way, generator=generator, dtype=torch.float64)
    chosen = torch.full((episodes, n_way, size), -1)
    for step in range(size):
        last = counts[classes] - size + step
        drawn = (uniform[step] * (last + 1)).long()
        repeated = (chosen == drawn[:, :, None]).any(2)
        chosen[:, :, step] = torch.where(repeated, last, drawn)
    # A draw is a fair set in an unfair order, so that is drawn too.
    shuffled = torch.rand(chosen.shape, generator=generator).argsort(2)
    return order[starts[classes][:, :, None] + chosen.gather(2, shuffled)].to(on_device)
