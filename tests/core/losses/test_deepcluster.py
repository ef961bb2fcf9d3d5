import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.distributed import rank
from core.losses import deepcluster, spherical_kmeans
from tests.core.gloo import run_gloo


def _three_directions() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    label = torch.arange(30) % 3
    x = torch.eye(4)[label] + 0.05 * torch.randn(30, 4, generator=g)
    return x * torch.rand(30, 1, generator=g).add(0.5), label


def test_samples_without_cluster_do_not_count() -> None:
    scores = torch.randn(2, 3, 4, 5)
    clusters = torch.tensor([[0, -1, 2, 4], [-1, -1, 1, 1]])
    heads = [
        F.cross_entropy(s.flatten(0, 1) / 0.1, c.repeat(3), ignore_index=-1)
        for s, c in zip(scores, clusters, strict=True)
    ]
    torch.testing.assert_close(deepcluster(scores, clusters), torch.stack(heads).mean())
    assert deepcluster(scores, torch.full((2, 4), -1)).item() == 0


def _kmeans(x: Tensor) -> tuple[Tensor, Tensor]:
    # The start of this seed has a row of each direction, so that the optimum is found.
    return spherical_kmeans(x, 3, generator=torch.Generator().manual_seed(2))


def test_directions_are_found() -> None:
    x, label = _three_directions()
    centroids, clusters = _kmeans(x)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(3))
    pairs = set(zip(label.tolist(), clusters.tolist(), strict=True))
    assert len(pairs) == 3
    nearest = F.normalize(x) @ centroids.T
    assert torch.equal(nearest.argmax(1), clusters)
    assert nearest.amax(1).min() > 0.95


def _kmeans_on_a_rank() -> tuple[Tensor, Tensor]:
    x, _ = _three_directions()
    return _kmeans(x[:11] if rank() == 0 else x[11:])


def test_ranks_agree_with_one_process() -> None:
    centroids, clusters = _kmeans(_three_directions()[0])
    results = run_gloo(2, _kmeans_on_a_rank)
    for found, _ in results:
        torch.testing.assert_close(found, centroids)
    assert torch.equal(torch.cat([own for _, own in results]), clusters)


def test_an_empty_cluster_keeps_its_centroid() -> None:
    x = torch.tensor([[1.0, 0.0]] * 4)
    centroids, clusters = spherical_kmeans(x, 2)
    assert torch.equal(centroids, x[:2])
    assert torch.equal(clusters, torch.zeros(4, dtype=torch.int64))


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="5 clusters need as many rows, found 3"):
        spherical_kmeans(torch.randn(3, 2), 5)
