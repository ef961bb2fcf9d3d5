"""Linear segmentation: a linear probe on the tokens of patches, whose scores become pixels."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation
from core.evaluation.linear_probe import LinearProbe
from core.evaluation.segmentation import SegmentationScores
from core.trainers.system import Batch, System
from remote_sensing.data.chips import UNKNOWN, Chips
from remote_sensing.features import rows_at_a_time, with_joint

_PENALTY = 1e-3
# So many patches at most teach the probe, drawn at random.
_MOST_PATCHES = 20_000


@torch.no_grad()
def segmentation(
    system: System, data: Chips, train: Int64[Tensor, " t"], rows: Int64[Tensor, " n"]
) -> dict[str, Evaluation]:
    """MIoU of a linear probe on the tokens of each sensor and of all, with the value of each chip.

    Chips are read, and their tokens made, some at a time; no more than 20,000 tokens are kept.

    Args:
        system: has `tokens`.
        data: chips with land cover.
        train: those that teach the probes.
        rows: those that are judged.

    Returns:
        Nothing where the training chips have fewer than two classes.
    """
    n_classes = data.n_classes["label"]
    taught, labels = _patches(system, data, train)
    if len(labels.unique()) < 2:
        return {}
    probes = {
        sensor: LinearProbe.fit(tokens, labels, tokens, labels, (_PENALTY,))
        for sensor, tokens in taught.items()
    }
    counts = {sensor: SegmentationScores(n_classes, UNKNOWN) for sensor in probes}
    first = 0
    for tokens, cover in _tokens(system, data, rows):
        numbers = list(range(first, first + len(cover)))
        first += len(cover)
        for sensor, probe in probes.items():
            predicted = pixel_classes(probe, tokens[sensor], *cover.shape[1:])
            counts[sensor].update(predicted, cover, numbers)
    return {sensor: of.evaluation() for sensor, of in counts.items()}


def _tokens(
    system: System, data: Chips, rows: Int64[Tensor, " n"]
) -> Iterator[tuple[Batch, Int64[Tensor, "some height width"]]]:
    """Tokens of each sensor and of all, and the land cover, of some chips at a time."""
    for some in rows_at_a_time(data, rows):
        batch = data.batch(some)
        images = {name: batch[name] for name in data.inputs}
        tokens = system.tokens(images)  # type: ignore[operator]
        yield with_joint({k: of.float() for k, of in tokens.items()}), data.covers(some, batch)


def _patches(
    system: System, data: Chips, rows: Int64[Tensor, " t"]
) -> tuple[dict[str, Float[Tensor, "patches dim"]], Int64[Tensor, " patches"]]:
    """Tokens of patches that have a class, drawn at random, and their classes."""
    generator = torch.Generator().manual_seed(0)
    kept: dict[str, Tensor] = {}
    for tokens, cover in _tokens(system, data, rows):
        n_patches = next(iter(tokens.values())).shape[1]
        labels = patch_labels(cover, n_patches, data.n_classes["label"], UNKNOWN).flatten()
        found = {f"of/{sensor}": of.flatten(0, 1) for sensor, of in tokens.items()}
        found |= {"label": labels}
        # Those of the smallest numbers stay: the same draw as if all were there at once.
        found["number"] = torch.rand(len(labels), generator=generator).to(labels.device)
        known = (labels >= 0).nonzero().flatten()
        found = {name: of[known] for name, of in found.items()}
        kept = {name: torch.cat([kept[name], of]) if kept else of for name, of in found.items()}
        chosen = kept["number"].argsort()[:_MOST_PATCHES]
        kept = {name: of[chosen] for name, of in kept.items()}
    of_sensors = {name[3:]: of for name, of in kept.items() if name.startswith("of/")}
    return of_sensors, kept["label"]


def patch_labels(
    cover: Int[Tensor, "n height width"], n_patches: int, n_classes: int, unknown: int
) -> Int64[Tensor, "n patches"]:
    """The class of most pixels of each square patch, -1 where it has none; row by row.

    Raises:
        DataError: the chips have not so many square patches.
    """
    side = (cover[0].numel() / n_patches) ** 0.5
    size = round(side)
    if size < 1 or size**2 * n_patches != cover[0].numel() or cover.shape[1] % size:
        raise DataError(f"{n_patches} tokens of chips of {cover.shape[2]} x {cover.shape[1]}")
    cells = cover.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
    flat = cells.flatten(3).flatten(1, 2)
    counts = torch.stack([(flat == number).sum(2) for number in range(n_classes)], 2)
    known = (flat != unknown).any(2)
    return torch.where(known, counts.argmax(2), -1)


def pixel_classes(
    probe: LinearProbe, tokens: Float[Tensor, "n patches dim"], height: int, width: int
) -> Int64[Tensor, "n height width"]:
    """The class of every pixel: scores of the patches, enlarged bilinearly."""
    side = round((height * width / tokens.shape[1]) ** 0.5)
    scores = probe.scores(tokens.flatten(0, 1).float()).unflatten(0, tokens.shape[:2])
    image = scores.transpose(1, 2).unflatten(2, (height // side, width // side))
    return interpolate(image, (height, width), mode="bilinear", align_corners=False).argmax(1)
