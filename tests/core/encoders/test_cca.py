import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from core.encoders.cca import CCALayer
from core.losses import hinge_ranking
from tests.core.gloo import run_gloo


def pairs(n: int = 60, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 2, generator=g, dtype=torch.float64)
    own = (torch.randn(n, dim, generator=g, dtype=torch.float64) for _ in range(2))
    mixed = (torch.randn(2, dim, generator=g, dtype=torch.float64) for _ in range(2))
    a, b = (shared @ mix + 0.7 * x for mix, x in zip(mixed, own, strict=True))
    return a, b


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return normalize(a, dim=1) @ normalize(b, dim=1).T


def test_correlations_are_those_of_canonical_correlation_analysis():
    a, b = pairs(4000)
    layer = CCALayer(4, ridge=1e-9, correlation_ridge=1e-9)
    # By QR, as textbooks have it.
    first, second = (np.linalg.qr((x - x.mean(0)).numpy())[0] for x in (a, b))
    expected = np.sort(np.linalg.svd(first.T @ second, compute_uv=False))
    np.testing.assert_allclose(layer.correlations(a, b).numpy(), expected, atol=1e-6)
    x, y = layer(a, b)
    measured = (x * y).mean(0) / (x.square().mean(0) * y.square().mean(0)).sqrt()
    np.testing.assert_allclose(measured.numpy(), expected, atol=1e-6)


def test_linear_maps_of_either_modality_change_nothing():
    a, b = pairs()
    layer = CCALayer(4, ridge=1e-12)
    before = cosines(*layer(a, b))
    mix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(cosines(*layer(a @ mix + 5, b)), before, rtol=1e-6, atol=1e-8)


def test_signs_of_eigenvectors_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    a, b = pairs()
    expected = cosines(*CCALayer(4)(a, b))
    eigh, flips = torch.linalg.eigh, torch.Generator().manual_seed(1)

    def flipped(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, vectors * (2 * torch.randint(2, (len(values),), generator=flips) - 1)

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    for _ in range(8):
        torch.testing.assert_close(cosines(*CCALayer(4)(a, b)), expected)


def test_gradients_are_those_of_finite_differences():
    a, b = pairs(12)
    a.requires_grad_()
    b.requires_grad_()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        # The layer holds the means that it subtracts still; rows that are centred do not need them.
        return hinge_ranking(*CCALayer(4)(a - a.mean(0), b - b.mean(0)), margin=0.9)

    assert torch.autograd.gradcheck(loss, (a, b))


def test_evaluation_projects_by_the_last_batch_until_it_is_refined():
    layer, new = CCALayer(4), pairs(5, seed=9)
    everything = pairs(500, seed=8)
    outcomes = {"last batch": [], "refined": []}
    for seed in (1, 2):
        layer.train()
        layer(*pairs(20, seed=seed))
        layer.eval()
        outcomes["last batch"].append(cosines(*layer(*new)))
        layer.refine(*everything)
        outcomes["refined"].append(cosines(*layer(*new)))
    one, other = outcomes["last batch"]
    assert (one - other).abs().max() > 0.05
    assert torch.equal(*outcomes["refined"])


def test_one_modality_alone_is_projected_as_with_the_other():
    layer = CCALayer(4)
    layer(*pairs())
    layer.eval()
    a, b = pairs(7, seed=2)
    both = layer(a, b)
    assert torch.equal(layer.project_a(a), both[0])
    assert torch.equal(layer.project_b(b), both[1])


def test_what_comes_in_float32_goes_out_in_float32():
    layer = CCALayer(4)
    out = layer(*(x.float() for x in pairs()))
    assert out[0].dtype == torch.float32
    assert layer.onto_a.dtype == torch.float64


def projected_share(sizes: tuple[int, ...]) -> dict[str, Tensor]:
    rank = dist.get_rank()
    a, b = (x.split(list(sizes))[rank].clone().requires_grad_() for x in pairs(24))
    layer = CCALayer(4)
    # Both means are left out of the gradient, as ever: see the layer.
    loss = hinge_ranking(*layer(a, b), margin=0.9)
    loss.backward()
    kept = {"onto_a": layer.onto_a, "mean_b": layer.mean_b}
    return {"loss": loss.detach(), "a": a.grad, "b": b.grad, **kept}


def test_processes_project_by_the_rows_of_all():
    a, b = (x.requires_grad_() for x in pairs(24))
    layer = CCALayer(4)
    loss = hinge_ranking(*layer(a, b), margin=0.9)
    loss.backward()
    shares = run_gloo(2, projected_share, (14, 10))
    torch.testing.assert_close(sum(share["loss"] for share in shares) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([share["a"] for share in shares]) / 2, a.grad)
    torch.testing.assert_close(torch.cat([share["b"] for share in shares]) / 2, b.grad)
    for share in shares:
        torch.testing.assert_close(share["onto_a"], layer.onto_a)
        torch.testing.assert_close(share["mean_b"], layer.mean_b)
