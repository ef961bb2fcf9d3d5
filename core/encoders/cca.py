"""Canonical correlation analysis as a layer (Dorfer et al. 2018, IJMIR, arXiv 1707.06469)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.distributed import all_reduce_sum


class CCALayer(nn.Module):
    """Projects two modalities onto their most correlated directions: in training, of the batch.

    In training mode the projection is that of the batch itself, of all processes together, with
    gradients through covariances and eigen-decompositions; in evaluation mode it is that of the
    last training batch, or of the rows that `refine` was given.

    Everything is computed in float64: the gradient of an eigenvector grows with the inverse of the
    distance between eigenvalues.

    Args:
        dim: width of both modalities.
        ridge: added to the diagonals of both covariances.
        correlation_ridge: added to the diagonals of TTᵀ and TᵀT before their eigenvectors are
            taken.
    """

    mean_a: Tensor
    mean_b: Tensor
    onto_a: Tensor
    onto_b: Tensor

    def __init__(self, dim: int, ridge: float = 1e-3, correlation_ridge: float = 1e-3) -> None:
        super().__init__()
        self.ridge, self.correlation_ridge = ridge, correlation_ridge
        for name in ("a", "b"):
            self.register_buffer(f"mean_{name}", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer(f"onto_{name}", torch.eye(dim, dtype=torch.float64))

    def forward(
        self, a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Both modalities projected, in the dtype of `a`."""
        if self.training:
            found = self._statistics(a, b, all_reduce_sum)
            self._keep(found)
        else:
            found = (self.mean_a, self.mean_b, self.onto_a, self.onto_b)
        mean_a, mean_b, onto_a, onto_b = found
        # As in the authors' code, no gradient through the means that are subtracted here.
        mean_a, mean_b = mean_a.detach(), mean_b.detach()
        projected = ((a.double() - mean_a) @ onto_a, (b.double() - mean_b) @ onto_b)
        return projected[0].to(a.dtype), projected[1].to(a.dtype)

    def project_a(self, a: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The first modality alone, by what was kept."""
        return ((a.double() - self.mean_a) @ self.onto_a).to(a.dtype)

    def project_b(self, b: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """The second modality alone, by what was kept."""
        return ((b.double() - self.mean_b) @ self.onto_b).to(b.dtype)

    @torch.no_grad()
    def refine(self, a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"]) -> None:
        """Keeps the projection of many pairs, all given to this process, in place of a batch's."""
        self._keep(self._statistics(a, b, _own))

    def correlations(
        self, a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, " dim"]:
        """Canonical correlations of the rows of this process, ascending; a ridge keeps them > 0."""
        _, _, first, cross, second = self._moments(a.double(), b.double(), _own)
        between = _inverse_root(first) @ cross @ _inverse_root(second)
        values = torch.linalg.eigvalsh(_with_ridge(between @ between.T, self.correlation_ridge))
        found: Tensor = values.clamp(1e-7, 1).sqrt()
        return found

    def _statistics(
        self, a: Tensor, b: Tensor, total: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(a.device.type, enabled=False):
            mean_a, mean_b, first, cross, second = self._moments(a.double(), b.double(), total)
            root_a, root_b = _inverse_root(first), _inverse_root(second)
            between = root_a @ cross @ root_b
            ridge = self.correlation_ridge
            onto_a = root_a @ torch.linalg.eigh(_with_ridge(between @ between.T, ridge))[1]
            onto_b = root_b @ torch.linalg.eigh(_with_ridge(between.T @ between, ridge))[1]
            # Two decompositions choose the signs of their vectors apart from each other.
            agree = torch.einsum("ik,ij,jk->k", onto_a, cross, onto_b).detach().sign()
            return mean_a, mean_b, onto_a * agree, onto_b

    def _moments(
        self, a: Tensor, b: Tensor, total: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means and covariances, from sums that `total` adds up over the processes."""
        n = total(a.new_full((), len(a)))
        mean_a, mean_b = total(a.sum(0)) / n, total(b.sum(0)) / n
        a, b, n = a - mean_a, b - mean_b, (n - 1).clamp(min=1)
        first, cross, second = (total(x.T @ y) / n for x, y in ((a, a), (a, b), (b, b)))
        return (
            mean_a,
            mean_b,
            _with_ridge(first, self.ridge),
            cross,
            _with_ridge(second, self.ridge),
        )

    def _keep(self, found: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        kept = (self.mean_a, self.mean_b, self.onto_a, self.onto_b)
        for buffer, value in zip(kept, found, strict=True):
            buffer.copy_(value.detach())


def _own(x: Tensor) -> Tensor:
    return x


def _with_ridge(matrix: Float[Tensor, "dim dim"], ridge: float) -> Float[Tensor, "dim dim"]:
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _inverse_root(matrix: Float[Tensor, "dim dim"]) -> Float[Tensor, "dim dim"]:
    """The inverse square root of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.rsqrt()) @ vectors.T
    return root
