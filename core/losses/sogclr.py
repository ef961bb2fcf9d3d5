"""Global contrastive losses: SogCLR, and iSogCLR with a temperature of each sample's own."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.distributed import global_mean
from core.losses.precision import full_precision
from core.losses.rows import Gather, Rows, two_view_scores, unit


class AnchorTable(nn.Module):
    """What is remembered of every anchor from step to step.

    Args:
        n: number of samples.
        temperature: τ at the start.
        gamma: share γ of the new value in the moving averages.
        individual: learn a temperature for every sample; otherwise τ stays.
        rho: radius ρ of the KL ball; larger keeps the temperatures smaller.
        eta: learning rate η of the temperatures.
        beta: share β of the new gradient in its moving average.
        bounds: smallest and largest temperature.
        clip: the gradient of a temperature is kept in [-clip, clip].

    Attributes:
        average: (n,) moving average s of the mean exponential of an anchor's negatives.
        maximum: (n,) running maximum b that has been taken out of these exponentials.
        temperature: (n,) τ.
        velocity: (n,) moving average of the gradient of τ.
        seen: (n,) bool, False until a sample's first step.
    """

    average: Tensor
    maximum: Tensor
    temperature: Tensor
    velocity: Tensor
    seen: Tensor

    def __init__(
        self,
        n: int,
        temperature: float,
        *,
        gamma: float,
        individual: bool,
        rho: float,
        eta: float,
        beta: float,
        bounds: tuple[float, float],
        clip: float,
    ) -> None:
        super().__init__()
        self.gamma, self.individual = gamma, individual
        self.rho, self.eta, self.beta, self.bounds, self.clip = rho, eta, beta, bounds, clip
        self.register_buffer("average", torch.zeros(n))
        self.register_buffer("maximum", torch.zeros(n))
        self.register_buffer("temperature", torch.full((n,), temperature))
        self.register_buffer("velocity", torch.zeros(n))
        self.register_buffer("seen", torch.zeros(n, dtype=torch.bool))

    def fresh(self, index: Int[Tensor, " n"], fresh: bool | None) -> Bool[Tensor, " n"]:
        """Whose average is replaced: those never seen, or all or none where the caller says so."""
        return ~self.seen[index] if fresh is None else torch.full_like(self.seen[index], fresh)

    def averaged(self, old: Tensor, new: Tensor, fresh: Tensor) -> Tensor:
        """(1 - γ) old + γ new, or new where an anchor is fresh."""
        return torch.where(fresh, new, old.lerp(new, self.gamma))

    def write(
        self,
        rows: Rows,
        index: Int[Tensor, " n"],
        average: Float[Tensor, " n"],
        maximum: Float[Tensor, " n"],
        gradient: Float[Tensor, " n"],
    ) -> None:
        """Stores the new averages and maxima and moves the temperatures, on all ranks alike.

        Args:
            rows: the rows of this rank, and whether other ranks have some.
            index: samples of the rows; of samples that come twice the mean is stored.
            average: new s.
            maximum: new b.
            gradient: log s + b + ρ - Σ_j w_j h_j / τ without its ρ.
        """
        index = rows.everywhere(index)
        self._store(self.average, index, rows.everywhere(average))
        self._store(self.maximum, index, rows.everywhere(maximum))
        self.seen[index] = True
        if self.individual:
            clipped = (rows.everywhere(gradient) + self.rho).clamp(-self.clip, self.clip)
            velocity = self.velocity[index].lerp(clipped.to(self.velocity.dtype), self.beta)
            self._store(self.velocity, index, velocity)
            moved = self.temperature[index] - self.eta * self.velocity[index]
            self._store(self.temperature, index, moved.clamp(*self.bounds))

    @staticmethod
    def _store(table: Tensor, index: Tensor, values: Tensor) -> None:
        table.scatter_reduce_(0, index, values.to(table.dtype), "mean", include_self=False)


class GlobalContrastiveLoss(nn.Module):
    """Contrast of two views with the negatives of the whole data set, by moving averages.

    SogCLR (Yuan et al. 2022, algorithm 1), with `individual=True` iSogCLR (Qiu et al. 2023,
    algorithm 1): each sample learns its temperature as the dual variable of a KL ball around the
    uniform weights of its negatives. The value is a surrogate: its gradient is that of the global
    loss, but it may be negative or stand still.

    Args:
        n: number of samples of the data set; a table of five numbers a sample is kept.
        temperature: τ, or its start.
        individual: learn a temperature for every sample.
        gamma: share γ of the new value in the moving averages.
        rho: radius ρ of the KL ball.
        eta: learning rate η of the temperatures.
        beta: share β of the new gradient in its moving average.
        bounds: smallest and largest temperature.
        normalize: bring the rows to unit length first.
        gather: negatives are this rank's rows or those of all ranks.
    """

    def __init__(
        self,
        n: int,
        temperature: float = 0.1,
        *,
        individual: bool = False,
        gamma: float = 0.8,
        rho: float = 0.4,
        eta: float = 0.03,
        beta: float = 0.5,
        bounds: tuple[float, float] = (0.05, 1.0),
        normalize: bool = True,
        gather: Gather = "full",
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.gather: Gather = gather
        self.table = AnchorTable(
            n,
            temperature,
            gamma=gamma,
            individual=individual,
            rho=rho,
            eta=eta,
            beta=beta,
            bounds=bounds,
            clip=3.0,
        )

    @full_precision
    def forward(
        self,
        a: Float[Tensor, "batch dim"],
        b: Float[Tensor, "batch dim"],
        index: Int[Tensor, " batch"],
        *,
        fresh: bool | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over samples of the sum of both views' losses; then the tables move.

        Args:
            a: (B, D) raw embeddings of one view.
            b: (B, D) raw embeddings of the other.
            index: (B,) numbers of the samples in [0, n), each once in a batch.
            fresh: replace the averages of this batch (True, in the authors' code the first epoch)
                or average them (False); None replaces those of samples never seen before.

        Returns:
            Scalar in float32 at least.
        """
        rows = Rows.of(a, self.gather)
        a, b = unit(a, self.normalize), unit(b, self.normalize)
        positive, scores = two_view_scores(a, b, 1.0, rows)
        negatives = max(2 * rows.total - 2, 1)
        with torch.no_grad():
            temperature = self.table.temperature[index].to(a.dtype).repeat(2)
            powers = (scores / temperature[:, None]).exp()
            mean = powers.sum(1) / negatives
            old = self.table.average[index].to(a.dtype).repeat(2)
            average = self.table.averaged(old, mean, self.table.fresh(index, fresh).repeat(2))
            weights = powers / average.clamp(min=torch.finfo(average.dtype).tiny)[:, None]
        scores = scores.masked_fill(scores.isneginf(), 0)
        attraction = (weights * scores).sum(1) / negatives
        if self.training:
            with torch.no_grad():
                gradient = average.log() - attraction / temperature
                average, gradient = (x.view(2, -1).mean(0) for x in (average, gradient))
                self.table.write(rows, index, average, torch.zeros_like(average), gradient)
        return 2 * global_mean(attraction - positive)


