"""Product quantisation by straight-through Gumbel choices."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.data.checks import DataError


class GumbelQuantizer(nn.Module):
    """One of V codes from each of G codebooks, concatenated (wav2vec 2.0, Baevski et al. 2020, 2).

    Args:
        input_dim: width of what is quantised.
        dim: width of the result, a multiple of `groups`.
        groups: number of codebooks G.
        codes: entries V of each.

    Attributes:
        dim: width of the result.
        codebooks: (G, V, dim / G) the codes.
    """

    def __init__(self, input_dim: int, dim: int = 256, groups: int = 2, codes: int = 320) -> None:
        super().__init__()
        if dim % groups:
            raise DataError(f"{groups} codebooks for {dim} channels", expected="a divisor of them")
        self.dim = dim
        self.logits = nn.Linear(input_dim, groups * codes)
        self.codebooks = nn.Parameter(torch.rand(groups, codes, dim // groups))
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(
        self, x: Float[Tensor, "batch time input_dim"], temperature: float = 2.0
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch time groups codes"]]:
        """Quantised frames, and how likely each code is.

        In training mode codes are drawn with Gumbel noise (eq. 1), and the gradient is that of the
        soft choice at this temperature; in evaluation the most likely codes are taken.

        Args:
            x: (B, T, input_dim) frames.
            temperature: τ of the Gumbel softmax, see `gumbel_temperature`.

        Returns:
            (B, T, dim), and (B, T, G, V) softmax of the logits without noise and temperature, in
            float32 or better, for `core.losses.wav2vec2.code_diversity`.
        """
        logits = self._logits(x)
        if self.training:
            choice = F.gumbel_softmax(logits, tau=temperature, hard=True)
        else:
            choice = F.one_hot(logits.argmax(-1), logits.shape[-1])
        quantized = torch.einsum("btgv,gvd->btgd", choice.to(self.codebooks), self.codebooks)
        return quantized.flatten(2), logits.softmax(-1)

    def codes(self, x: Float[Tensor, "batch time input_dim"]) -> Int[Tensor, "batch time groups"]:
        """Indices of the most likely codes."""
        return self._logits(x).argmax(-1)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x)
        logits = logits.unflatten(-1, self.codebooks.shape[:2])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def gumbel_temperature(
    step: int, start: float = 2.0, end: float = 0.5, factor: float = 0.999995
) -> float:
    """max(start x factor^step, end), the schedule of wav2vec 2.0 (section 4.2).

    Args:
        step: optimizer steps so far.
        start: at step 0.
        end: the lowest; 0.1 for the large model.
        factor: a step.
    """
    return max(start * factor**step, end)
