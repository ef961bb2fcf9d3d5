"""Nearest rows by cosine, and nearest means of rows, from one matrix of inner products."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from core.encoders.neighbours import largest_of_blocks

# Numbers in a matrix that is kept: 2 GiB of float32, the cosines of 23,000 rows.
_KEPT = 1 << 29
_TILE = 1024
# Rows of means at a time on the CPU: their products with all rows stay in its cache.
_CPU_MEANS = 256


class Cosines:
    """The cosines of all pairs of rows.

    With C the n x n matrix of cosines, the inner products of means of rows are B C B^T, with B the
    sparse bags: for wide features and few rows in a bag, far fewer operations than multiplying
    the means. C is kept where it fits, else its blocks are made when they are needed.

    Args:
        features: (n, width) rows; one of zeros has the cosine 0 with every row.
    """

    def __init__(self, features: Float[Tensor, "n width"]) -> None:
        self.lengths = features.norm(dim=1)
        self.unit = features / self.lengths.clamp_min(1e-12)[:, None]
        n = len(features)
        self.matrix = _products_of_rows(self.unit) if n * n <= _KEPT else None

    def nearest(self, k: int) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
        """The k rows of largest cosine with each row, itself among them; as `neighbours.nearest`.

        Raises:
            DataError: k is not between 1 and n.
        """

        def scores(rows: slice) -> Tensor:
            return self.unit[rows] @ self.unit.T if self.matrix is None else self.matrix[rows]

        n = len(self.unit)
        return largest_of_blocks(scores, n, n, k, self.unit.device)

    def nearest_means(
        self, bags: Int[Tensor, " n_pairs"], rows: Int[Tensor, " n_pairs"], n_bags: int, k: int
    ) -> tuple[Float[Tensor, "n_bags k"], Int64[Tensor, "n_bags k"]]:
        """The k bags whose means have the largest cosine with each bag's mean, itself among them.

        Args:
            bags: bag of each pair; a bag without rows has the cosine 0 with every bag.
            rows: row of each pair.
            n_bags: number of bags.
            k: neighbours of a bag, 1 to n_bags.

        Returns:
            Cosines, falling along the row, and bag numbers.

        Raises:
            DataError: k is not between 1 and n_bags.
        """
        members, starts = bag_members(bags, rows, n_bags)
        weights = self.lengths[members]
        sums = embedding_bag(members, self.unit, starts, mode="sum", per_sample_weights=weights)
        degree = torch.bincount(bags, minlength=n_bags)
        weights = weights / sums.norm(dim=1).clamp_min(1e-12).repeat_interleave(degree)
        edges = [*starts.tolist(), len(members)]

        def scores(block: slice) -> Tensor:
            pairs = slice(edges[block.start], edges[block.stop])
            table = self.unit if self.matrix is None else self.matrix
            products = embedding_bag(
                members[pairs],
                table,
                starts[block] - edges[block.start],
                mode="sum",
                per_sample_weights=weights[pairs],
            )
            if self.matrix is None:
                products = products @ self.unit.T
            return embedding_bag(
                members, products.T.contiguous(), starts, mode="sum", per_sample_weights=weights
            ).T

        device = self.unit.device
        block_rows = _CPU_MEANS if device.type == "cpu" else None
        return largest_of_blocks(scores, n_bags, n_bags, k, device, block_rows)


def bag_members(
    bags: Int[Tensor, " n_pairs"], rows: Int[Tensor, " n_pairs"], n_bags: int
) -> tuple[Int64[Tensor, " n_pairs"], Int64[Tensor, " n_bags"]]:
    """The rows bag by bag, and where each bag starts: what `embedding_bag` takes."""
    degree = torch.bincount(bags, minlength=n_bags)
    return rows[bags.argsort(stable=True)].long(), degree.cumsum(0) - degree


def _products_of_rows(x: Float[Tensor, "n width"]) -> Float[Tensor, "n n"]:
    """X X^T, each half of it computed once."""
    products = x.new_empty(len(x), len(x))
    for start in range(0, len(x), _TILE):
        stop = start + _TILE
        products[start:stop, start:] = x[start:stop] @ x[start:].T
        products[stop:, start:stop] = products[start:stop, stop:].T
    return products
