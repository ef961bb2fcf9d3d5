"""Readout: a small network that learns classes from features, the encoder frozen or not."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Features = Mapping[str, Float[Tensor, "batch dim"]]


class Readout(nn.Module):
    """The classifier of Brinzea, Khaertdinov and Asteriadis (arXiv 2205.10071) on features.

    Of several modalities: linear, batch norm, ReLU on the features of each; side by side; linear.
    Of one: two hidden layers with ReLU, the second half as wide as the first; linear.

    Args:
        dims: modality -> width of its features.
        n_classes: number of classes.
        hidden: width of each modality's first layer.
    """

    def __init__(self, dims: Mapping[str, int], n_classes: int, hidden: int = 256) -> None:
        super().__init__()
        width = hidden // 2 if len(dims) == 1 else hidden
        self.branches = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU()
                )
                if len(dims) == 1
                else nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
                for name, dim in dims.items()
            }
        )
        self.head = nn.Linear(width * len(dims), n_classes)

    def forward(self, features: Features) -> Float[Tensor, "batch classes"]:
        """Class scores."""
        parts = [branch(features[name]) for name, branch in self.branches.items()]
        scores: Tensor = self.head(torch.cat(parts, 1))
        return scores


def fit_readout(
    readout: nn.Module,
    encode: Callable[[Int64[Tensor, " batch"]], Features],
    train: tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]],
    valid: tuple[Int64[Tensor, " m"], Int64[Tensor, " m"]],
    *,
    encoder: nn.Module | None = None,
    max_epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    patience: int = 50,
    seed: int = 0,
) -> None:
    """Trains a readout, and the encoder with it if one is given; keeps the best epoch's weights.

    Adam on the cross entropy; the rate is halved after 5 epochs without a lower validation loss,
    training ends after `patience` of them, and the epoch of highest validation accuracy is kept
    (of equals, the one of lower loss). A last batch of one row is left out.

    Args:
        readout: features -> (B, classes) scores; it ends in evaluation mode.
        encode: rows of the data -> their features.
        train: rows and their labels.
        valid: rows that choose the epoch, and their labels.
        encoder: what `encode` runs, if it shall be trained as well.
        max_epochs: passes over the training rows, at most.
        batch_size: rows of a step.
        lr: learning rate at the start.
        patience: epochs without a lower validation loss before the end.
        seed: of the order and of dropout.
    """
    parts = nn.ModuleList([readout, encoder] if encoder is not None else [readout])
    optimizer = torch.optim.Adam(parts.parameters(), lr)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
    order = torch.Generator().manual_seed(seed)
    rows, labels = train
    best, best_rank, lowest, waited = deepcopy(parts.state_dict()), (-1.0, 0.0), torch.inf, 0
    devices = [rows.device] if rows.is_cuda else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in range(max_epochs):
            parts.train()
            for some in torch.randperm(len(rows), generator=order).split(batch_size):
                if len(some) == 1:
                    continue
                some = some.to(rows.device)
                loss = cross_entropy(readout(encode(rows[some])), labels[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            parts.eval()
            scores = readout_scores(readout, encode, valid[0])
            accuracy = float((scores.argmax(1) == valid[1]).double().mean())
            loss_of_valid = float(cross_entropy(scores, valid[1]))
            schedule.step(loss_of_valid)
            if (accuracy, -loss_of_valid) > best_rank:
                best, best_rank = deepcopy(parts.state_dict()), (accuracy, -loss_of_valid)
            waited = 0 if loss_of_valid < lowest else waited + 1
            lowest = min(lowest, loss_of_valid)
            if waited > patience:
                break
    parts.load_state_dict(best)
    parts.eval()


@torch.no_grad()
def readout_scores(
    readout: nn.Module,
    encode: Callable[[Int64[Tensor, " batch"]], Features],
    rows: Int64[Tensor, " n"],
) -> Float[Tensor, "n classes"]:
    """Class scores of some rows."""
    return torch.cat([readout(encode(some)) for some in rows.split(1024)])


def label_budget(
    labels: Int64[Tensor, " n"], *, share: float | None, per_class: int | None, seed: int
) -> Int64[Tensor, " some"]:
    """Places of a random part of each class: int(share * n), one at least, or `per_class`.

    Args:
        labels: (n,) classes; negative ones are left out.
        share: of each class, above 0; None goes by `per_class`.
        per_class: samples of each class, all where it has fewer.
        seed: of the draw, the same for every system.

    Returns:
        Ascending.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = labels.cpu()
    chosen = []
    for value in classes[classes >= 0].unique():
        places = order[classes[order] == value]
        wanted = per_class if share is None else max(1, int(share * len(places)))
        chosen.append(places[:wanted])
    return torch.cat(chosen).sort().values.to(labels.device)
