"""iSogCLR of two modalities: every sample of both has a temperature (arXiv 2305.11965)."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.data.checks import DataError
from core.data.samples import Samples
from core.losses import BimodalGlobalContrastiveLoss
from core.systems.isogclr import temperatures_of_classes
from core.systems.towers import Towers
from core.trainers.system import Batch


class BimodalISogCLR(Towers):
    """The robust global contrastive loss between pairs such as image and text (algorithm 2).

    Both sides number their samples by the row of the pair: a sample in two pairs has two
    temperatures. Unlike in the authors' code, the averages start at a pair's first visit instead of
    at 0. With `individual=False` it is SogCLR.

    Args:
        shapes: modality -> shape of one sample, two modalities.
        n_train: number of training pairs: rows of the tables.
        encoder: see `core.systems.towers.Towers`.
        dim: width of the common space.
        temperature: τ at the start.
        individual: every sample learns its own τ.
        gamma: share γ of the new value in the averages of a sample's negatives.
        rho: radius ρ of the KL ball around uniform weights. No weights of n negatives are further
            than log n: a ρ above that only ever lowers the temperatures.
        eta: learning rate η of the temperatures.
        beta: share β of the new gradient in the moving average that moves τ.
        bounds: smallest and largest τ.

    Raises:
        DataError: there are not two modalities.
    """

    def __init__(
        self,
        shapes: dict[str, Sequence[int]],
        n_train: int,
        encoder: dict[str, Any] | None = None,
        dim: int = 256,
        temperature: float = 0.01,
        individual: bool = True,
        gamma: float = 0.8,
        rho: float = 6.0,
        eta: float = 0.03,
        beta: float = 0.9,
        bounds: tuple[float, float] = (0.005, 1.0),
    ) -> None:
        if len(shapes) != 2:
            raise DataError(
                f"iSogCLR of {len(shapes)} modalities, {', '.join(shapes)}",
                expected="two",
                fix="of one modality with views: system=isogclr; of more: system=clip or symile",
            )
        super().__init__(shapes, encoder, dim, False, True)
        self.contrast = BimodalGlobalContrastiveLoss(
            (n_train, n_train),
            temperature,
            individual=individual,
            gamma=gamma,
            rho=rho,
            eta=eta,
            beta=beta,
            bounds=(bounds[0], bounds[1]),
        )

    def objective(self, batch: Batch) -> dict[str, Tensor]:
        """The surrogate, whose gradient alone means something, and the mean temperature."""
        first, second = self.encode(batch)
        loss = self.contrast(first, second, batch["index"], batch["index"])
        return {"loss": loss, "temperature": self.temperatures.mean()}

    @property
    def temperatures(self) -> Float[Tensor, " n_train"]:
        """Mean τ of both samples of every training pair."""
        return (self.contrast.first.temperature + self.contrast.second.temperature) / 2

    def score(
        self, candidates: Float[Tensor, "m dim"], queries: Sequence[Float[Tensor, "n dim"]]
    ) -> Float[Tensor, "n m"]:
        """Cosines of the candidates of one modality with the queries of the other."""
        return queries[0] @ candidates.T

    def report(self, data: Samples) -> dict[str, float]:
        """How τ goes with how many training pairs a class has, see `temperatures_of_classes`."""
        return temperatures_of_classes(self.temperatures, data)
