"""Prediction of k-means clusters, and the spherical k-means that makes them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from core.distributed import all_gather, all_reduce_sum, global_mean
from core.losses.precision import full_precision


@full_precision
def deepcluster(
    scores: Float[Tensor, "heads views batch prototypes"],
    clusters: Int[Tensor, "heads batch"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Mean over heads of the cross entropy of scores/τ with the k-means cluster of the sample.

    DeepCluster-v2 (Caron et al. 2020, appendix B.1).

    Args:
        scores: (H, V, B, K) products of unit embeddings with the centroids of each head; every head
            has K of them.
        clusters: (H, B) cluster ids of the last k-means, -1 where a sample has none.
        temperature: divisor τ.

    Returns:
        Scalar in float32 at least; samples without a cluster are not counted.
    """
    log_shares = F.log_softmax(scores / temperature, dim=-1)
    targets = clusters[:, None].expand(scores.shape[:3])
    known = targets >= 0
    losses = -log_shares.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    heads = zip(losses, known, strict=True)
    return torch.stack([global_mean(loss, head_known) for loss, head_known in heads]).mean()


@full_precision
@torch.no_grad()
def spherical_kmeans(
    embeddings: Float[Tensor, "batch dim"],
    clusters: int,
    *,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "clusters dim"], Int[Tensor, " batch"]]:
    """K-means by cosine on the memory of all ranks; an empty cluster keeps its centroid.

    Args:
        embeddings: (B, D) memory of this rank, at least `clusters` rows on all ranks together.
        clusters: number of centroids.
        iterations: number of updates.
        generator: of the random start, on the CPU and with the same state on every rank.

    Returns:
        Unit centroids, the same on all ranks, and the cluster of each row of this rank.

    Raises:
        ValueError: fewer rows than clusters.
    """
    x = F.normalize(embeddings, dim=1)
    everyone = all_gather(x)
    if len(everyone) < clusters:
        raise ValueError(f"{clusters} clusters need as many rows, found {len(everyone)}")
    chosen = torch.randperm(len(everyone), generator=generator)[:clusters]
    centroids = everyone[chosen.to(x.device)]
    for _ in range(iterations):
        nearest = (x @ centroids.T).argmax(1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, x)
        sums = all_reduce_sum(sums)
        moved = F.normalize(sums, dim=1)
        centroids = torch.where(sums.norm(dim=1, keepdim=True) > 0, moved, centroids)
    return centroids, (x @ centroids.T).argmax(1)
