"""How many dimensions embeddings use, measured without labels."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.distributed import all_reduce_sum


def rankme(
    embeddings: Float[Tensor, "samples dim"], *, eps: float = 1e-7, centre: bool = False
) -> Float[Tensor, ""]:
    """Exponential entropy of the singular values over their sum.

    Garrido et al. 2023, eq. 1 and 2. Neither centred nor normalised by definition; take the outputs
    of the projector, as the paper does. Compare only runs of one method and one width: noise has a
    high rank too.

    Args:
        embeddings: (N, K), N well above K (25,600 for K = 2048 in the paper).
        eps: added to every share of the sum.
        centre: subtract the mean row first, which is not the definition.

    Returns:
        Scalar in about [1, min(N, K)], float64.
    """
    z = embeddings.detach().double()
    return rankme_of_spectrum(torch.linalg.svdvals(z - z.mean(0) if centre else z), eps)


def rankme_of_spectrum(
    singular_values: Float[Tensor, " rank"], eps: float = 1e-7
) -> Float[Tensor, ""]:
    """`rankme` of a matrix with these singular values; 0 where all are 0."""
    share = singular_values / singular_values.sum() + eps
    rank: Tensor = (-(share * share.log()).sum()).exp().nan_to_num(nan=0.0)
    return rank


def alpha_req(
    embeddings: Float[Tensor, "samples dim"], *, first: int = 1, last: int | None = None
) -> Float[Tensor, ""]:
    """Decay α of the eigenvalues λ_i ∝ i^-α of the centred covariance, by least squares on logs.

    Agrawal et al. 2022; of several runs, the one with α nearest 1 is chosen.

    Args:
        embeddings: (N, K).
        first: number of the first eigenvalue of the fit, from 1, largest first.
        last: number of the last, the rank of the covariance where None.

    Returns:
        Scalar, float64.
    """
    z = embeddings.detach().double()
    values = torch.linalg.svdvals(z - z.mean(0)).square() / max(len(z) - 1, 1)
    # Centring takes one dimension from a matrix with fewer rows than columns.
    values = values[: min(len(z) - 1, z.shape[1])][first - 1 : last]
    index = torch.arange(first, first + len(values), dtype=z.dtype, device=z.device).log()
    logs = values.log()
    index, logs = index - index.mean(), logs - logs.mean()
    alpha: Tensor = -(index * logs).sum() / index.square().sum()
    return alpha


def participation_ratio(embeddings: Float[Tensor, "samples dim"]) -> Float[Tensor, ""]:
    """(Σλ)² / Σλ² of the eigenvalues λ of the centred covariance, in [1, K], float64."""
    z = embeddings.detach().double()
    values = torch.linalg.svdvals(z - z.mean(0)).square()
    ratio: Tensor = values.sum().square() / values.square().sum()
    return ratio


class Spectrum:
    """Singular values of more embeddings than fit into memory, over batches and ranks.

    Keeps ZᵀZ in float64, because in float32 the small singular values would be lost.

    Args:
        dim: K, the width of the embeddings.
        device: where ZᵀZ is kept.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.gram = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, embeddings: Float[Tensor, "batch dim"]) -> None:
        """Adds a batch of this rank."""
        z = embeddings.detach().to(self.gram)
        self.gram += z.T @ z

    def singular_values(self) -> Float[Tensor, " dim"]:
        """Singular values of the batches of all ranks so far, largest first."""
        values: Tensor = torch.linalg.eigvalsh(all_reduce_sum(self.gram))
        return values.clamp(min=0).sqrt().flip(0)
