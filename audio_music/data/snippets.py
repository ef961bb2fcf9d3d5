"""What a snippet is: 160 x 200 pixels around a notehead, 4.2 s of audio around an onset."""

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from audio_music.data.log_filterbank import CENTRED_HOP

SHEET, AUDIO = "sheet", "audio"
WINDOW = (160, 200)  # height and width of a snippet of a score in pixels, before it is halved
MARGIN = 12  # rows more above and below, for shifts and scales
SIDE = 50  # pixels beside a window that a shift or a turn may bring in
STRIP = WINDOW[0] + 2 * MARGIN  # rows of a system that are kept
SHEET_MARGIN = WINDOW[1] + 2 * SIDE  # columns of the widest window
LONGEST = 1.8  # snippets of audio that a view may need, at the fastest tempo


def strip(score: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "strip width"]:
    """`STRIP` rows around the vertical middle of a system, white where it is not so high."""
    top = (score.shape[0] - STRIP) // 2
    if top < 0:
        below = STRIP - score.shape[0] + top
        return np.pad(score, ((-top, below), (0, 0)), constant_values=255)
    return score[top : top + STRIP]


def halved(snippets: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 h w"]:
    """At half the size: every pixel the mean of four, as OpenCV's bilinear halving."""
    return avg_pool2d(snippets, 2)


def samples_of_view(frames: int) -> int:
    """Samples that a view of so many frames needs at the fastest tempo."""
    return (int(frames * LONGEST) + 1) * CENTRED_HOP
