"""Contrast corrected for negatives that are positives in truth."""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from core.losses.hard_negative import hard_negative
from core.losses.rows import Gather


def debiased(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float = 0.5,
    *,
    tau_plus: float = 0.1,
    normalize: bool = True,
    valid: Bool[Tensor, " batch"] | None = None,
    ids: Shaped[Tensor, " batch"] | None = None,
    gather: Gather = "full",
) -> Float[Tensor, ""]:
    """-log e^{pos} / (e^{pos} + N_g), N_g = max((-N τ⁺ e^{pos} + Σ e^{neg})/(1-τ⁺), N e^{-1/τ}).

    Chuang et al. 2020, eq. 8: `hard_negative` with equal weights, and its arguments.

    Returns:
        Scalar in float32 at least, mean over 2B anchors.
    """
    return hard_negative(
        a,
        b,
        temperature,
        tau_plus=tau_plus,
        beta=0.0,
        normalize=normalize,
        valid=valid,
        ids=ids,
        gather=gather,
    )