class BimodalGlobalContrastiveLoss(nn.Module):
    """Contrast of two modalities with the negatives of the whole data set, by moving averages.

    SogCLR and iSogCLR (Yuan et al. 2022; Qiu et al. 2023, algorithm 2) for pairs such as image and
    text; each side keeps its own tables. The value is a surrogate, see `GlobalContrastiveLoss`.

    Args:
        n: number of samples on the first and on the second side.
        temperature: τ, or its start.
        individual: learn a temperature for every sample of both sides.
        gamma: share γ of the new value in the moving averages.
        rho: radius ρ of the KL ball.
        eta: learning rate η of the temperatures.
        beta: share β of the new gradient in its moving average.
        bounds: smallest and largest temperature.
        clip: the gradient of a temperature is kept in [-clip, clip].
        with_positive: count the positive (difference 0) among the negatives, as the authors' code
            does; its released library does not.
        eps: added to the averages before they divide.
        normalize: bring the rows to unit length first.
        gather: negatives are this rank's rows or those of all ranks.
    """

    def __init__(
        self,
        n: tuple[int, int],
        temperature: float = 0.01,
        *,
        individual: bool = False,
        gamma: float = 0.8,
        rho: float = 6.0,
        eta: float = 0.03,
        beta: float = 0.9,
        bounds: tuple[float, float] = (0.005, 1.0),
        clip: float = 5.0,
        with_positive: bool = True,
        eps: float = 1e-10,
        normalize: bool = True,
        gather: Gather = "full",
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.with_positive, self.eps = with_positive, eps
        self.gather: Gather = gather
        self.first, self.second = (
            AnchorTable(
                size,
                temperature,
                gamma=gamma,
                individual=individual,
                rho=rho,
                eta=eta,
                beta=beta,
                bounds=bounds,
                clip=clip,
            )
            for size in n
        )

    @full_precision
    def forward(
        self,
        a: Float[Tensor, "batch dim"],
        b: Float[Tensor, "batch dim"],
        a_index: Int[Tensor, " batch"],
        b_index: Int[Tensor, " batch"],
        *,
        fresh: bool | None = None,
    ) -> Float[Tensor, ""]:
        """Sum of both sides' mean losses; then the tables move.

        Args:
            a: (B, D) raw embeddings of the first modality.
            b: (B, D) raw embeddings of the second.
            a_index: (B,) numbers of the samples of the first side.
            b_index: (B,) numbers of the samples of the second side.
            fresh: as in `GlobalContrastiveLoss`; the authors' code averages from 0 (False).

        Returns:
            Scalar in float32 at least.
        """
        rows = Rows.of(a, self.gather)
        a, b = unit(a, self.normalize), unit(b, self.normalize)
        one_way = self._side(self.first, a, b, a_index, rows, fresh)
        return one_way + self._side(self.second, b, a, b_index, rows, fresh)

    def _side(
        self,
        table: AnchorTable,
        anchors: Tensor,
        others: Tensor,
        index: Tensor,
        rows: Rows,
        fresh: bool | None,
    ) -> Tensor:
        positive = (anchors * others).sum(1, keepdim=True)
        differences = anchors @ rows.everywhere(others).T - positive
        negatives = max(rows.total - 1, 1)
        with torch.no_grad():
            temperature = table.temperature[index].to(anchors.dtype)[:, None]
            exponents = differences / temperature
            if not self.with_positive:
                exponents = exponents.masked_fill(rows.pairs(anchors.device), -torch.inf)
            old_maximum = table.maximum[index].to(anchors.dtype)
            maximum = torch.maximum(old_maximum, exponents.amax(1))
            powers = (exponents - maximum[:, None]).exp()
            mean = powers.sum(1) / negatives
            old = table.average[index].to(anchors.dtype) * (old_maximum - maximum).exp()
            average = table.averaged(old, mean, table.fresh(index, fresh))
            weights = powers / (average + self.eps)[:, None]
        attraction = (weights * differences).sum(1) / negatives
        if self.training:
            with torch.no_grad():
                gradient = average.log() + maximum - attraction / temperature[:, 0]
                table.write(rows, index, average, maximum, gradient)
        return global_mean(attraction)
