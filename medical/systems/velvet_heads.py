"""The contrast of VELVET-Med (arXiv 2508.12108) on features of frozen encoders.

For those who have features of regions and of sentences or words, and for the question what the
local contrast learns by itself: the report contrast sees means over projected regions and units,
the local contrast which unit belongs to which region. Both have projections of their own, with one
hidden layer.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.encoders.mlp import ProjectionHead
from core.losses import local_attention, local_contrast, local_similarity
from core.losses.score_contrast import score_contrast
from core.trainers.system import Batch, System
from medical.systems.velvet_med import LEAST_TEMPERATURE, report_scores, unit_vectors

OBJECTIVES = ("report", "local")


class VelvetHeads(System):
    """Projections of regions and units, of volumes and reports.

    A sample has `regions` (S, D) and `units` (L, E); `exists` (L), 1 where there is a unit, where
    reports are of different lengths.

    Args:
        shapes: modality -> shape of a sample.
        n_train: training samples; not used.
        n_classes: of labels; not used.
        objectives: report, local or both.
        hidden: width within the projections.
        projection: width of the spaces of comparison.
        temperature: of the report contrast at the start; learned.
        label_smoothing: of the report contrast.

    Raises:
        DataError: a modality is missing, or an objective or the temperature is not as said.
    """

    def __init__(
        self,
        shapes: dict[str, list[int]],
        n_train: int,
        n_classes: dict[str, int],
        objectives: Sequence[str] = OBJECTIVES,
        hidden: int = 128,
        projection: int = 64,
        temperature: float = 0.07,
        label_smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if not {"regions", "units"} <= shapes.keys() or {
            len(shapes[name]) for name in ("regions", "units")
        } != {2}:
            raise DataError(
                f"samples of {shapes}", expected="regions (S, D) and units (L, E) of each case"
            )
        if not objectives or set(objectives) - set(OBJECTIVES):
            raise DataError(
                f"system.objectives={list(objectives)}", expected="some of report, local"
            )
        if temperature < LEAST_TEMPERATURE:
            raise DataError(
                f"system.temperature={temperature}", expected=f"at least {LEAST_TEMPERATURE}"
            )
        self.shapes, self.objectives = shapes, frozenset(objectives)
        self.label_smoothing = label_smoothing
        widths = {name: shapes[name][1] for name in ("regions", "units")}
        # Untrained ones too: what they find is chance.
        self.of_cases = _heads(widths, hidden, projection)
        self.of_parts = _heads(widths, hidden, projection)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The chosen terms, each of weight 1."""
        terms = {}
        if "report" in self.objectives:
            volumes, reports = self._cases(batch)
            self.latest = {"features": volumes.detach()}
            scores = report_scores(volumes, reports, self.temperature)
            terms["report"] = score_contrast(scores, label_smoothing=self.label_smoothing)
        if "local" in self.objectives:
            terms["local"] = local_contrast(*self._parts(batch), _exists(batch))
        return {"loss": torch.stack(list(terms.values())).sum()} | terms

    @torch.no_grad()
    def update_teachers(self, step: int, total_steps: int) -> None:
        """Keeps the temperature away from 0, where it would change its sign."""
        self.temperature.clamp_(min=LEAST_TEMPERATURE)

    @torch.no_grad()
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors `volume` and `report`, in the space of the report contrast."""
        volumes, reports = self._cases(batch)
        return {"volume": volumes.float(), "report": reports.float()}

    @torch.no_grad()
    def local_scores(self, volumes: Batch, reports: Batch) -> Float[Tensor, "volumes reports"]:
        """`local_similarity` of all volumes with all reports."""
        regions = self.of_parts["regions"](volumes["regions"])
        units = self.of_parts["units"](reports["units"])
        return local_similarity(regions, units, _exists(reports))

    @torch.no_grad()
    def attention(self, batch: Batch) -> Float[Tensor, "batch units regions"]:
        """Weights of every unit's regions in its own volume, with the sum 1."""
        return local_attention(*self._parts(batch), _exists(batch))

    def _cases(self, batch: Batch) -> tuple[Tensor, Tensor]:
        exists = _exists(batch)[:, :, None]
        units = self.of_cases["units"](batch["units"]) * exists
        volumes = self.of_cases["regions"](batch["regions"]).mean(1)
        reports = units.sum(1) / exists.sum(1).clamp(min=1)
        return unit_vectors(volumes), unit_vectors(reports)

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.of_parts["regions"](batch["regions"]), self.of_parts["units"](batch["units"])


def _heads(widths: dict[str, int], hidden: int, projection: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {name: ProjectionHead(width, hidden, projection) for name, width in widths.items()}
    )


def _exists(batch: Batch) -> Bool[Tensor, "batch units"]:
    if "exists" in batch:
        return batch["exists"] > 0
    return torch.ones_like(batch["units"][..., 0], dtype=torch.bool)
