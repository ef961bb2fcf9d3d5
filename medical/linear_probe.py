"""The linear probe that UNI is evaluated by, whose penalty is the norm itself, not its square."""

from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from core.data.checks import DataError


class NormProbe(NamedTuple):
    """Multinomial logistic regression on features as they are, neither centred nor scaled.

    The objective is the mean cross-entropy + ||W|| / (2 C), with the Frobenius norm of the weights
    of all classes not squared, the bias free, and C = dim x classes / 100, as the code released
    with UNI has it. Written as a squared norm, which other libraries have, C would mean something
    else. Nothing is chosen on validation.

    Attributes:
        weight: (classes, dim).
        bias: (classes,).
        objective: where the fit ended.
    """

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]
    objective: float

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        n_classes: int,
        max_iterations: int = 1000,
        rounds: int = 1,
    ) -> Self:
        """Fits from weights and bias of 0 by L-BFGS with a strong Wolfe search.

        The norm has a kink at 0, where its gradient counts as 0. Where C is so small that the first
        step already raises the objective, everything stays at 0, the bias too, although another
        bias alone would be better: so does the released code. With C of some size, as features of
        models have it, L-BFGS may stop a little early; further rounds start where it stopped, until
        nothing improves.

        Args:
            features: training rows.
            labels: their classes, 0 to n_classes - 1.
            n_classes: how many there are.
            max_iterations: of each round.
            rounds: at most; 1 is what the released code does.

        Raises:
            DataError: labels that do not fit, or NaN or infinite features.
        """
        _check(features, labels, n_classes)
        x = features.to(torch.promote_types(features.dtype, torch.float32))
        y = labels.long()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):
            x, y = x.clone(), y.clone()
            penalty = 0.5 / cost(x.shape[1], n_classes)
            weight = x.new_zeros(n_classes, x.shape[1]).requires_grad_()
            bias = x.new_zeros(n_classes).requires_grad_()
            best = torch.inf
            for _ in range(rounds):
                value = _descend(x, y, weight, bias, penalty, max_iterations)
                if not value < best - 1e-9 * abs(value):
                    break
                best = value
        return cls(weight.detach(), bias.detach(), _objective(x, y, weight, bias, penalty).item())

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "m dim"]) -> Float[Tensor, "m classes"]:
        """Probabilities of the classes."""
        return (features.to(self.weight.dtype) @ self.weight.T + self.bias).softmax(1)


def cost(dim: int, n_classes: int) -> float:
    """C, by which the penalty is divided."""
    return dim * n_classes / 100


def _objective(
    x: Float[Tensor, "n dim"], y: Int64[Tensor, " n"], weight: Tensor, bias: Tensor, penalty: float
) -> Float[Tensor, ""]:
    # Its gradient at weights of 0 is 0 in torch, not NaN.
    norm = torch.linalg.vector_norm(weight)
    return cross_entropy(x @ weight.T + bias, y) + penalty * norm


def _descend(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float, max_iterations: int
) -> float:
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _objective(x, y, weight, bias, penalty)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(_objective(x, y, weight, bias, penalty).detach())


def _check(features: Tensor, labels: Tensor, n_classes: int) -> None:
    if len(features) != len(labels) or len(features) == 0:
        raise DataError(
            f"{len(labels)} labels for {len(features)} rows", expected="one a row, and a row"
        )
    low, high = torch.stack(torch.aminmax(labels)).tolist()
    if low < 0 or high >= n_classes:
        raise DataError(f"labels from {low} to {high}", expected=f"0 to {n_classes - 1}")
    broken = int((~torch.isfinite(features)).any(1).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(features)} rows hold NaN or infinite values",
            expected="finite features",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
