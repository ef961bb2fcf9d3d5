"""Metrics of classes, labels and values, with the value of every sample.

Metrics that are no means over samples, such as F1 or R2, are linearised: the mean over samples of
their values is the metric, and to bootstrap that mean is to bootstrap the metric to first order.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from core.data.checks import DataError
from core.evaluation.classification import classification


class Judged(NamedTuple):
    """Metrics of some predictions, and of each those values of the samples that it has."""

    metrics: dict[str, float]
    per_unit: dict[str, Float[np.ndarray, " n"]]


def judge_classes(scores: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> Judged:
    """Accuracy, balanced accuracy, macro-F1, and Cohen's kappa of the classes of largest score.

    Raises:
        DataError: scores are NaN, or labels are of classes without a score.
    """
    found = classification(scores, labels, range(len(labels)))
    n, n_classes = scores.shape
    truth, said = labels.cpu().numpy(), scores.argmax(1).cpu().numpy()
    true_share, said_share = (np.bincount(of, minlength=n_classes) / n for of in (truth, said))
    accuracy, chance = found.metrics["accuracy"], float(true_share @ said_share)
    # All of one class and right: there is nothing to be better than.
    left = (1 - chance) or np.inf
    kappa = (accuracy - chance) / left
    better = found.per_unit["accuracy"] - accuracy
    likelier = said_share[truth] + true_share[said] - 2 * chance
    moves = better / left - likelier * (1 - accuracy) / left**2
    return Judged(found.metrics | {"kappa": kappa}, found.per_unit | {"kappa": kappa + moves})


def judge_labels(logits: Float[Tensor, "n labels"], wanted: Float[Tensor, "n labels"]) -> Judged:
    """F1 of every label, their mean (macro), and their mean weighted by how often each is on.

    A label is on where its logit is positive. The F1 of a label that is on nowhere is 0.

    Raises:
        DataError: the sizes do not match, or logits are NaN.
    """
    _refuse(logits, wanted)
    said, true = (logits > 0).cpu().numpy(), wanted.cpu().numpy() > 0.5
    n, n_labels = true.shape
    part = 2.0 * (said & true)
    whole = said.astype(np.float64) + true
    total = np.maximum(whole.sum(0), 1)
    f1 = part.sum(0) / total
    moves = (part - f1 * whole) / total
    support = true.sum(0)
    share = support / max(support.sum(), 1)
    weighted = float((share * f1).sum())
    turned = (true * (f1 - weighted)).sum(1) / max(support.sum(), 1)
    return Judged(
        {"macro_f1": float(f1.mean()), "weighted_f1": weighted},
        {
            "macro_f1": f1.mean() + n * moves.sum(1) / n_labels,
            "weighted_f1": weighted + n * ((share * moves).sum(1) + turned),
        },
    )


def judge_values(predicted: Float[Tensor, "n 1"], wanted: Float[Tensor, "n 1"]) -> Judged:
    """R2, RMSE, MAE, MAPE, bias, and RMSE over the root of the mean target.

    `bias` is the mean of predicted less true; `mape` is a share, not per cent;
    `rmse_over_root_mean` is sqrt(mean((y - p)^2 / mean(y))), which the authors of MDiCo print as
    rRMSE, and NaN where the mean is not positive. R2 of targets that are all alike is NaN.

    Raises:
        DataError: the sizes do not match, or predictions are NaN.
    """
    _refuse(predicted, wanted)
    y, p = (x.cpu().numpy().astype(np.float64)[:, 0] for x in (wanted, predicted))
    error, mean = p - y, y.mean()
    squared, spread = error**2, (y - mean) ** 2
    rmse = float(np.sqrt(squared.mean()))
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = float(1 - squared.sum() / spread.sum()) if spread.sum() else float("nan")
        relative = np.abs(error) / np.abs(y)
        per_unit = {
            "r2": r2 - (squared - (1 - r2) * spread) / spread.mean(),
            "rmse": rmse + (squared - rmse**2) / (2 * rmse) if rmse else squared,
            "mae": np.abs(error),
            "mape": relative,
            "bias": error,
        }
    metrics = {"r2": r2, "rmse": rmse, "mae": float(np.abs(error).mean())}
    metrics |= {"mape": float(relative.mean()), "bias": float(error.mean())}
    odd = rmse / float(np.sqrt(mean)) if mean > 0 else float("nan")
    return Judged(metrics | {"rmse_over_root_mean": odd}, per_unit)


def _refuse(predicted: Tensor, wanted: Tensor) -> None:
    if predicted.shape != wanted.shape or len(wanted) == 0:
        raise DataError(
            f"predictions of {list(predicted.shape)} for targets of {list(wanted.shape)}",
            expected="one prediction for each target, and a row or more",
        )
    broken = int(torch.isnan(predicted).any(1).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(predicted)} rows hold predictions that are NaN",
            expected="numbers",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
