"""Full ranking: every item scored for every evaluated user, nothing sampled.

The protocol is the one of the multimodal recommender papers (BM3, FREEDOM, LATTICE and the
MMRec toolbox): the user's training items get a score of -1e10, the best `max(topk)` items are
compared with the held-out ones, metrics are computed per user and averaged over users.

Ties: items of equal score come in the order in which `torch.topk` finds them, the same on every run
of one machine but not defined by their ids. A model with many ties (a popularity ranking, say)
should make its scores distinct.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError

MASKED = -1e10

# Scores held at a time. On a CPU small blocks are a third faster than blocks of 4096 users, which
# is what an accelerator wants.
_BLOCK_SCORES = {"cpu": 2**21, "other": 2**25}


@dataclass(frozen=True)
class Ranking:
    """What a full ranking found.

    Attributes:
        users: (n_evaluated,) int64, the distinct users that have positives, ascending.
        per_user: "recall@20" -> (n_evaluated,) float64, row for row as `users`; 0 to 1.
        metrics: the same names -> mean over users, 0 to 1.
    """

    users: Int64[Tensor, " n_evaluated"]
    per_user: dict[str, Float[Tensor, " n_evaluated"]]
    metrics: dict[str, float]


@torch.no_grad()
def full_ranking(
    user_vectors: Float[Tensor, "users dim"],
    item_vectors: Float[Tensor, "items dim"],
    train: Int64[Tensor, "2 n"],
    positives: Int64[Tensor, "2 m"],
    topk: Sequence[int] = (5, 10, 20, 50),
    block_size: int | None = None,
) -> Ranking:
    """Rank all items for each user that has positives, by the dot product of the vectors.

    Runs on the device of the vectors, in blocks of users, so that memory is bounded by
    block_size x items. Vectors below float32 are scored in float32, also under autocast; on CUDA
    `torch.set_float32_matmul_precision` has its say in that.

    Args:
        user_vectors: (users, dim), row = user id.
        item_vectors: (items, dim), row = item id.
        train: (2, n), users over items: what is masked. Validation items stay in the ranking
            when the test split is evaluated.
        positives: (2, m), users over items: what is to be found. A repeated pair counts once.
        topk: the K of every metric; a K above the number of items ranks all of them.
        block_size: users scored at a time; by default 128 to 4096, about 8 MB of scores on a CPU
            and 128 MB on an accelerator.

    Returns:
        recall, precision, ndcg, map and hit at each K, per user and as means.

    Raises:
        DataError: no positives, ids beyond the tables, a K below 1, or NaN or infinite vectors.
    """
    _check(user_vectors, item_vectors, train, positives, topk)
    n_items = len(item_vectors)
    keys = torch.unique(positives[0] * n_items + positives[1])
    users = torch.unique_consecutive(keys // n_items)
    ranked = rank_items(user_vectors, item_vectors, train, users, max(topk), block_size)
    rows = torch.searchsorted(users, keys // n_items)
    per_user = ranking_metrics(ranked, rows, keys % n_items, topk)
    means = torch.stack([values.mean() for values in per_user.values()]).tolist()
    return Ranking(users, per_user, dict(zip(per_user, means, strict=True)))


@torch.no_grad()
def rank_items(
    user_vectors: Float[Tensor, "users dim"],
    item_vectors: Float[Tensor, "items dim"],
    train: Int64[Tensor, "2 n"],
    users: Int64[Tensor, " n_ranked"],
    k: int,
    block_size: int | None = None,
) -> Int64[Tensor, "n_ranked k"]:
    """The k best items of each of the `users`, best first, training items masked.

    Args:
        user_vectors: (users, dim), row = user id.
        item_vectors: (items, dim), row = item id.
        train: (2, n), users over items: what is masked.
        users: distinct user ids, ascending.
        k: how many to keep; above the number of items, all are kept.
        block_size: as in `full_ranking`.
    """
    n_users, n_items = len(user_vectors), len(item_vectors)
    dtype = torch.promote_types(user_vectors.dtype, torch.float32)
    device = user_vectors.device
    user_vectors, item_vectors = user_vectors.to(dtype), item_vectors.to(dtype)
    if block_size is None:
        budget = _BLOCK_SCORES["cpu" if device.type == "cpu" else "other"]
        block_size = min(max(budget // n_items, 128), 4096)
    row_of_user = torch.full((n_users,), len(users), device=device)
    row_of_user[users] = torch.arange(len(users), device=device)

    # Sorted by row, the training pairs of a block are one slice; users not asked for sort last.
    train_rows, order = row_of_user[train[0]].sort()
    train_items = train[1][order]
    starts = torch.arange(0, len(users) + block_size, block_size, device=device)
    bounds = torch.searchsorted(train_rows, starts.clamp(max=len(users))).tolist()

    k = min(k, n_items)
    ranked = torch.empty((len(users), k), dtype=torch.int64, device=device)
    with torch.autocast(device.type, enabled=False):
        for block, start in enumerate(range(0, len(users), block_size)):
            scores = user_vectors[users[start : start + block_size]] @ item_vectors.T
            seen = slice(bounds[block], bounds[block + 1])
            ranked[start : start + block_size] = masked_topk(
                scores, train_rows[seen] - start, train_items[seen], k
            )
    return ranked


def masked_topk(
    scores: Float[Tensor, "rows items"],
    mask_rows: Int64[Tensor, " n"],
    mask_cols: Int64[Tensor, " n"],
    k: int,
) -> Int64[Tensor, "rows k"]:
    """The k best items of each row, best first, after masking.

    Args:
        scores: one block of scores, finite; written over, the masked entries become -1e10.
            float16 and bfloat16 are ranked in float32.
        mask_rows: the row of each masked entry.
        mask_cols: the item of each masked entry.
        k: how many to keep; above the number of items, all are kept.

    Returns:
        Item ids, (rows, min(k, items)). Masked items come last, where too few others are left.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores[mask_rows, mask_cols] = MASKED
    return _grouped_topk(scores, min(k, scores.shape[1]))


