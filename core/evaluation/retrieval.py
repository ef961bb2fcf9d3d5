"""Retrieval between two sets of embeddings: R@k, MRR, median rank, mAP, tiled over queries.

A query and a row of the gallery belong together where their ids are equal; a query may have
several such positives. Ties count against the query: a positive comes after all negatives of its
score, so that a collapsed embedding finds nothing. Cosines are a tie where they differ by no more
than eight roundings, because those of two equal rows differ by the way a matrix product is cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.functional import normalize

from core.data.checks import DataError
from core.evaluation.evaluation import Evaluation

# Cosines held at a time: 16 MiB of float32 on a CPU, 1 GiB on an accelerator.
_TILE_SCORES = {"cpu": 1 << 22, "other": 1 << 28}
# Positives of a query up to which counting what is above each of them beats sorting the row.
_FEW_POSITIVES = 16


def retrieval_both_ways(
    first: Float[Tensor, "n dim"],
    second: Float[Tensor, "m dim"],
    first_ids: Int[Tensor, " n"],
    second_ids: Int[Tensor, " m"],
    names: tuple[str, str],
    topk: Sequence[int] = (1, 5, 10),
) -> dict[str, Evaluation]:
    """`retrieval` from one modality to the other and back.

    Args:
        first: embeddings of one modality.
        second: of the other, in the same space.
        first_ids: equal ids belong together, within a modality too.
        second_ids: likewise.
        names: of the modalities, e.g. image and text.
        topk: the k of R@k.

    Returns:
        "image_to_text" and "text_to_image" -> evaluation of that direction.
    """
    return {
        f"{names[0]}_to_{names[1]}": retrieval(first, second, first_ids, second_ids, topk),
        f"{names[1]}_to_{names[0]}": retrieval(second, first, second_ids, first_ids, topk),
    }


@torch.no_grad()
def retrieval(
    queries: Float[Tensor, "n dim"],
    gallery: Float[Tensor, "m dim"],
    query_ids: Int[Tensor, " n"],
    gallery_ids: Int[Tensor, " m"],
    topk: Sequence[int] = (1, 5, 10),
    tile_scores: int | None = None,
) -> Evaluation:
    """Ranks the whole gallery for every query by cosine, in float32 or better.

    With the ranks r_1 < ... < r_P of the P positives of a query, from 1: r@k is 1 if r_1 <= k (as
    in the papers of image-text retrieval, however many positives there are), mrr is 1 / r_1, map
    the mean of j / r_j, median_rank the median of r_1 over queries.

    Args:
        queries: rows of any length; queries without a positive are left out.
        gallery: rows in the same space, on the same device.
        query_ids: what each query is about.
        gallery_ids: what each row of the gallery is about.
        topk: the k of r@k.
        tile_scores: cosines held at a time, but a row at least; by default 16 MiB on a CPU, 1 GiB
            elsewhere.

    Returns:
        `r@k`, `mrr`, `map` (0 to 1) and `median_rank` (1 to m); all but the last with the values
        of the evaluated queries, whose ids are the unit ids, in the order of the queries.

    Raises:
        DataError: no query has a positive, sizes that do not match, a k below 1, or NaN or
            infinite rows.
    """
    _check(queries, gallery, query_ids, gallery_ids, topk)
    device, m = queries.device, len(gallery)
    dtype = torch.promote_types(queries.dtype, torch.float32)
    positives = _Positives.of(query_ids.to(device), gallery_ids.to(device))
    queries, gallery = (
        normalize(queries[positives.evaluated].to(dtype)),
        normalize(gallery.to(dtype)),
    )

    if tile_scores is None:
        tile_scores = _TILE_SCORES["cpu" if device.type == "cpu" else "other"]
    rows = max(1, tile_scores // m)
    best, average = [], []
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(queries), rows):
            block = slice(start, start + rows)
            scores = queries[block] @ gallery.T
            found = positives.found(scores, block, 8 * torch.finfo(dtype).eps)
            best.append(found[0])
            average.append(found[1])
    return _evaluation(torch.cat(best), torch.cat(average), positives, topk)


@torch.no_grad()
def retrieval_of_scores(
    scores: Float[Tensor, "n m"],
    query_ids: Int[Tensor, " n"],
    gallery_ids: Int[Tensor, " m"],
    topk: Sequence[int] = (1, 5, 10),
) -> Evaluation:
    """`retrieval` by scores that are no cosines of two embeddings.

    Scores are a tie where they differ by no more than eight roundings of the largest one; -inf is
    for what is no candidate.

    Args:
        scores: of each query with the whole gallery, larger for what fits better.
        query_ids: what each query is about.
        gallery_ids: what each row of the gallery is about.
        topk: the k of r@k.

    Raises:
        DataError: no query has a positive, sizes that do not match, a k below 1, or NaN scores.
    """
    if scores.shape != (len(query_ids), len(gallery_ids)) or not topk or min(topk) < 1:
        raise DataError(
            f"scores of shape {list(scores.shape)} with {len(query_ids)} and {len(gallery_ids)} "
            f"ids, k of {list(topk)}",
            expected="one id for each row and column, and k of at least 1",
        )
    if bool(scores.isnan().any()):
        raise DataError(
            f"{int(scores.isnan().any(1).sum())} of {len(scores)} queries have NaN scores",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
    device = scores.device
    positives = _Positives.of(query_ids.to(device), gallery_ids.to(device))
    scores = scores[positives.evaluated].to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.where(scores.isfinite(), 0).abs().max()
    tie = 8 * torch.finfo(scores.dtype).eps * float(largest)
    rank, precision = positives.found(scores, slice(None), tie)
    return _evaluation(rank, precision, positives, topk)


@dataclass(frozen=True)
class _Positives:
    """Where the rows are that belong to each query that has any.

    Attributes:
        evaluated: (n,) which queries have any.
        ids: of those queries.
        order: rows of the gallery, ordered by their ids.
        first: where the positives of each query begin in that order.
        counts: how many there are.
    """

    evaluated: Bool[Tensor, " n"]
    ids: Int[Tensor, " queries"]
    order: Int64[Tensor, " m"]
    first: Int64[Tensor, " queries"]
    counts: Int64[Tensor, " queries"]

    @classmethod
    def of(cls, query_ids: Int[Tensor, " n"], gallery_ids: Int[Tensor, " m"]) -> "_Positives":
        # The positives of a query are one slice of the gallery ids in order.
        ordered, order = gallery_ids.sort()
        first = torch.searchsorted(ordered, query_ids)
        counts = torch.searchsorted(ordered, query_ids, right=True) - first
        evaluated = counts > 0
        if not evaluated.any():
            raise DataError(
                f"none of {len(query_ids)} query ids is among the {len(gallery_ids)} ids of the "
                "gallery",
                expected="equal ids for what belongs together",
            )
        return cls(evaluated, query_ids[evaluated], order, first[evaluated], counts[evaluated])

    def found(
        self, scores: Float[Tensor, "rows m"], block: slice, tie: float
    ) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Rank of the best positive and the average precision, of some queries."""
        first, counts = self.first[block, None], self.counts[block, None]
        place = torch.arange(int(counts.max()), device=scores.device)
        exists = place < counts
        columns = self.order[(first + place).clamp(max=len(self.order) - 1)]
        ranks = _ranks(scores, columns, exists, tie)
        precision = (place + 1) / ranks.double()
        return ranks[:, 0], (precision * exists).sum(1) / counts[:, 0]


