"""What label augmentation is compared with on sensor series: no copies, or copies of one label.

Lee, Hwang, Shin, ICML 2020 (arXiv 1910.05872, section 2), see `core.systems.supervised`: cross
entropy on the windows (the baseline), on all their transformed copies (DA), and with a second head
for the transformation (MT).
"""

from collections.abc import Sequence
from typing import Any

from core.systems.supervised import Supervised
from har.systems.encoders import encoder_config


class LabelPreserving(Supervised):
    """Cross entropy of the activities on one modality.

    Args:
        shapes: modality -> shape of one window; the first modality is classified.
        n_classes: name of a label -> number of its classes; `label` is learned.
        transformations: as in `SLA`; None learns from the windows alone.
        encoder: see `har.systems.encoders`.
        predict_transformation: see `core.systems.supervised`.
        average: see `core.systems.supervised`.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        transformations: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        predict_transformation: bool = False,
        average: bool = False,
    ) -> None:
        super().__init__(
            shapes,
            n_classes,
            transformations,
            encoder_config(encoder, next(iter(shapes))),
            predict_transformation,
            average,
        )
