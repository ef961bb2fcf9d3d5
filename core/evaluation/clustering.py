"""How well k-means finds the classes: accuracy by assignment, NMI, ARI."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from core.data.checks import DataError


def kmeans_metrics(
    features: Float[Tensor, "n dim"],
    labels: Int[Tensor, " n"],
    n_clusters: int | None = None,
    seed: int = 0,
    restarts: int = 10,
) -> dict[str, float]:
    """Clusters rows by scikit-learn's k-means, on the CPU, and compares them with the classes.

    Args:
        features: as the distances should see them; for cosines, normalise first.
        labels: classes, any integers.
        n_clusters: by default as many as there are classes.
        seed: of the starts.
        restarts: starts by k-means++, of which the clusters of least inertia are kept.

    Returns:
        `accuracy` (`assignment_accuracy`, 0 to 1), `nmi` (by the arithmetic mean of the entropies,
        0 to 1) and `ari` (at most 1, about 0 for clusters of chance).

    Raises:
        DataError: sizes that do not match, fewer rows than clusters, NaN or infinite features.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rows, classes = features.detach().float().cpu().numpy(), labels.cpu().numpy()
    if len(rows) != len(classes):
        raise DataError(f"{len(classes)} labels for {len(rows)} rows", expected="one a row")
    if n_clusters is None:
        n_clusters = len(np.unique(classes))
    if not 1 <= n_clusters <= len(rows):
        raise DataError(
            f"{n_clusters} clusters of {len(rows)} rows", expected="1 cluster to one a row"
        )
    if not np.isfinite(rows).all():
        raise DataError(
            f"{np.count_nonzero(~np.isfinite(rows).all(1))} of {len(rows)} rows hold NaN or"
            " infinite values",
            expected="finite embeddings",
            fix="the training diverged: lower the learning rate, or use an earlier checkpoint",
        )
    clusters = KMeans(n_clusters, n_init=restarts, random_state=seed).fit_predict(rows)
    return {
        "accuracy": assignment_accuracy(clusters, classes),
        "nmi": float(normalized_mutual_info_score(classes, clusters)),
        "ari": float(adjusted_rand_score(classes, clusters)),
    }


def assignment_accuracy(clusters: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of rows whose cluster stands for their class, at the best one-to-one assignment.

    Where there are more clusters than classes, the rows of a cluster left over count as wrong.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(labels, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(labels))
