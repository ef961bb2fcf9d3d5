"""The contrast of VELVET-Med (arXiv 2508.12108) on features of frozen encoders.

For those who have features of regions and of sentences or words, and for the question what the
local contrast learns by itself. A hidden layer a modality takes the place of the encoder that both
contrasts share; as in VELVET-Med each level then has a linear projection of its own, of the mean
over regions or units for the report contrast, of each of them for the local one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.data.checks import DataError
from core.losses import local_attention, local_contrast, local_similarity
from core.losses.score_contrast import score_contrast
from core.trainers.system import Batch, System
from medical.systems.velvet_med import LEAST_TEMPERATURE, report_scores, unit_vectors

OBJECTIVES = ("report", "local")


class VelvetHeads(System):
    """A hidden layer for regions and one for units, and projections of parts and of wholes.

    A sample has `regions` (S, D) and `units` (L, E); `exists` (L), 1 where there is a unit, where
    reports are of different lengths.

    Args:
        shapes: modality -> shape of a sample.
        objectives: report, local or both.
        hidden: width of the layer that both contrasts share.
        projection: width of the spaces of comparison.
        temperature: of the report contrast at the start; learned.
        label_smoothing: of the report contrast.

    Raises:
        DataError: a modality is missing, or an objective or the temperature is not as said.
    """

    def __init__(
        self,
        shapes: dict[str, list[int]],
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
        self.hidden = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(w, hidden), nn.ReLU()) for name, w in widths.items()}
        )
        # Those of an objective that is left out stay untrained: what they find is near chance.
        self.of_cases, self.of_parts = (
            nn.ModuleDict({name: nn.Linear(hidden, projection) for name in widths})
            for _ in range(2)
        )
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
        regions = self._part("regions", volumes)
        units = self._part("units", reports)
        return local_similarity(regions, units, _exists(reports))

    @torch.no_grad()
    def attention(self, batch: Batch) -> Float[Tensor, "batch units regions"]:
        """Weights of every unit's regions in its own volume, with the sum 1."""
        return local_attention(*self._parts(batch), _exists(batch))

    def _cases(self, batch: Batch) -> tuple[Tensor, Tensor]:
        exists = _exists(batch)[:, :, None]
        regions = self.hidden["regions"](batch["regions"]).mean(1)
        units = (self.hidden["units"](batch["units"]) * exists).sum(1)
        units = units / exists.sum(1).clamp(min=1)
        return (
            unit_vectors(self.of_cases["regions"](regions)),
            unit_vectors(self.of_cases["units"](units)),
        )

    def _part(self, name: str, batch: Batch) -> Tensor:
        projected: Tensor = self.of_parts[name](self.hidden[name](batch[name]))
        return projected

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self._part("regions", batch), self._part("units", batch)


def _exists(batch: Batch) -> Bool[Tensor, "batch units"]:
    if "exists" in batch:
        return batch["exists"] > 0
    return torch.ones_like(batch["units"][..., 0], dtype=torch.bool)
