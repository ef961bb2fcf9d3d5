"""Online monitors: what the representation is worth while it trains, almost for nothing."""

import math
import warnings
from collections import deque
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from core.evaluation.knn import knn_predict
from core.evaluation.rank import rankme_of_spectrum
from core.trainers.callbacks import write_to_logs

_PENALTY = 0.1  # of the probe, beside features of variance 1


class OnlineMonitors(Callback):
    """Logs `online/rankme`, and `online/knn` and `online/probe` where the batch has labels.

    Copies of the last `rows` rows of `System.latest["features"]` are kept on the device through an
    epoch and looked at when it ends. No random number is drawn and no weight touched, so training
    is the same without. A system that sets no `latest` costs nothing.

    A fifth of the samples, chosen by their `index`, judges; the others are the neighbours of
    `online/knn` and train `online/probe`, a linear classifier by ridge regression on one-hot
    labels, which has a closed form and no rate to tune. Both are accuracies in [0, 1] on training
    rows as the objective saw them: trends to be read beside the validation, not results. A
    negative label is none.

    Of several processes, the rows are those of the first.

    Args:
        rows: how many to keep; RankMe, never above it, wants several times the width.
        every_n_batches: fewest batches from one look to the next; short epochs go without.
        k: neighbours.
    """

    def __init__(self, rows: int = 4096, every_n_batches: int = 100, k: int = 20) -> None:
        self.n_rows, self.every_n_batches, self.k = rows, every_n_batches, k
        self.latest_epoch = -1
        self.latest: dict[str, float] = {}
        self._kept: deque[dict[str, Tensor]] = deque()
        self._has_warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings what a checkpoint held to the device."""
        self._kept = deque(
            {name: rows.to(pl_module.device) for name, rows in kept.items()} for kept in self._kept
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Keeps the rows of the batch that was just trained on."""
        latest: dict[str, Tensor] = pl_module.latest  # type: ignore[assignment]
        if "features" not in latest or not trainer.is_global_zero or not self._looks(trainer):
            return
        # A copy: a slice of all tokens would keep all tokens.
        rows = {"features": latest["features"].detach().to(torch.float32, copy=True)}
        label, index = batch.get("label"), batch.get("index")
        if label is not None and index is not None and _are_classes(label, rows["features"]):
            rows |= {"label": label.long(), "index": index}
        self._kept.append(rows)
        n_kept = sum(len(kept["features"]) for kept in self._kept)
        while n_kept - len(self._kept[0]["features"]) >= self.n_rows:
            n_kept -= len(self._kept.popleft()["features"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the rows that were kept, logs what it sees and forgets them."""
        if not self._kept or not trainer.is_global_zero:
            return
        rows = self._last_rows()
        self._kept.clear()
        rows = {name: x[rows["features"].isfinite().all(1)] for name, x in rows.items()}
        if len(rows["features"]) == 0:
            return
        metrics = {"online/rankme": rank_of_rows(rows["features"])}
        if "label" in rows:
            metrics |= self._accuracies(*(rows[name] for name in ("features", "label", "index")))
        self.latest_epoch, self.latest = trainer.current_epoch, metrics
        pl_module.log_dict(metrics, prog_bar=True, logger=False, rank_zero_only=True)
        write_to_logs(trainer, metrics)
        self._warn_of_collapse(metrics["online/rankme"], rows["features"])

    def state_dict(self) -> dict[str, Any]:
        """The rows kept so far, for a checkpoint inside an epoch; at its end there are none."""
        return self._last_rows() if self._kept else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the rows of the checkpoint."""
        self._kept = deque([state_dict])

    def _looks(self, trainer: Trainer) -> bool:
        """Whether this epoch is to be looked at: the last always is."""
        epoch = trainer.current_epoch + 1
        every = math.ceil(self.every_n_batches / trainer.num_training_batches)
        return epoch % every == 0 or epoch == trainer.max_epochs

    def _last_rows(self) -> dict[str, Tensor]:
        names = self._kept[0]
        return {name: torch.cat([k[name] for k in self._kept])[-self.n_rows :] for name in names}

    def _accuracies(
        self, features: Float[Tensor, "n dim"], label: Int[Tensor, " n"], index: Int[Tensor, " n"]
    ) -> dict[str, float]:
        judges = judge(index)
        train, held_out = ~judges & (label >= 0), judges & (label >= 0)
        if not (bool(train.any()) and bool(held_out.any())):
            return {}
        classes, dense = label.unique(return_inverse=True)  # numbers may have wide gaps
        target, n_classes = dense[held_out], len(classes)
        votes = knn_predict(features[train], dense[train], features[held_out], n_classes, self.k)
        scores = probe_scores(features[train], dense[train], features[held_out], n_classes)
        return {
            "online/knn": float((votes.argmax(1) == target).float().mean()),
            "online/probe": float((scores.argmax(1) == target).float().mean()),
        }

    def _warn_of_collapse(self, rank: float, features: Float[Tensor, "n dim"]) -> None:
        least = max(1.5, 0.01 * min(features.shape))
        if rank >= least or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"the representation is collapsing: its {features.shape[1]} dimensions have a RankMe "
            f"of {rank:.2f} after epoch {self.latest_epoch + 1}, below {least:.2f}. To try: a "
            "lower optimizer.lr and a longer warm-up; a larger batch or another temperature where "
            "negatives keep embeddings apart; more weight on the terms that spread them "
            "(variance, covariance, entropy); a slower teacher where there is one; and `data "
            "check`, for inputs that are all alike",
            stacklevel=2,
        )


def judge(index: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """True for the fifth of all samples that judges, whichever batch or epoch shows them.

    The number is hashed, as data sets in which the classes take turns would put whole classes on
    one side (Knuth's multiplicative hash).
    """
    return ((index * 2654435761) % 2**32 >> 16) % 5 == 0


def rank_of_rows(features: Float[Tensor, "n dim"]) -> float:
    """`rankme` by the smaller of the two Gram matrices: the same number to 1e-6, in less time."""
    z = features.double()
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    # The eigenvalues are squares, and those of a zero singular value are zero to rounding only.
    values = torch.linalg.eigvalsh(gram)
    floor = values[-1] * len(values) * torch.finfo(torch.float64).eps
    return float(rankme_of_spectrum(values.where(values > floor, 0).sqrt()))


def probe_scores(
    train: Float[Tensor, "n dim"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m dim"],
    n_classes: int,
) -> Float[Tensor, "m n_classes"]:
    """Scores of a linear classifier: ridge regression on one-hot labels of standardised features.

    Args:
        train: rows to fit.
        train_labels: their classes, 0 to n_classes - 1.
        queries: rows to score, standardised with the mean and deviation of `train`.
        n_classes: number of classes.

    Returns:
        About the indicator of each class; the largest is the prediction.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = 1 / deviation.clamp_min(1e-6 * deviation.max().clamp_min(1e-30))
    x = (train - mean) * scale
    y = one_hot(train_labels, n_classes).to(x)
    share = y.mean(0)
    n, dim = x.shape
    ridge = n * _PENALTY * torch.eye(min(n, dim), dtype=x.dtype, device=x.device)
    if n < dim:
        weight = x.T @ torch.linalg.solve(x @ x.T + ridge, y - share)
    else:
        weight = torch.linalg.solve(x.T @ x + ridge, x.T @ (y - share))
    scores: Tensor = (queries - mean) * scale @ weight + share
    return scores


def _are_classes(label: Tensor, features: Tensor) -> bool:
    """One class a row, rather than several labels or a number to predict."""
    return label.shape == features.shape[:1] and not label.is_floating_point()
