"""Layer probe: a small network on a learned mixture of all layers of a frozen encoder."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

Target = Literal["classes", "tags", "value"]
_LOSSES: dict[Target, Callable[[Tensor, Tensor], Tensor]] = {
    "classes": F.cross_entropy,
    "tags": lambda scores, of: F.binary_cross_entropy_with_logits(scores, of.to(scores)),
    "value": lambda scores, of: F.mse_loss(scores[:, 0], of.to(scores)),
}
RATES = (5e-4, 2e-3)  # of Adam, to choose from


class LayerProbe(nn.Module):
    """Softmax weights of the layers, then a hidden layer with dropout.

    The protocol of SUPERB (Yang et al. 2021) and MARBLE (Yuan et al. 2023): the weights start
    equal and are learned with the network. Each layer is standardised by the training rows.

    Args:
        n_layers: of the features.
        dim: their width.
        n_outputs: classes, tags, or 1.
        hidden: width of the hidden layer.
        dropout: before and after it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, n_layers: int, dim: int, n_outputs: int, hidden: int = 512, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_layers, dim))
        self.register_buffer("deviation", torch.ones(n_layers, dim))
        self.layer_logits = nn.Parameter(torch.zeros(n_layers))
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(dim, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_outputs),
        )

    @property
    def layer_weights(self) -> list[float]:
        """How much each layer counts; the sum is 1."""
        return self.layer_logits.detach().softmax(0).tolist()

    def forward(self, features: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch out"]:
        """Scores of the classes or tags, or the standardised value."""
        standard = (features - self.mean) / self.deviation
        mixture = torch.einsum("bld,l->bd", standard, self.layer_logits.softmax(0))
        scores: Tensor = self.network(mixture)
        return scores

    @torch.no_grad()
    def scores(self, features: Float[Tensor, "n layers dim"]) -> Float[Tensor, "n out"]:
        """`forward` of many rows."""
        return torch.cat([self(some.float()) for some in features.split(4096)])


def fit_layer_probe(
    features: Float[Tensor, "n layers dim"],
    targets: Shaped[Tensor, "n ..."],
    valid_features: Float[Tensor, "m layers dim"] | None,
    judge: Callable[[Float[Tensor, "m out"]], float],
    kind: Target,
    n_outputs: int,
    *,
    rates: Sequence[float] = RATES,
    max_epochs: int = 100,
    patience: int = 15,
    batch_size: int = 128,
    seed: int = 0,
) -> LayerProbe:
    """Trains a probe with Adam at each rate; keeps the rate and epoch that `judge` prefers.

    Args:
        features: of the training rows.
        targets: (n,) classes, (n, tags) truth values, or (n,) standardised values.
        valid_features: of the rows that choose rate and epoch; None: the first rate and
            `max_epochs` epochs, and nothing chooses.
        judge: scores of the validation rows -> how good they are, more is better.
        kind: of the targets, which decides the loss.
        n_outputs: classes, tags, or 1.
        rates: of Adam, to choose from.
        max_epochs: passes over the training rows, at most.
        patience: epochs without a better one before the end.
        batch_size: rows of a step.
        seed: of first weights, order and dropout.

    Returns:
        The probe, in evaluation mode.
    """
    best: tuple[float, LayerProbe] | None = None
    for rate in rates if valid_features is not None else rates[:1]:
        score, probe = _fitted(
            features,
            targets,
            valid_features,
            judge,
            _LOSSES[kind],
            n_outputs,
            rate,
            max_epochs,
            patience,
            batch_size,
            seed,
        )
        if best is None or score > best[0]:
            best = score, probe
    assert best is not None
    return best[1]


def _fitted(
    features: Tensor,
    targets: Tensor,
    valid_features: Tensor | None,
    judge: Callable[[Tensor], float],
    loss: Callable[[Tensor, Tensor], Tensor],
    n_outputs: int,
    rate: float,
    max_epochs: int,
    patience: int,
    batch_size: int,
    seed: int,
) -> tuple[float, LayerProbe]:
    devices = [features.device] if features.is_cuda else []
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        probe = LayerProbe(features.shape[1], features.shape[2], n_outputs).to(features.device)
        deviation, mean = torch.std_mean(features.float(), 0, correction=0)
        # A dead channel stays at 0.
        probe.mean, probe.deviation = mean, deviation.clamp_min(1e-6)
        optimizer = torch.optim.Adam(probe.parameters(), rate)
        best, best_score, waited = deepcopy(probe.state_dict()), float("-inf"), 0
        for _ in range(max_epochs):
            probe.train()
            for some in torch.randperm(len(features), generator=order).split(batch_size):
                some = some.to(features.device)
                optimizer.zero_grad()
                loss(probe(features[some].float()), targets[some]).backward()
                optimizer.step()
            if valid_features is None:
                continue
            score = judge(probe.eval().scores(valid_features))
            waited = 0 if score > best_score else waited + 1
            if score > best_score:
                best, best_score = deepcopy(probe.state_dict()), score
            if waited > patience:
                break
    if valid_features is not None:
        probe.load_state_dict(best)
    return best_score, probe.eval()