def _grouped_topk(scores: Float[Tensor, "rows items"], k: int) -> Int64[Tensor, "rows k"]:
    """`scores.topk(k).indices`, in a bit more than half of its time on a CPU.

    An item of the k best lies in one of the k groups with the largest maxima, so only those
    groups need a real selection. Group g holds the columns g, g + groups, g + 2 groups, ...
    """
    items = scores.shape[1]
    size = isqrt(items // k)  # balances the two selections: items / size against k * size
    if size < 3:
        return scores.topk(k).indices
    groups = items // size
    grouped = scores[:, : size * groups].unflatten(1, (size, groups))
    best = grouped.amax(1).topk(k, sorted=False).indices
    candidates = grouped.gather(2, best[:, None, :].expand(-1, size, -1)).flatten(1)
    rest = scores[:, size * groups :]
    chosen = torch.cat([candidates, rest], 1).topk(k).indices
    in_group = best.gather(1, chosen % k) + chosen // k * groups
    return torch.where(chosen < size * k, in_group, chosen - size * k + size * groups)


def ranking_metrics(
    ranked: Int64[Tensor, "rows k"],
    positive_rows: Int64[Tensor, " m"],
    positive_cols: Int64[Tensor, " m"],
    topk: Sequence[int],
) -> dict[str, Float[Tensor, " rows"]]:
    """Metrics of ranked lists, per row, in float64.

    With hits h_1..h_K of the list and P positives of the row: recall = hits / P;
    precision = hits / K; ndcg = sum of h_r / log2(r + 1) over the same sum for min(K, P) hits in
    front; map = sum of precision at the hit ranks / min(K, P); hit = 1 if there is any.

    Args:
        ranked: item ids, best first; at least max(topk) columns, or all items.
        positive_rows: the row of each positive, at least one in all; where a row has none, its
            recall, ndcg and map are NaN.
        positive_cols: the item of each positive; pairs are distinct.
        topk: the K of every metric.

    Returns:
        "recall@K", "precision@K", "ndcg@K", "map@K", "hit@K" for every K -> (rows,), 0 to 1.
    """
    rows, k = ranked.shape
    device = ranked.device
    # One integer a pair; the stride leaves room for every id in sight.
    stride = torch.maximum(ranked.max(), positive_cols.max()) + 1
    keys = (positive_rows * stride + positive_cols).sort().values
    wanted = torch.arange(rows, device=device)[:, None] * stride + ranked
    found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    hits = keys[found] == wanted
    n_positives = torch.bincount(positive_rows, minlength=rows)

    rank = torch.arange(1, max(topk) + 1, dtype=torch.float64)
    discount = 1 / torch.log2(rank + 1)
    ideal = torch.nn.functional.pad(discount.cumsum(0), (1, 0)).to(device)
    # Column j sums the first topk[j] ranks. The running count is one of integers: CUDA has no
    # deterministic cumulative sum of floats.
    rank, discount = rank[:k, None], discount[:k, None]
    upto = (rank <= torch.tensor(topk)).double()
    hit = hits.double()
    n_hits = (hit @ upto.to(device)).unbind(1)
    dcg = (hit @ (upto * discount).to(device)).unbind(1)
    precisions = ((hit * hits.cumsum(1)) @ (upto / rank).to(device)).unbind(1)

    metrics = {}
    for column, at in enumerate(topk):
        reachable = n_positives.clamp(max=at)
        metrics[f"recall@{at}"] = n_hits[column] / n_positives
        metrics[f"precision@{at}"] = n_hits[column] / at
        metrics[f"ndcg@{at}"] = dcg[column] / ideal[reachable]
        metrics[f"map@{at}"] = precisions[column] / reachable
        metrics[f"hit@{at}"] = (n_hits[column] > 0).double()
    return metrics


def _check(
    user_vectors: Tensor,
    item_vectors: Tensor,
    train: Tensor,
    positives: Tensor,
    topk: Sequence[int],
) -> None:
    """Refuse what would end in a wrong number or in an error from inside a kernel."""
    if not topk or min(topk) < 1:
        raise DataError(f"topk is {list(topk)}", expected="one or more K of at least 1")
    if positives.shape[1] == 0:
        raise DataError(
            "there is nothing to find: the evaluated split has no interactions",
            expected="at least one held-out (user, item) pair",
            fix="evaluate another split, or split the data so that this one is not empty",
        )
    for name, pairs in (("train", train), ("positives", positives)):
        if pairs.shape[1] == 0:
            continue
        low, high = torch.stack(torch.aminmax(pairs, dim=1)).tolist()
        for side, ids, table in (("user", 0, user_vectors), ("item", 1, item_vectors)):
            if low[ids] < 0 or high[ids] >= len(table):
                raise DataError(
                    f"{name} holds {side} ids from {low[ids]} to {high[ids]}",
                    expected=f"ids from 0 to {len(table) - 1}, one for each of the {side} vectors",
                    fix="use model and data of one data set; row 0 holds users, row 1 items",
                )
    for name, vectors in (("user", user_vectors), ("item", item_vectors)):
        broken = int((~torch.isfinite(vectors)).any(1).sum())
        if broken:
            raise DataError(
                f"{broken} of {len(vectors)} {name} vectors hold NaN or infinite values",
                expected="finite vectors",
                fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
            )
