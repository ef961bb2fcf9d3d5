"""What an evaluation returns: means, and the values they are means of."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Shaped


@dataclass(frozen=True)
class Evaluation:
    """The field's metrics of one system on one split.

    Attributes:
        metrics: name, e.g. `recall@20` -> value.
        unit: what the values of `per_unit` belong to: user, patient, chip, subject.
        unit_ids: (n,) ids of those units.
        per_unit: name -> (n,) value of each unit; its mean is the metric of that name.
    """

    metrics: dict[str, float]
    unit: str = "sample"
    unit_ids: Shaped[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, np.int64))
    per_unit: dict[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
