"""Self-supervised label augmentation of sensor series: turned axes and reversed time.

Lee, Hwang, Shin, ICML 2020 (arXiv 1910.05872), see `core.systems.sla`. For images the paper turns
the picture by quarters; of a sensor we turn the axes by quarters about one of them, and the
recording can run backwards: 8 transformations, which change what the sensor says and not what is
learned from the joint label. A movement run backwards may well be another activity (sit down, stand
up): the joint label is told apart by that, an invariant classifier is misled.

Trained by Adam at a constant rate, as sensor series are in this field, where the paper trains image
networks by SGD with momentum and steps of the rate.
"""

from collections.abc import Sequence
from typing import Any, Literal

from core.systems import sla
from har.systems.encoders import encoder_config

AXES_AND_TIME = {
    "_target_": "core.augment.transformations.Combinations",
    "outer": {"_target_": "core.augment.transformations.AxisRotations"},
    "inner": {"_target_": "core.augment.transformations.TimeReversal"},
}


class SLA(sla.SLA):
    """Cross entropy with the joint labels of activity and transformation.

    Args:
        shapes: modality -> shape of one window; the first modality is classified.
        n_classes: name of a label -> number of its classes; `label` is learned.
        transformations: `_target_` and arguments from `core.augment.transformations`; None is
            quarter turns about the third axis, each forwards and backwards in time.
        encoder: see `har.systems.encoders`.
        inference: see `core.systems.sla`.
        distillation_temperature: see `core.systems.sla`.
        with_large_loss: see `core.systems.sla`.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_classes: dict[str, int],
        transformations: dict[str, Any] | None = None,
        encoder: dict[str, Any] | None = None,
        inference: Literal["aggregated", "single", "distilled"] = "aggregated",
        distillation_temperature: float = 1.0,
        with_large_loss: bool = False,
    ) -> None:
        super().__init__(
            shapes,
            n_classes,
            transformations or AXES_AND_TIME,
            encoder_config(encoder, next(iter(shapes))),
            inference,
            distillation_temperature,
            with_large_loss,
        )
