"""The rows of a batch on this rank, and what the rows of the other ranks are to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.distributed import all_gather, logsumexp_over_ranks, rank, row_counts

Gather = Literal["none", "full"]
GatherOrRing = Literal["none", "full", "ring"]


def unit(x: Float[Tensor, "*batch dim"], normalize: bool) -> Float[Tensor, "*batch dim"]:
    """The rows of x at length 1 (a zero row stays zero), or x itself where `normalize` is False."""
    return F.normalize(x, dim=-1, eps=1e-12) if normalize else x


def zero_invalid(
    x: Float[Tensor, "n ..."], valid: Bool[Tensor, " n"] | None
) -> Float[Tensor, "n ..."]:
    """Sets the rows that are not valid to 0, so that nothing in them, not even NaN, spreads."""
    return x if valid is None else x.masked_fill(~valid.view(-1, *[1] * (x.ndim - 1)), 0)


def logsumexp_or_empty(x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Log-sum-exp that is -inf, with a gradient of 0, where all of x along `dim` is -inf."""
    empty = x.isneginf().all(dim, keepdim=True)
    return x.masked_fill(empty, 0).logsumexp(dim).masked_fill(empty.squeeze(dim), -torch.inf)


@dataclass(frozen=True)
class Rows:
    """The n rows of this rank among the N candidates.

    Attributes:
        counts: rows of every rank whose rows are candidates.
        start: where this rank's rows begin among the candidates.
        size: n, the rows of this rank.
        valid: (N,) bool, or None where all rows count.
        ids: (N,) int64 identities, or None where every row is another thing.
    """

    counts: Sequence[int]
    start: int
    size: int
    valid: Bool[Tensor, " N"] | None
    ids: Shaped[Tensor, " N"] | None

    @classmethod
    def of(
        cls, x: Tensor, gather: GatherOrRing, valid: Tensor | None = None, ids: Tensor | None = None
    ) -> "Rows":
        """Describes the batch whose rows on this rank are those of x, valid and ids."""
        counts = [len(x)] if gather == "none" else row_counts(len(x))
        start = 0 if gather == "none" else sum(counts[: rank()])
        if len(counts) > 1:
            valid = None if valid is None else all_gather(valid.to(torch.uint8), counts).bool()
            ids = None if ids is None else all_gather(ids, counts)
        return cls(counts, start, len(x), valid, ids)

    @property
    def total(self) -> int:
        """N, the number of candidates."""
        return sum(self.counts)

    @property
    def shared(self) -> bool:
        """True where rows of other ranks are candidates."""
        return len(self.counts) > 1

    def everywhere(self, x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "N ..."]:
        """The rows of all ranks, with gradient."""
        return all_gather(x, self.counts) if self.shared else x

    def own(self, x: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "n ..."]:
        """This rank's part of a tensor over all candidates."""
        return x[self.start : self.start + self.size]

    def anchors(self) -> Bool[Tensor, " n"] | None:
        """Which rows of this rank count, or None where all do."""
        return None if self.valid is None else self.own(self.valid)

    def keep_valid(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Sets the invalid rows of x to 0."""
        return zero_invalid(x, self.anchors())

    def pairs(
        self, device: torch.device, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Bool[Tensor, "n N"]:
        """True where the candidate is the anchor's own row; `rows`, `columns` choose a tile."""
        row = torch.arange(self.start, self.start + self.size, device=device)[rows]
        return row[:, None] == torch.arange(self.total, device=device)[columns]

    def excluded(
        self, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Bool[Tensor, "n N"] | None:
        """True where row and candidate are no negatives of each other: invalid, or of one id.

        An anchor's own row is never excluded, so that every row keeps a finite entry.
        None where nothing is excluded.
        """
        out = None
        if self.valid is not None:
            out = ~(self.own(self.valid)[rows, None] & self.valid[columns])
        if self.ids is not None:
            same = self.own(self.ids)[rows, None] == self.ids[columns]
            out = same if out is None else out | same
        return None if out is None else out & ~self.pairs(out.device, rows, columns)

    def log_sum_columns(self, log_sums: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Column log-sums over the anchors of this rank -> over the anchors of all ranks."""
        return logsumexp_over_ranks(log_sums) if self.shared else log_sums


def two_view_scores(
    a: Float[Tensor, "n dim"],
    b: Float[Tensor, "n dim"],
    temperature: float | Tensor,
    rows: Rows,
) -> tuple[Float[Tensor, " 2*n"], Float[Tensor, "2*n 2*N"]]:
    """Scores of 2n anchors, the rows of a and then those of b, with the rows of both views.

    Args:
        a: first view.
        b: second view.
        temperature: divisor of the products.
        rows: which candidates count.

    Returns:
        The scores of the positives, and those of all candidates with -inf where the candidate is
        the anchor itself, its positive, or excluded.
    """
    anchors = torch.cat([a, b]) / temperature
    candidates = torch.cat([rows.everywhere(a), rows.everywhere(b)])
    no_negative = rows.pairs(a.device)
    excluded = rows.excluded()
    if excluded is not None:
        no_negative = no_negative | excluded
    scores = (anchors @ candidates.T).masked_fill(no_negative.repeat(2, 2), -torch.inf)
    return (anchors * torch.cat([b, a])).sum(1), scores


def other_view_scores(
    a: Float[Tensor, "n dim"],
    b: Float[Tensor, "n dim"],
    temperature: float | Tensor,
    rows: Rows,
) -> tuple[Float[Tensor, " 2*n"], Float[Tensor, "2*n N"]]:
    """`two_view_scores` with the rows of the other view as the only candidates."""
    no_negative = rows.pairs(a.device)
    excluded = rows.excluded()
    if excluded is not None:
        no_negative = no_negative | excluded
    own, other = (x / temperature for x in (a, b))
    scores = torch.cat([own @ rows.everywhere(b).T, other @ rows.everywhere(a).T])
    return (own * b).sum(1).repeat(2), scores.masked_fill(no_negative.repeat(2, 1), -torch.inf)


def both(valid: Bool[Tensor, " n"] | None) -> Bool[Tensor, " 2*n"] | None:
    """The mask of n pairs for their 2n anchors."""
    return None if valid is None else valid.repeat(2)
