"""Which piece is played: every snippet of a query votes for the pieces of its nearest snippets."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

_TILE = 1 << 22  # cosines held at a time


@torch.no_grad()
def votes_for_pieces(
    queries: Float[Tensor, "n dim"],
    query_piece: Int64[Tensor, " n"],
    candidates: Float[Tensor, "m dim"],
    candidate_piece: Int64[Tensor, " m"],
    n_candidates: int = 25,
) -> Int64[Tensor, "pieces pieces"]:
    """Entry (p, r): how often a nearest candidate of a query of piece p is of piece r.

    Args:
        queries: of any length.
        query_piece: number of the piece each is from.
        candidates: in the same space.
        candidate_piece: likewise.
        n_candidates: nearest candidates, by cosine, that a query looks at.
    """
    n_pieces = int(torch.cat([query_piece, candidate_piece]).max()) + 1
    queries, candidates = normalize(queries), normalize(candidates)
    n_candidates = min(n_candidates, len(candidates))
    votes = torch.zeros(n_pieces * n_pieces, dtype=torch.int64, device=queries.device)
    for some in torch.arange(len(queries), device=queries.device).split(
        max(1, _TILE // len(candidates))
    ):
        nearest = (queries[some] @ candidates.T).topk(n_candidates, dim=1).indices
        cells = query_piece[some, None] * n_pieces + candidate_piece[nearest]
        votes += torch.bincount(cells.flatten(), minlength=n_pieces * n_pieces)
    return votes.view(n_pieces, n_pieces)


def rank_of_piece(votes: Int64[Tensor, "pieces pieces"]) -> Int64[Tensor, " pieces"]:
    """Rank of the true piece by votes, from 1: 1 + the pieces with strictly more votes.

    A piece without a vote for it ranks behind all that have one, and ties with the others.
    """
    return 1 + (votes > votes.diagonal()[:, None]).sum(1)
