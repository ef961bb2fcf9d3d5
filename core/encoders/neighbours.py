"""Neighbour graphs: exact nearest rows, common partners, and products with such graphs.

A graph of n nodes is two tables of k columns, the ids of each node's neighbours and their weights:
their shapes are known before the graph is, so they can be buffers of a system.
"""

from collections.abc import Callable, Iterator
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import embedding_bag, normalize

from core.data.checks import DataError

# Numbers in a block of scores: 64 MiB of float32 fit a laptop, more keeps an accelerator busy.
_CPU_BLOCK, _DEVICE_BLOCK = 1 << 24, 1 << 28
# Pairs that a block of co-occurrences is counted from.
_PAIRS_AT_ONCE = 1 << 24


def nearest(
    queries: Float[Tensor, "n dim"],
    keys: Float[Tensor, "m dim"],
    k: int,
    block_rows: int | None = None,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """The k keys of largest inner product with each query, exact, in blocks of queries.

    Args:
        queries: rows that look for neighbours.
        keys: rows that may be neighbours, on the same device.
        k: neighbours of a query, 1 to m.
        block_rows: queries at a time; by default as many as a bounded block of scores holds.

    Returns:
        Inner products, falling along the row, and the numbers of the keys. Of equal products any
        may come first.

    Raises:
        DataError: k is not between 1 and the number of keys.
    """

    def scores(rows: slice) -> Tensor:
        return queries[rows] @ keys.T

    return largest_of_blocks(scores, len(queries), len(keys), k, queries.device, block_rows)


def nearest_by_cosine(
    features: Float[Tensor, "n dim"], k: int, block_rows: int | None = None
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """The k rows of largest cosine with each row, itself among them.

    A row of zeros has the cosine 0 with every row. Arguments and errors as in `nearest`.
    """
    unit = normalize(features, dim=1)
    return nearest(unit, unit, k, block_rows)


def largest_of_blocks(
    scores: Callable[[slice], Float[Tensor, "rows m"]],
    n: int,
    m: int,
    k: int,
    device: torch.device,
    block_rows: int | None = None,
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """The k largest scores of each of n rows, for scores that are too many to hold.

    Args:
        scores: a slice of the rows -> their scores of all m columns.
        n: number of rows.
        m: number of columns.
        k: columns to keep, 1 to m.
        device: where the scores are.
        block_rows: rows at a time; by default as many as a bounded block holds.

    Returns:
        Scores, falling along the row, and column numbers.

    Raises:
        DataError: k is not between 1 and m.
    """
    if not 1 <= k <= m:
        raise DataError(
            f"{k} neighbours of each row are asked for among {m} rows",
            expected=f"1 to {m} neighbours",
            fix="set a smaller number of neighbours",
        )
    if block_rows is None:
        block_rows = max(1, (_CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK) // m)
    best = [
        _largest(scores(slice(start, min(start + block_rows, n))), k)
        for start in range(0, n, block_rows)
    ]
    return torch.cat([values for values, _ in best]), torch.cat([columns for _, columns in best])


def _largest(
    scores: Float[Tensor, "rows m"], k: int
) -> tuple[Float[Tensor, "rows k"], Int64[Tensor, "rows k"]]:
    """Top-k by groups: the k largest scores lie in the k groups of largest maximum.

    Maxima are found at the speed of memory, a selection is not; sqrt(m / k) in a group leaves the
    selections the fewest candidates.
    """
    m = scores.shape[1]
    size = isqrt(m // k)
    if size < 4:
        values, columns = scores.topk(k)
        return values, columns
    n_groups = m // size
    # Group g is every n_groups-th column from g on, the memory order that a maximum is fast in.
    grouped = scores[:, : n_groups * size].T.unflatten(0, (size, n_groups))
    # A maximum writes in the order that it reads in, or it takes ten times as long.
    maxima = grouped.amax(0).T if scores.stride(0) == 1 else grouped.permute(2, 0, 1).amax(1)
    groups = maxima.topk(k, sorted=False).indices
    members = groups[:, :, None] + n_groups * torch.arange(size, device=scores.device)
    rest = torch.arange(n_groups * size, m, device=scores.device).expand(len(scores), -1)
    candidates = torch.cat([members.flatten(1), rest], 1)
    values, places = scores.gather(1, candidates).topk(k)
    return values, candidates.gather(1, places)


def co_occurrence(
    rows: Int[Tensor, " n_pairs"],
    columns: Int[Tensor, " n_pairs"],
    n_rows: int,
    n_columns: int,
    k: int,
) -> tuple[Int64[Tensor, "n_rows k"], Int64[Tensor, "n_rows k"], Int64[Tensor, " n_rows"]]:
    """The k nodes with which each row has most partners in common.

    The numbers are those of R R^T with R the 0/1 matrix of the pairs, multiplied sparse and in
    blocks of rows. A node is no neighbour of itself. Ties: larger count, then smaller id.

    Args:
        rows: row of each pair, e.g. users; a pair that repeats counts once.
        columns: column of each pair, e.g. the users' items.
        n_rows: number of rows.
        n_columns: number of columns.
        k: neighbours to keep.

    Returns:
        Counts, falling along the row, 0 where there are fewer than k; ids, -1 there; and how many
        neighbours of each row were found, 0 to k. On the device of `rows`.
    """
    counts = np.zeros((n_rows, k), dtype=np.int64)
    ids = np.full((n_rows, k), -1, dtype=np.int64)
    for start, product in _common_partners(_incidence(rows, columns, n_rows, n_columns)):
        row, place, other, count = _most_common(product, start, k)
        counts[row, place], ids[row, place] = count, other
    found = torch.from_numpy((ids >= 0).sum(1)).to(rows.device)
    return torch.from_numpy(counts).to(rows.device), torch.from_numpy(ids).to(rows.device), found


def cosine_co_occurrence(
    rows: Int[Tensor, " n_pairs"],
    columns: Int[Tensor, " n_pairs"],
    n_rows: int,
    n_columns: int,
    k: int,
) -> tuple[Float64[Tensor, "n_rows k"], Int64[Tensor, "n_rows k"], Int64[Tensor, " n_rows"]]:
    """The k nodes whose partners are most alike: |N_i & N_j| / sqrt(|N_i| |N_j|).

    As `co_occurrence`, with cosines instead of counts; those that are equal as fractions are a tie.
    """
    incidence = _incidence(rows, columns, n_rows, n_columns)
    degree = np.diff(incidence.indptr).astype(np.float64)
    cosines = np.zeros((n_rows, k))
    ids = np.full((n_rows, k), -1, dtype=np.int64)
    for start, product in _common_partners(incidence):
        entries = product.tocoo()
        row, other = entries.row.astype(np.int64) + start, entries.col.astype(np.int64)
        partner = row != other
        row, other, count = row[partner], other[partner], product.data[partner].astype(np.float64)
        # Sorted by the squares: a quotient of integers is rounded alike however it is written.
        square = count * count / degree[other]
        order = np.lexsort((other, -square, row))
        row, other, square = row[order], other[order], square[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        best = place < k
        row, place, other = row[best], place[best], other[best]
        cosines[row, place], ids[row, place] = np.sqrt(square[best] / degree[row]), other
    found = torch.from_numpy((ids >= 0).sum(1)).to(rows.device)
    return torch.from_numpy(cosines).to(rows.device), torch.from_numpy(ids).to(rows.device), found


def _incidence(rows: Tensor, columns: Tensor, n_rows: int, n_columns: int) -> csr_array:
    """The 0/1 matrix of the pairs."""
    pairs = rows.cpu().numpy(), columns.cpu().numpy()
    matrix = csr_array((np.ones(len(rows), dtype=np.int32), pairs), shape=(n_rows, n_columns))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _common_partners(matrix: csr_array) -> Iterator[tuple[int, csr_array]]:
    """First row and the R R^T of blocks of rows, each counted from a bounded number of pairs."""
    transposed = matrix.T.tocsr()
    degree = np.diff(transposed.indptr)
    work = np.concatenate([[0], np.cumsum(degree[matrix.indices])])[matrix.indptr]
    start, n_rows = 0, matrix.shape[0]
    while start < n_rows:
        fits = np.searchsorted(work, work[start] + _PAIRS_AT_ONCE, side="right") - 1
        stop = min(max(int(fits), start + 1), n_rows)
        yield start, matrix[start:stop] @ transposed
        start = stop


def _most_common(product: csr_array, start: int, k: int) -> tuple[np.ndarray, ...]:
    """Row, rank in the row, id and count of the k largest counts of the rows from `start` on."""
    product.sort_indices()
    row = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
    kept = (row + start != product.indices) & _among_largest(product, row, k)
    row, other, count = row[kept], product.indices[kept], product.data[kept].astype(np.int64)
    largest, n = count.max(initial=0) + 1, product.shape[1]
    # One integer that sorts by row, then falling count, then id.
    key = np.sort((row * largest + largest - 1 - count) * n + other)
    row, rest = np.divmod(key, largest * n)
    place = np.arange(len(key)) - np.searchsorted(row, row)
    best = place < k
    count, other = np.divmod(rest[best], n)
    return row[best] + start, place[best], other, largest - 1 - count


def _among_largest(product: csr_array, row: np.ndarray, k: int) -> np.ndarray:
    """Which entries can be among the k largest beside the diagonal; few more than k of a row.

    Almost all counts are 1 and a sort of them all would take most of the time.
    """
    k, levels = k + 1, 16
    level = np.minimum(product.data, levels - 1)
    histogram = np.bincount(row * levels + level, minlength=product.shape[0] * levels)
    at_least = histogram.reshape(-1, levels)[:, ::-1].cumsum(1)[:, ::-1]
    # Levels are whole from `threshold` + 1 on; of the threshold itself the smallest ids fill up.
    threshold = np.maximum((at_least >= k).sum(1) - 1, 0)
    # The last level holds unequal counts, so none of it is left out.
    last = threshold == levels - 1
    above = at_least[np.arange(len(threshold)), np.where(last, 0, threshold + 1)]
    above[last] = -product.shape[1]
    tied = level == threshold[row]
    before = np.concatenate([[0], tied.cumsum()])
    rank = before[:-1] - before[product.indptr[:-1]][row]
    among: np.ndarray = (level > threshold[row]) | (tied & (rank < (k - above)[row]))
    return among


class NeighbourGraph:
    """A directed graph with a fixed number of weighted neighbours of each node.

    `graph @ x` is the sum of each node's neighbours, weighted, with the gradient of x; the weights
    are not learned. A bag of embeddings is some three times as fast as a CSR product on the CPU.

    Args:
        ids: neighbours of each node; one that repeats adds up.
        weights: of the same shape.
        n_columns: rows of the x to come; by default as many as there are nodes.
    """

    def __init__(
        self, ids: Int[Tensor, "n k"], weights: Float[Tensor, "n k"], n_columns: int | None = None
    ) -> None:
        columns = ids.flatten()
        self.n_columns = len(ids) if n_columns is None else n_columns
        self.ids, self.weights = ids.long(), weights.detach()
        order = columns.argsort(stable=True)
        self._rows, self._row_weights = order // ids.shape[1], self.weights.flatten()[order]
        degree = torch.bincount(columns, minlength=self.n_columns)
        self._starts = degree.cumsum(0) - degree

    def __matmul__(self, x: Float[Tensor, "m dim"]) -> Float[Tensor, "n dim"]:
        """The weighted sums of the neighbours' rows of x, in float32 or better."""
        product: Tensor = _NeighbourProduct.apply(
            self, x.to(torch.promote_types(x.dtype, torch.float32))
        )
        return product

    def to_dense(self) -> Float[Tensor, "n m"]:
        """The matrix of the graph."""
        dense = self.weights.new_zeros(len(self.ids), self.n_columns)
        return dense.scatter_add_(1, self.ids, self.weights)


class _NeighbourProduct(torch.autograd.Function):
    """G @ x; the gradient of x is the product with the transpose of G."""

    @staticmethod
    def forward(ctx: FunctionCtx, graph: NeighbourGraph, x: Tensor) -> Tensor:
        ctx.graph = graph  # type: ignore[attr-defined]
        weights = graph.weights.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return embedding_bag(graph.ids, x, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        graph: NeighbourGraph = ctx.graph  # type: ignore[attr-defined]
        weights = graph._row_weights.to(grad.dtype)
        with torch.autocast(grad.device.type, enabled=False):
            return None, embedding_bag(
                graph._rows,
                grad.contiguous(),
                graph._starts,
                mode="sum",
                per_sample_weights=weights,
            )
