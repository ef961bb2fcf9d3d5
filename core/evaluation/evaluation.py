"""What an evaluation returns: means, and the values they are means of."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from core.evaluation.confusion import Confusion


@dataclass(frozen=True)
class Evaluation:
    """The field's metrics of one system on one split.

    Attributes:
        metrics: name, e.g. `recall@20` -> value.
        unit: what the values of `per_unit` belong to: user, patient, chip, subject.
        unit_ids: (n,) ids of those units.
        per_unit: name -> (n,) value of each unit; its mean is the metric of that name.
        table: rows to be printed below the metrics, such as those of every subject.
        confusion: which classes were taken for which.
    """

    metrics: dict[str, float]
    unit: str = "sample"
    unit_ids: Shaped[np.ndarray, " n"] = field(default_factory=lambda: np.empty(0, np.int64))
    per_unit: dict[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    confusion: Confusion | None = None
