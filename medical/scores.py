"""What pathology reports of predicted classes, with a value for every patient or slide."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from core.evaluation.classification import classification
from core.evaluation.evaluation import Evaluation
from core.evaluation.statistics import bootstrap_mean

REPORTED = ("accuracy", "balanced_accuracy", "weighted_f1", "kappa", "auroc")
_DRAWS = 1000


def judged_classes(
    scores: Float[Tensor, "n classes"],
    labels: Int[Tensor, " n"],
    ids: Shaped[np.ndarray, " n"] | Sequence[str],
    unit: str,
) -> Evaluation:
    """Accuracy, balanced accuracy, weighted F1, quadratic-weighted kappa, AUROC.

    Of two classes AUROC is that of the second; of more it is the mean over pairs of classes, one
    against one. It is there only where scores are probabilities and every class has rows.

    Args:
        scores: probabilities, or any scores of which the largest is the prediction.
        labels: true classes.
        ids: the unit of each row: its patient, slide or patch.
        unit: what the ids are of.

    Returns:
        The metrics, and for accuracies values of the units.
    """
    from sklearn.metrics import cohen_kappa_score, roc_auc_score

    found = classification(scores, labels, ids, unit)
    truth, shares = labels.cpu().numpy(), scores.double().cpu().numpy()
    guess = shares.argmax(1)
    n_classes = shares.shape[1]
    metrics = {name: found.metrics[name] for name in ("accuracy", "balanced_accuracy")}
    metrics["weighted_f1"] = found.metrics["weighted_f1"]
    numbers = list(range(n_classes))
    kappa = cohen_kappa_score(truth, guess, labels=numbers, weights="quadratic")
    metrics["kappa"] = float(np.nan_to_num(kappa))
    sums = shares.sum(1)
    is_probable = (shares >= 0).all() and np.abs(sums - 1).max() < 1e-3
    if is_probable and len(np.unique(truth)) == n_classes:
        if n_classes == 2:
            metrics["auroc"] = float(roc_auc_score(truth, shares[:, 1]))
        else:
            even = shares / sums[:, None]
            metrics["auroc"] = float(
                roc_auc_score(truth, even, multi_class="ovo", labels=numbers, average="macro")
            )
    per_unit = {name: found.per_unit[name] for name in ("accuracy", "balanced_accuracy")}
    return replace(found, metrics=metrics, per_unit=per_unit)


def row_of(name: str, found: Evaluation) -> dict[str, Any]:
    """A line of a table: balanced accuracy, its 95 % interval over 1,000 bootstraps, the rest."""
    interval = bootstrap_mean(found.per_unit["balanced_accuracy"], draws=_DRAWS)
    within = f"{max(0.0, interval.low):.3f} to {min(1.0, interval.high):.3f}"
    rest = {n: found.metrics[n] for n in REPORTED if n in found.metrics}
    first = rest.pop("balanced_accuracy")
    row = {"by": name, "balanced_accuracy": first, f"95 % over {found.unit}s": within}
    return row | {name: rest.get(name, "") for name in REPORTED if name != "balanced_accuracy"}
