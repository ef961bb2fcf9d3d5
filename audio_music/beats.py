"""Beats: from the scores of frames to times, and how many of them are right."""

import numpy as np
from jaxtyping import Float

TOLERANCE = 0.07  # seconds
_APART = 0.2  # seconds between two beats, at least: 300 a minute


def pick_beats(
    scores: Float[np.ndarray, " time"], times: Float[np.ndarray, " time"], threshold: float
) -> Float[np.ndarray, " beats"]:
    """Times of the frames above the threshold that are the highest within 0.2 s on either side."""
    chosen: list[float] = []
    for frame in np.argsort(-scores, kind="stable"):
        if scores[frame] < threshold:
            break
        if all(abs(times[frame] - other) >= _APART for other in chosen):
            chosen.append(float(times[frame]))
    return np.sort(np.array(chosen))


def beat_f1(
    true: Float[np.ndarray, " beats"],
    found: Float[np.ndarray, " estimates"],
    tolerance: float = TOLERANCE,
) -> float:
    """F1 of times within the tolerance, each matched once; 1 where there is nothing to find."""
    if len(true) + len(found) == 0:
        return 1.0
    matched = i = j = 0
    # The earliest match of both is part of a largest matching.
    while i < len(true) and j < len(found):
        if abs(true[i] - found[j]) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif true[i] < found[j]:
            i += 1
        else:
            j += 1
    return 2 * matched / (len(true) + len(found))