def _evaluation(
    rank: Int64[Tensor, " queries"],
    precision: Float[Tensor, " queries"],
    positives: _Positives,
    topk: Sequence[int],
) -> Evaluation:
    values = {f"r@{k}": (rank <= k).double() for k in topk}
    values |= {"mrr": 1 / rank.double(), "map": precision}
    names = [*values, "median_rank"]
    means = torch.stack([*(value.mean() for value in values.values()), rank.double().quantile(0.5)])
    return Evaluation(
        metrics=dict(zip(names, means.tolist(), strict=True)),
        unit="query",
        unit_ids=positives.ids.cpu().numpy(),
        per_unit={name: value.cpu().numpy() for name, value in values.items()},
    )


def _ranks(
    scores: Float[Tensor, "rows m"],
    columns: Int64[Tensor, "rows positives"],
    exists: Bool[Tensor, "rows positives"],
    tie: float,
) -> Int64[Tensor, "rows positives"]:
    """Ranks of the positives of each row, from 1, ascending; where none exists, any number.

    The rank of the j-th positive is j + how many negatives score at least as much.
    """
    positives = scores.gather(1, columns).masked_fill(~exists, -torch.inf)
    positives = positives.sort(1, descending=True).values
    least = positives - tie
    if columns.shape[1] <= _FEW_POSITIVES:
        above = torch.stack([(scores >= at[:, None]).sum(1) for at in least.unbind(1)], 1)
    else:
        above = scores.shape[1] - torch.searchsorted(scores.sort(1).values, least)
    positives_above = torch.searchsorted(positives.neg(), least.neg(), right=True)
    place = torch.arange(1, columns.shape[1] + 1, device=scores.device)
    return place + above - positives_above


def _check(
    queries: Tensor,
    gallery: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    topk: Sequence[int],
) -> None:
    """Refuse what would end in a wrong number or in an error from inside a kernel."""
    if not topk or min(topk) < 1:
        raise DataError(f"topk is {list(topk)}", expected="one or more k of at least 1")
    for name, vectors, ids in (("query", queries, query_ids), ("gallery", gallery, gallery_ids)):
        if len(vectors) != len(ids) or len(ids) == 0:
            raise DataError(
                f"{len(vectors)} {name} rows with {len(ids)} ids",
                expected="one id for each row, and a row or more",
            )
        broken = int((~torch.isfinite(vectors)).any(1).sum())
        if broken:
            raise DataError(
                f"{broken} of {len(vectors)} {name} rows hold NaN or infinite values",
                expected="finite embeddings",
                fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
            )
    if queries.shape[1] != gallery.shape[1]:
        raise DataError(
            f"queries of width {queries.shape[1]}, a gallery of width {gallery.shape[1]}",
            expected="embeddings of one space",
        )
