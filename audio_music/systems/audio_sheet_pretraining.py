"""Stage 1 of audio-to-score retrieval: each encoder learns from two views of its own modality.

NT-Xent over 2B views, Adam, the rate halved when the MRR between the two views of held-out snippets
no longer rises, and the best weights by that MRR. It ends before the first step of fine-tuning, so
that both arms of a comparison have the same fine-tuning. What it found is kept in the user's cache,
after every epoch: a run that is started again with the same data, weights and settings goes on
where it was stopped, to the same weights, or begins with the encoders that it had finished.
"""

import contextlib
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from core.augment.draws import Draws
from core.data.cache import cache_folder, cached
from core.data.checks import DataError
from core.evaluation.retrieval import retrieval
from core.losses import nt_xent

Views = Callable[[Draws], Float[Tensor, "2 batch ..."]]
_CACHE = "audio_sheet_pretraining"
_VERSION = 2  # of what is computed here, for the cache
_JUDGES = 1024  # held-out snippets, at most
_WEIGHT_DECAY, _LOWEST = 1e-5, 1e-6


@dataclass(frozen=True)
class Stage:
    """How one modality is pre-trained; an epoch is `snippets` random ones.

    Attributes:
        epochs: all of them; the best by MRR is taken.
        snippets: of an epoch.
        batch_size: snippets of a step, each with two views.
        lr: of Adam.
        temperature: divisor of the cosines.
        patience: epochs without a better MRR after which the rate is halved.
    """

    epochs: int
    snippets: int
    batch_size: int
    lr: float
    temperature: float
    patience: int


PUBLISHED = {
    "audio": Stage(300, 65_536, 128, 1e-3, 0.6, 15),
    "sheet": Stage(180, 32_768, 256, 5e-4, 0.5, 10),
    # Only the principle is published; the settings are those of the modality that takes longer.
    "mixed": Stage(300, 65_536, 128, 1e-3, 0.6, 15),
}


def stage_of(kind: str, changes: Mapping[str, Any] | None) -> Stage:
    """The published settings with some of them changed.

    Raises:
        DataError: a setting does not exist, or is not above 0.
    """
    known = [entry.name for entry in fields(Stage)]
    unknown = set(changes or {}) - set(known)
    if unknown or any(not value > 0 for value in (changes or {}).values()):
        raise DataError(
            f"system.{kind}={dict(changes or {})}",
            expected=f"numbers above 0 of {', '.join(known)}",
        )
    return replace(PUBLISHED[kind], **(changes or {}))


class ViewProjection(nn.Module):
    """An encoder and the head that only pre-training needs: 512 with batch norm, ReLU, 32."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(width, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 32)
        )

    def forward(self, snippets: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 32"]:
        """Projections, not yet of unit length."""
        return self.head(self.encoder(snippets))


def pretrain(
    encoders: Mapping[str, tuple[nn.Module, int]],
    views: Mapping[str, tuple[Views, Views]],
    stage: Stage,
    seed: int,
    fingerprint: str,
) -> tuple[float, bool]:
    """Trains encoders in place: one alone, or several whose views are each other's negatives.

    Args:
        encoders: modality -> encoder and its width.
        views: modality -> what makes two views of training snippets, and of held-out ones.
        stage: the settings.
        seed: of the heads and of every draw.
        fingerprint: of the data, for the cache.

    Returns:
        The best MRR between two views, and whether it came from the cache.
    """
    device = next(next(iter(encoders.values()))[0].parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        models = nn.ModuleDict(
            {name: ViewProjection(encoder, width) for name, (encoder, width) in encoders.items()}
        ).to(device)
    weights = sha256()
    for name, tensor in models.state_dict().items():
        weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    key = f"{_VERSION} {asdict(stage)} {seed} {fingerprint} {weights.hexdigest()} {device.type}"
    partial = cache_folder() / _CACHE / f"{sha256(key.encode()).hexdigest()[:32]}.partial"
    state, was_there = cached(_CACHE, key, lambda: _trained(models, views, stage, seed, partial))
    mrr = float(state.pop("mrr"))
    models.load_state_dict(state)
    models.train()  # as it came: fine-tuning goes on with the batch's own statistics
    return mrr, was_there


def _trained(
    models: nn.ModuleDict,
    views: Mapping[str, tuple[Views, Views]],
    stage: Stage,
    seed: int,
    partial: Path,
) -> dict[str, Tensor]:
    """The best weights and their `mrr`; what is there after each epoch is kept in `partial`."""
    optimizer = torch.optim.Adam(models.parameters(), stage.lr, weight_decay=_WEIGHT_DECAY)
    plateau = ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=stage.patience, min_lr=_LOWEST
    )
    steps = max(1, stage.snippets // stage.batch_size)
    best = {"mrr": torch.tensor(-math.inf)}
    done = _read(partial)
    if done is not None:
        best = done["best"]
        for part, kept in ((models, "models"), (optimizer, "optimizer"), (plateau, "plateau")):
            part.load_state_dict(done[kept])
    for epoch in range(0 if done is None else done["epochs"], stage.epochs):
        models.train()
        for step in range(steps):
            draws = _draws(models, stage.batch_size, 1 + seed * 1_000_003 + epoch * steps + step)
            projected = [
                [model(view) for view in views[name][0](draws)] for name, model in models.items()
            ]
            first, second = (torch.cat(of) for of in zip(*projected, strict=True))
            # Every process has the whole batch.
            loss = nt_xent(first, second, stage.temperature, gather="none")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not bool(loss.isfinite()):
            raise DataError(
                f"pre-training of {', '.join(models)} stopped in epoch {epoch + 1}: its loss is "
                f"{float(loss)}",
                fix="lower its lr, and look for broken files with `data check`",
            )
        mrr = _between_views(models, views)
        plateau.step(mrr)
        if mrr > float(best["mrr"]):
            state = {name: tensor.detach().clone() for name, tensor in models.state_dict().items()}
            best = state | {"mrr": torch.tensor(mrr)}
        _keep(
            partial,
            {
                "epochs": epoch + 1,
                "best": best,
                "models": models.state_dict(),
                "optimizer": optimizer.state_dict(),
                "plateau": plateau.state_dict(),
            },
        )
    partial.unlink(missing_ok=True)
    return best


def _read(partial: Path) -> dict[str, Any] | None:
    try:
        return torch.load(partial, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError):
        return None  # not there, or cut off


def _keep(partial: Path, state: dict[str, Any]) -> None:
    temporary = partial.with_name(f"{partial.name}.{uuid.uuid4().hex[:8]}")
    # As with the cache, a full disk must not stop a training.
    with contextlib.suppress(OSError):
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, temporary)
            temporary.replace(partial)
        finally:
            temporary.unlink(missing_ok=True)


@torch.no_grad()
def _between_views(models: nn.ModuleDict, views: Mapping[str, tuple[Views, Views]]) -> float:
    """Mean MRR of finding the second view of held-out snippets by the first, always the same."""
    models.eval()
    found = []
    for name, model in models.items():
        held_out = views[name][1]
        n = min(_JUDGES, max(2, len(held_out)))  # type: ignore[arg-type]
        first, second = (model(view) for view in held_out(_draws(models, n, 0)))
        rows = torch.arange(n, device=first.device)
        found.append(retrieval(first, second, rows, rows).metrics["mrr"])
    return sum(found) / len(found)


def _draws(models: nn.ModuleDict, n: int, seed: int) -> Draws:
    return Draws(seed, n, slice(0, n), next(models.parameters()).device)
