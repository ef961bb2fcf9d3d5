"""Batch Styles Standardization on its reference cases."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.augment.styles import low_frequencies, restyled
from core.losses import poly_view, sinkhorn, swav
from core.systems.bss import same_style

Arrays = dict[str, np.ndarray]
Params = dict[str, Any]


def _range(size: int, area: Tensor) -> list[int]:
    """The replaced frequencies as a half-open range of the shifted spectrum."""
    inside = torch.fft.fftshift(low_frequencies(size, area)).nonzero().flatten()
    return [int(inside[0]), int(inside[-1]) + 1]


def style_standardisation(inputs: Arrays, params: Params) -> Arrays:
    """One reference for the batch at several areas, and one for every image."""
    images, areas = torch.tensor(inputs["images"]), torch.tensor(inputs["ratios"])
    height, width = images.shape[-2:]
    spectrum = torch.fft.rfft2(images)
    amplitudes = spectrum.abs()
    reference = amplitudes[int(inputs["reference"])]
    own = amplitudes[torch.tensor(inputs["fa_reference"])]
    fa_areas = torch.full((len(images),), params["fa_ratio"], dtype=torch.float64)
    return {
        "out_images": torch.stack([restyled(spectrum, reference, a, width) for a in areas]).numpy(),
        "out_box": np.array([_range(height, a) + _range(width, a) for a in areas]),
        "out_fourier_aug": restyled(spectrum, own, fa_areas, width).numpy(),
    }


def multiview_contrastive(inputs: Arrays, params: Params) -> Arrays:
    """Negatives of the anchor's view, or of all."""
    z, temperature = torch.tensor(inputs["z"]), params["temperature"]
    return {
        "out_same_style": same_style(z, temperature).numpy(),
        "out_all": poly_view(z, temperature).numpy(),
    }


def swav_per_style_codes(inputs: Arrays, params: Params) -> Arrays:
    """Assignments balanced inside each view."""
    scores = torch.tensor(inputs["scores"])
    balance = {"epsilon": params["epsilon"], "iterations": params["iterations"]}
    loss = swav(scores, params["student_temp"], assigned_views=range(len(scores)), **balance)
    codes = torch.stack([sinkhorn(view, **balance) for view in scores])
    return {"out_codes": codes.numpy(), "out_loss": loss.numpy()}
