"""Trained heads of several labels a chip: the non-linear probe, and fine-tuning."""

from collections.abc import Callable
from copy import deepcopy

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from core.evaluation.average_precision import mean_average_precision
from core.trainers.system import System
from remote_sensing.data.chips import Chips
from remote_sensing.features import JOINT, with_joint

Encode = Callable[[Int64[Tensor, " batch"]], Float[Tensor, "batch dim"]]
Labelled = tuple[Int64[Tensor, " n"], Bool[Tensor, "n classes"]]
_HIDDEN = 512  # of the non-linear probe
_ROWS = 256  # that are encoded at a time where nothing is trained


def nonlinear_scores(
    train: tuple[Float[Tensor, "n dim"], Bool[Tensor, "n classes"]],
    valid: tuple[Float[Tensor, "v dim"], Bool[Tensor, "v classes"]],
    features: Float[Tensor, "m dim"],
    seed: int = 0,
) -> Float[Tensor, "m classes"]:
    """What a perceptron with one hidden layer says of frozen features, standardised.

    Args:
        train: features that teach it, and their labels.
        valid: those that choose the epoch.
        features: to be scored.
        seed: of its weights and of the order.
    """
    std, mean = torch.std_mean(train[0], 0, correction=0)
    scale = 1 / std.clamp(min=1e-6)
    parts = [(of - mean) * scale for of in (train[0], valid[0], features)]
    rows = torch.cat(parts)
    n, v = len(parts[0]), len(parts[1])
    places = torch.arange(len(rows), device=rows.device)
    with torch.random.fork_rng([rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        head = nn.Sequential(
            nn.Linear(rows.shape[1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, train[1].shape[1])
        ).to(rows.device)
    fit_head(
        *(head, lambda some: rows[some], (places[:n], train[1]), (places[n : n + v], valid[1])),
        seed=seed,
    )
    return head_scores(head, lambda some: rows[some], places[n + v :])


def fine_tuned_scores(
    system: System,
    data: Chips,
    train: Labelled,
    valid: Labelled,
    rows: Int64[Tensor, " m"],
    seed: int = 0,
) -> Float[Tensor, "m classes"]:
    """What a linear head says after a copy of the system has been trained together with it.

    Args:
        system: the pre-trained one, which stays as it is.
        data: the chips.
        train: rows that teach, and their labels.
        valid: those that choose the epoch.
        rows: to be scored.
        seed: of the head and of the order.
    """
    tuned = deepcopy(system)
    for weight in tuned.parameters():
        weight.requires_grad_(True)

    def encode(some: Tensor) -> Tensor:
        batch = data.batch(some)
        return with_joint(tuned.embed({name: batch[name] for name in data.inputs}))[JOINT]

    with torch.no_grad():
        dim = encode(rows[:1]).shape[1]
    with torch.random.fork_rng([rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        head = nn.Linear(dim, train[1].shape[1]).to(rows.device)
    fit_head(head, encode, train, valid, encoder=tuned, seed=seed)
    return head_scores(head, encode, rows)


def fit_head(
    head: nn.Module,
    encode: Encode,
    train: Labelled,
    valid: Labelled,
    encoder: nn.Module | None = None,
    max_epochs: int = 100,
    batch_size: int = 64,
    lr: float = 1e-3,
    encoder_lr: float = 1e-4,
    patience: int = 10,
    seed: int = 0,
) -> None:
    """Trains a head, and the encoder with it if one is given; keeps the best epoch's weights.

    AdamW (weight decay 0.01) on the binary cross-entropy of every label, at constant rates; the
    epoch of the highest validation mAP is kept.

    Args:
        head: features -> a logit a label.
        encode: rows of the data -> their features.
        train: rows and their labels.
        valid: rows that choose the epoch, and their labels.
        encoder: what `encode` runs, if it shall be trained as well.
        max_epochs: passes over the training rows, at most.
        batch_size: rows of a step.
        lr: rate of the head.
        encoder_lr: rate of the encoder.
        patience: epochs without a higher validation mAP before the end.
        seed: of the order.
    """
    parts = nn.ModuleList([head, encoder] if encoder is not None else [head])
    groups = [{"params": list(head.parameters()), "lr": lr}]
    if encoder is not None:
        groups.append({"params": list(encoder.parameters()), "lr": encoder_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    order = torch.Generator().manual_seed(seed)
    rows, labels = train
    best, highest, waited = deepcopy(parts.state_dict()), -1.0, 0
    with torch.enable_grad():
        for _ in range(max_epochs):
            parts.train()
            for some in torch.randperm(len(rows), generator=order).split(batch_size):
                some = some.to(rows.device)
                logits = head(encode(rows[some]))
                loss = binary_cross_entropy_with_logits(logits, labels[some].to(logits.dtype))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            parts.eval()
            found = mean_average_precision(head_scores(head, encode, valid[0]), valid[1])[0]
            waited = 0 if found > highest else waited + 1
            if found > highest:
                best, highest = deepcopy(parts.state_dict()), found
            if waited > patience:
                break
    parts.load_state_dict(best)
    parts.eval()


@torch.no_grad()
def head_scores(
    head: nn.Module, encode: Encode, rows: Int64[Tensor, " m"]
) -> Float[Tensor, "m classes"]:
    """Logits of some rows."""
    return torch.cat([head(encode(some)) for some in rows.split(_ROWS)])
