"""Residual quantisation: each codebook quantises what the ones before it have left over."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from core.data.checks import DataError

_BATCH = 4096  # rows that k-means sees at a time


class Quantized(NamedTuple):
    """What a training step of a quantiser makes of rows.

    Attributes:
        rows: (..., dim) sums of the chosen codes; the gradient passes to the input.
        commitment: scalar, mean square of what each codebook was given less what it chose, summed
            over codebooks; pulls the input to the codes.
    """

    rows: Float[Tensor, "*rows dim"]
    commitment: Float[Tensor, ""]


class ResidualQuantizer(nn.Module):
    """K codebooks, fitted by k-means level by level, or moved along by the rows they are given.

    van den Oord et al. 2017, appendix A.1, for the moving averages; Zeghidour et al. 2021
    (SoundStream), section III.C, for the residual levels and for codes that are no longer used,
    which take the place of a random row of the batch.

    Args:
        dim: width of the rows.
        codebooks: number of levels K.
        codes: entries of each.
        decay: of the moving averages.
        least_use: rows of a batch, on average, below which a code is replaced.

    Attributes:
        centres: (K, codes, dim).
    """

    centres: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, dim: int, codebooks: int, codes: int, decay: float = 0.99, least_use: float = 0.5
    ) -> None:
        super().__init__()
        self.decay, self.least_use = decay, least_use
        self.register_buffer("centres", torch.randn(codebooks, codes, dim))
        self.register_buffer("counts", torch.ones(codebooks, codes))
        self.register_buffer("sums", self.centres.clone())

    @torch.no_grad()
    def encode(self, rows: Float[Tensor, "*rows dim"]) -> Int64[Tensor, "*rows codebooks"]:
        """The nearest code of each level, of what is left by the levels before."""
        left, chosen = rows.flatten(0, -2), []
        for centres in self.centres:
            number = _nearest(left, centres)
            left = left - centres[number]
            chosen.append(number)
        codes: Tensor = torch.stack(chosen, -1).unflatten(0, rows.shape[:-1])
        return codes

    def decode(self, codes: Int64[Tensor, "*rows codebooks"]) -> Float[Tensor, "*rows dim"]:
        """Sums of the codes."""
        chosen = [centres[codes[..., level]] for level, centres in enumerate(self.centres)]
        total: Tensor = torch.stack(chosen).sum(0)
        return total

    def forward(self, rows: Float[Tensor, "*rows dim"]) -> Quantized:
        """Quantises rows; in training mode, lets the codes follow them."""
        flat = rows.flatten(0, -2)
        left, total = flat, torch.zeros_like(flat)
        commitment = flat.new_zeros(())
        for level in range(len(self.centres)):
            number = _nearest(left.detach(), self.centres[level])
            chosen = self.centres[level][number]
            commitment = commitment + F.mse_loss(left, chosen)
            if self.training:
                self._follow(level, left.detach(), number)
            left, total = left - chosen, total + chosen
        passed = flat + (total - flat).detach()
        return Quantized(passed.unflatten(0, rows.shape[:-1]), commitment)

    @torch.no_grad()
    def fit(self, rows: Float[Tensor, "n dim"], passes: int = 3, seed: int = 0) -> None:
        """K-means of mini-batches, level by level, each on what the levels before have left.

        Args:
            rows: to be quantised; more than there are codes.
            passes: over the rows.
            seed: of the starts and the order.

        Raises:
            DataError: there are fewer rows than codes.
        """
        from sklearn.cluster import MiniBatchKMeans

        n_codes = self.centres.shape[1]
        if len(rows) < n_codes:
            raise DataError(
                f"{len(rows)} frames for {n_codes} codes",
                expected="more frames than codes",
                fix="take fewer codes or more audio",
            )
        left = rows.float()
        for level in range(len(self.centres)):
            kmeans = MiniBatchKMeans(
                n_codes, batch_size=_BATCH, max_iter=passes, n_init=3, random_state=seed + level
            )
            found = kmeans.fit(left.cpu().numpy()).cluster_centers_
            self.centres[level] = torch.from_numpy(found).to(self.centres)
            left = left - self.centres[level][_nearest(left, self.centres[level])]

    @torch.no_grad()
    def _follow(self, level: int, rows: Tensor, number: Tensor) -> None:
        n_codes = self.centres.shape[1]
        count = torch.zeros(n_codes, device=rows.device).index_add_(
            0, number, torch.ones(len(rows), device=rows.device)
        )
        total = torch.zeros_like(self.sums[level]).index_add_(0, number, rows.float())
        self.counts[level].lerp_(count, 1 - self.decay)
        self.sums[level].lerp_(total, 1 - self.decay)
        unused = self.counts[level] < self.least_use
        drawn = rows[torch.randint(len(rows), (n_codes,), device=rows.device)].float()
        self.sums[level] = torch.where(unused[:, None], drawn, self.sums[level])
        self.counts[level] = torch.where(unused, 1.0, self.counts[level])
        self.centres[level] = self.sums[level] / self.counts[level][:, None]


def _nearest(rows: Float[Tensor, "n dim"], centres: Float[Tensor, "codes dim"]) -> Tensor:
    """Numbers of the nearest centres; |x|^2 is the same for all of them."""
    with torch.autocast(rows.device.type, enabled=False):
        wide = rows.float()
        return (centres.square().sum(1) - 2 * wide @ centres.T).argmin(1)
