"""Weighted nearest-neighbour classification, exact, tiled over queries and training rows."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.encoders.neighbours import nearest

# Cosines held at a time: 64 MiB of float32 on a CPU, 1 GiB on an accelerator.
_TILE_SCORES = {"cpu": 1 << 24, "other": 1 << 28}
# Queries that share a tile of training rows, so that its product stays one of matrices.
_LEAST_QUERIES = 256


@torch.no_grad()
def knn_predict(
    train: Float[Tensor, "n dim"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m dim"],
    n_classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
    tile_scores: int | None = None,
) -> Float[Tensor, "m n_classes"]:
    """Share of the vote of the k training rows of largest cosine that falls to each class.

    A neighbour of cosine s votes with the weight exp(s / temperature) (Wu et al. 2018, section
    3.4), in float32 or better, also under autocast; on CUDA `torch.set_float32_matmul_precision`
    has its say in that. Of neighbours at equal cosine any may be among the k.

    Args:
        train: rows of any length and floating dtype.
        train_labels: their classes, 0 to n_classes - 1.
        queries: on the device of `train`.
        n_classes: number of classes.
        k: neighbours; above n, all rows vote.
        temperature: of the weights; None counts each neighbour once.
        tile_scores: cosines held at a time; by default 64 MiB on a CPU, 1 GiB elsewhere.

    Returns:
        On the device of `train`; each row sums to 1, its largest entry is the prediction.

    Raises:
        DataError: no training rows, labels that do not fit, k or temperature out of range, NaN or
            infinite rows.
    """
    _check(train, train_labels, queries, n_classes, k, temperature)
    dtype = torch.promote_types(train.dtype, torch.float32)
    train, queries = _unit_rows(train.to(dtype)), _unit_rows(queries.to(dtype))
    n, m, k = len(train), len(queries), min(k, len(train))
    if tile_scores is None:
        tile_scores = _TILE_SCORES["cpu" if train.device.type == "cpu" else "other"]
    columns = min(n, max(1, tile_scores // _LEAST_QUERIES))
    rows = max(1, tile_scores // max(columns, k, n_classes))

    shares = train.new_zeros(m, n_classes)
    labels = train_labels.long()
    with torch.autocast(train.device.type, enabled=False):
        for start in range(0, m, rows):
            cosines, ids = _nearest_of_tiles(queries[start : start + rows], train, k, columns)
            if temperature is None:
                weights = torch.ones_like(cosines)
            else:
                # Less the largest, which changes no share and keeps the exponential finite.
                weights = ((cosines - cosines[:, :1]) / temperature).exp()
            weights = weights / weights.sum(1, keepdim=True)
            # One-dimensional, as CUDA adds in a fixed order only there.
            first = torch.arange(len(ids), device=ids.device)[:, None] * n_classes
            block = shares[start : start + rows].view(-1)
            block.index_add_(0, (first + labels[ids]).flatten(), weights.flatten())
    return shares


def _unit_rows(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Rows of length 1, or 0, whatever their size: squares must not over- or underflow."""
    largest = x.abs().amax(1, keepdim=True)
    return normalize(x / largest.clamp_min(torch.finfo(x.dtype).tiny))


def _nearest_of_tiles(
    queries: Float[Tensor, "m dim"], train: Float[Tensor, "n dim"], k: int, columns: int
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """`nearest`, holding the products of `columns` training rows at a time."""
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(train), columns):
        tile = train[start : start + columns]
        values, ids = nearest(queries, tile, min(k, len(tile)), len(queries))
        ids = ids + start
        if best is not None:
            values, ids = torch.cat([best[0], values], 1), torch.cat([best[1], ids], 1)
            values, places = values.topk(min(k, values.shape[1]))
            ids = ids.gather(1, places)
        best = values, ids
    assert best is not None
    return best


def _check(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    n_classes: int,
    k: int,
    temperature: float | None,
) -> None:
    """Refuse what would end in a wrong number or in an error from inside a kernel."""
    if len(train) == 0:
        raise DataError("there are no training rows", expected="one labelled row or more")
    if train.shape[1:] != queries.shape[1:]:
        raise DataError(
            f"training rows of width {train.shape[1]}, queries of width {queries.shape[1]}",
            expected="embeddings of one model",
        )
    if len(train_labels) != len(train):
        raise DataError(
            f"{len(train_labels)} labels for {len(train)} training rows",
            expected="one label for each row",
        )
    low, high = torch.stack(torch.aminmax(train_labels)).tolist()
    if low < 0 or high >= n_classes:
        raise DataError(
            f"training labels from {low} to {high}",
            expected=f"0 to {n_classes - 1}, one number for each of {n_classes} classes",
            fix="number the classes from 0, and leave out rows without a label",
        )
    if k < 1:
        raise DataError(f"k is {k}", expected="1 neighbour or more")
    if temperature is not None and temperature <= 0:
        raise DataError(f"temperature is {temperature}", expected="a positive number, or None")
    for name, rows in (("training", train), ("query", queries)):
        broken = int((~torch.isfinite(rows)).any(1).sum())
        if broken:
            raise DataError(
                f"{broken} of {len(rows)} {name} rows hold NaN or infinite values",
                expected="finite embeddings",
                fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
            )
