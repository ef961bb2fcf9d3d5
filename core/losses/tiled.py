"""Log-sum-exp of the rows and columns of a b^T without the matrix in memory."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Excluded = Callable[[slice, slice], Tensor | None]


def tiled_logsumexp(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "N dim"], tile: int, excluded: Excluded
) -> tuple[Float[Tensor, " n"], Float[Tensor, " N"]]:
    """Row and column log-sum-exp of S = a b^T, computed and differentiated tile by tile.

    The running log-sums are merged by logaddexp; the backward computes every tile again, so that
    beside the inputs only the two vectors are kept. First derivatives only.

    Args:
        a: anchors, already divided by the temperature.
        b: candidates.
        tile: rows and columns of a tile.
        excluded: for a slice of rows and one of columns, the bool tile of the entries to leave out,
            or None.

    Returns:
        log Σ_j exp S_ij for each row, log Σ_i exp S_ij for each column; -inf where all is left out.
    """
    rows, columns = _TiledLogSumExp.apply(a, b, tile, excluded)
    return rows, columns


def _tiles(n: int, m: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, n, tile):
        for column in range(0, m, tile):
            yield slice(row, min(row + tile, n)), slice(column, min(column + tile, m))


def _scores(a: Tensor, b: Tensor, rows: slice, columns: slice, excluded: Excluded) -> Tensor:
    scores = a[rows] @ b[columns].T
    left_out = excluded(rows, columns)
    return scores if left_out is None else scores.masked_fill_(left_out, -torch.inf)


class _TiledLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        a: Tensor,
        b: Tensor,
        tile: int,
        excluded: Excluded,
    ) -> tuple[Tensor, Tensor]:
        row_sums = a.new_full((len(a),), -torch.inf)
        column_sums = b.new_full((len(b),), -torch.inf)
        for rows, columns in _tiles(len(a), len(b), tile):
            scores = _scores(a, b, rows, columns, excluded)
            row_sums[rows] = torch.logaddexp(row_sums[rows], scores.logsumexp(1))
            column_sums[columns] = torch.logaddexp(column_sums[columns], scores.logsumexp(0))
        ctx.save_for_backward(a, b, row_sums, column_sums)
        ctx.tile, ctx.excluded = tile, excluded
        return row_sums, column_sums

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        row_grad: Tensor,
        column_grad: Tensor,
    ) -> tuple[Tensor, Tensor, None, None]:
        a, b, row_sums, column_sums = ctx.saved_tensors
        # -inf - -inf is NaN; against any finite number the excluded entries give exp(-inf) = 0.
        row_sums, column_sums = (x.masked_fill(x.isinf(), 0) for x in (row_sums, column_sums))
        a_grad, b_grad = torch.zeros_like(a), torch.zeros_like(b)
        for rows, columns in _tiles(len(a), len(b), ctx.tile):
            scores = _scores(a, b, rows, columns, ctx.excluded)
            grad = (scores - row_sums[rows, None]).exp_().mul_(row_grad[rows, None])
            grad += scores.sub_(column_sums[columns]).exp_().mul_(column_grad[columns])
            a_grad[rows] += grad @ b[columns]
            b_grad[columns] += grad.T @ a[rows]
        return a_grad, b_grad, None, None
