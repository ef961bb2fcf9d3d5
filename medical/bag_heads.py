"""Slides as bags of patch features: MI-SimpleShot, the mean of a bag, and trained attention."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from core.data.checks import DataError
from core.encoders.abmil import ABMIL
from core.evaluation.simpleshot import SimpleShot


def mi_simpleshot(
    prototypes: SimpleShot, bags: Sequence[Float[Tensor, "patches dim"]], k: int = 5
) -> Float[Tensor, "slides classes"]:
    """For each class the mean squared distance of the k patches nearest to its prototype.

    The smallest wins: nothing is trained on slides. Patches are centred by the mean of the regions
    that the prototypes are of. A slide of fewer patches takes all it has.

    Args:
        prototypes: of labelled regions.
        bags: patch features of each slide.
        k: patches of a slide that speak for a class.

    Raises:
        DataError: a slide without patches.
    """
    scores = []
    for number, bag in enumerate(bags):
        if not len(bag):
            raise DataError(f"slide {number} has no patches", fix="leave it out")
        distances = prototypes.squared_distances(bag)
        nearest = distances.topk(min(k, len(bag)), dim=0, largest=False).values
        scores.append(nearest.mean(0))
    return torch.stack(scores)


def bag_means(bags: Sequence[Float[Tensor, "patches dim"]]) -> Float[Tensor, "slides dim"]:
    """The mean of each slide's patches."""
    return torch.stack([bag.mean(0) for bag in bags])


class SlideClassifier(NamedTuple):
    """Gated attention over the patches of a slide, trained with slide labels alone.

    Attributes:
        pool: from a bag to a vector.
        head: from that to the classes.
    """

    pool: ABMIL
    head: nn.Linear

    @classmethod
    def fit(
        cls,
        bags: Sequence[Float[Tensor, "patches dim"]],
        labels: Int[Tensor, " slides"],
        n_classes: int,
        valid_bags: Sequence[Float[Tensor, "patches dim"]] = (),
        valid_labels: Int[Tensor, " valid"] | None = None,
        epochs: int = 20,
        patience: int = 5,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        seed: int = 0,
    ) -> Self:
        """Trains as UNI does: AdamW, a slide a step, the rate falling by a cosine.

        Where there are validation slides, the weights of the epoch of least validation loss are
        kept, and training ends after `patience` epochs without a lower one.

        Args:
            bags: features of the patches of each training slide, on one device.
            labels: classes of the slides.
            n_classes: how many there are.
            valid_bags: of slides that choose the epoch.
            valid_labels: their classes.
            epochs: passes over the slides at most.
            patience: epochs.
            lr: of the first step.
            weight_decay: of AdamW.
            seed: of weights, order and dropout; other random streams are left alone.
        """
        device, dim = bags[0].device, bags[0].shape[1]
        devices = [device] if device.type == "cuda" else []
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.random.fork_rng(devices=devices),
        ):
            torch.manual_seed(seed)
            fitted = cls(ABMIL(dim).to(device), nn.Linear(512, n_classes).to(device))
            model = nn.ModuleList([fitted.pool, fitted.head])
            optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(bags))
            best, kept, since = torch.inf, None, 0
            for _ in range(epochs):
                model.train()
                for slide in torch.randperm(len(bags)).tolist():
                    optimizer.zero_grad()
                    logits = fitted.head(fitted.pool(bags[slide].clone()[None]))
                    cross_entropy(logits, labels[slide : slide + 1].long()).backward()
                    optimizer.step()
                    schedule.step()
                if valid_labels is None or not len(valid_bags):
                    continue
                model.eval()
                guesses = fitted.scores(valid_bags).log()
                loss = torch.nn.functional.nll_loss(guesses, valid_labels.long()).item()
                since += 1
                if loss < best:
                    best, since = loss, 0
                    kept = {name: value.clone() for name, value in model.state_dict().items()}
                if since == patience:
                    break
            if kept is not None:
                model.load_state_dict(kept)
        model.eval()
        return fitted

    @torch.no_grad()
    def scores(
        self, bags: Sequence[Float[Tensor, "patches dim"]]
    ) -> Float[Tensor, "slides classes"]:
        """Probabilities of the classes of each slide."""
        logits = [self.head(self.pool(bag[None])) for bag in bags]
        return torch.cat(logits).softmax(1)

    @torch.no_grad()
    def attention(self, bag: Float[Tensor, "patches dim"]) -> Float[Tensor, " patches"]:
        """The weights of a slide's patches, which sum to 1."""
        return self.pool.attention(bag[None])[0]
