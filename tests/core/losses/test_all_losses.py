"""What every objective must do, whichever it is."""

import pytest
import torch
from torch import Tensor, nn

from core import losses
from core.distributed import rank
from tests.core.gloo import run_gloo
from tests.core.losses.objectives import ALL, DIM, MASKABLE, SURROGATES, Batch, make_batch

# The last batch of an epoch: unequal rows, on one rank of three none at all.
ROWS = {2: [4, 3], 3: [3, 0, 4]}


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, 7), nn.Tanh(), nn.Linear(7, DIM)).double()


def _run(name: str, batch: Batch, masked: bool = False) -> tuple[Tensor, Tensor]:
    """The loss of a tiny encoder and its gradient, all parameters in one vector."""
    encoder = _encoder()
    options = {"valid": batch.valid} if masked else {}
    loss = ALL[name](encoder(batch.x), encoder(batch.y), batch, **options)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters()])


CASES = [(name, False) for name in ALL] + [(name, True) for name in MASKABLE]


def _run_all_on_a_rank(world: int) -> list[tuple[Tensor, Tensor]]:
    start = sum(ROWS[world][: rank()])
    batch = make_batch(sum(ROWS[world])).rows(slice(start, start + ROWS[world][rank()]))
    results = []
    for name, masked in CASES:
        try:
            results.append(_run(name, batch, masked))
        except Exception as error:
            raise RuntimeError(f"{name}, masked: {masked}") from error
    return results


@pytest.fixture(scope="module", params=[2, 3], ids=["two processes", "three processes"])
def ranks(request: pytest.FixtureRequest) -> tuple[int, list[list[tuple[Tensor, Tensor]]]]:
    return request.param, run_gloo(request.param, _run_all_on_a_rank, request.param)


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, c)) for c in CASES])
def test_many_processes_equal_one(
    ranks: tuple[int, list[list[tuple[Tensor, Tensor]]]], number: int
) -> None:
    world, results = ranks
    name, masked = CASES[number]
    loss, gradient = _run(name, make_batch(sum(ROWS[world])), masked)
    # The mean over the ranks is what DistributedDataParallel makes of the gradients.
    mean_loss = torch.stack([result[number][0] for result in results]).mean()
    mean_gradient = torch.stack([result[number][1] for result in results]).mean(0)
    assert gradient.abs().max() > 1e-6
    torch.testing.assert_close(mean_loss, loss, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(mean_gradient, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted(ALL.keys() - SURROGATES))
def test_gradient_is_that_of_the_value(name: str) -> None:
    batch = make_batch()
    a = batch.x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: ALL[name](a, batch.y, batch), a)


@pytest.mark.parametrize("name", sorted(ALL))
def test_order_of_the_samples_does_not_matter(name: str) -> None:
    batch = make_batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, gradient = _run(name, batch)
    permuted_loss, permuted_gradient = _run(name, batch.rows(order))
    torch.testing.assert_close(permuted_loss, loss)
    torch.testing.assert_close(permuted_gradient, gradient)


@pytest.mark.parametrize("name", sorted(ALL))
def test_dtypes_and_autocast(name: str) -> None:
    batch = make_batch()
    objective = ALL[name]
    exact = objective(batch.x, batch.y, batch)
    assert exact.dtype == torch.float64
    assert exact.shape == ()
    a, b = batch.x.float(), batch.y.float()
    single = objective(a, b, batch)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective(a, b, batch) == single
    half = objective(a.bfloat16(), b.bfloat16(), batch)
    assert half.dtype == torch.float32
    assert abs(half - single) <= 1e-2 * max(1, abs(single))


@pytest.mark.parametrize("name", sorted(MASKABLE))
def test_invalid_rows_take_no_part(name: str) -> None:
    batch = make_batch()
    kept = batch.rows(batch.valid)
    a = kept.x.clone().requires_grad_()
    expected = MASKABLE[name](a, kept.y, kept)
    expected.backward()

    holes = torch.where(batch.valid[:, None], batch.x, torch.nan).requires_grad_()
    other = torch.where(batch.valid[:, None], batch.y, torch.nan)
    loss = MASKABLE[name](holes, other, batch, valid=batch.valid)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(holes.grad[batch.valid], a.grad)
    assert (holes.grad[~batch.valid] == 0).all()


@pytest.mark.parametrize("name", sorted(MASKABLE))
def test_a_batch_without_valid_rows_is_zero(name: str) -> None:
    batch = make_batch()
    a = batch.x.clone().requires_grad_()
    loss = MASKABLE[name](a, batch.y, batch, valid=torch.zeros_like(batch.valid))
    loss.backward()
    assert torch.isfinite(loss)
    assert (a.grad == 0).all()


EXTREME = {
    "info_nce": lambda a, b: losses.info_nce(a, b, 0.002),
    "info_nce_tiled": lambda a, b: losses.info_nce(a, b, 0.002, tile=3),
    "siglip": lambda a, b: losses.siglip(a, b, 500.0, 0.0),
    "nt_xent": lambda a, b: losses.nt_xent(a, b, 0.002),
    "moco": lambda a, b: losses.MoCoLoss(DIM, 12, 0.002)(a, b),
    "moco_v3": lambda a, b: losses.moco_v3(a, b, 0.002),
    "dcl": lambda a, b: losses.dcl(a, b, 0.002),
    "dclw": lambda a, b: losses.dcl(a, b, 0.002, sigma=0.002),
    "debiased": lambda a, b: losses.debiased(a, b, 0.002),
    "hard_negative": lambda a, b: losses.hard_negative(a, b, 0.002),
    "hard_negative_cross": lambda a, b: losses.hard_negative(a, b, 0.002, negatives="cross"),
    "cmkm": lambda a, b: losses.cmkm(a, b, b, a, 0.002),
    "supcon": lambda a, b: losses.supcon(torch.stack([a, b]), torch.tensor([0, 1] * 3), 0.002),
    "bimodal": lambda a, b: losses.BimodalGlobalContrastiveLoss((6, 6), 0.002)(
        a, b, torch.arange(6), torch.arange(6)
    ),
    "swav": lambda a, b: losses.swav(500 * torch.stack([a, b]), 1.0, epsilon=1.0),
    "deepcluster": lambda a, b: losses.deepcluster(50 * a[None, None], torch.arange(6)[None]),
    "dino": lambda a, b: losses.DINOLoss(DIM, 0.002)(torch.stack([a, b]), b[None], 0.002),
    "hubert": lambda a, b: losses.hubert(
        a.view(6, 4, 2), b[:3, :2], torch.zeros(6, 4).long(), torch.ones(6, 4).bool(), 0.002
    ),
    "hubert_codebooks": lambda a, b: losses.hubert_codebooks(
        a.view(6, 2, 2, 2),
        b[:6].view(2, 3, 8)[..., :2],
        torch.zeros(6, 2, 2).long(),
        torch.ones(6, 2).bool(),
        0.002,
    ).sum(),
    "wav2vec2": lambda a, b: losses.wav2vec2(
        a.view(6, 4, 2),
        b.view(6, 4, 2),
        torch.ones(6, 4).bool(),
        torch.arange(72).view(6, 4, 3) % 24,
        0.002,
    ),
    "mv_info_nce": lambda a, b: losses.mv_info_nce(torch.stack([a, b, b]), 0.002),
    "mv_dhel": lambda a, b: losses.mv_dhel(torch.stack([a, b, b]), 0.002),
    "poly_view": lambda a, b: losses.poly_view(torch.stack([a, b, b]), 0.002),
    "symile": lambda a, b: losses.symile([a, b, b], 4000.0),
    "symile_all": lambda a, b: losses.symile([a, b, b], 4000.0, negatives="all"),
    "m3co": lambda a, b: losses.m3co(a, b, torch.arange(6).flip(0), torch.rand(6), 0.002),
    "soft_clip": lambda a, b: losses.soft_clip(a, b, 0.002),
    "bpr": lambda a, b: losses.bpr(500 * a.sum(1), 500 * b.sum(1)),
}


@pytest.mark.parametrize("name", sorted(EXTREME))
@pytest.mark.parametrize("sign", [1, -1])
def test_logits_of_500_stay_finite(name: str, sign: int) -> None:
    a = torch.nn.functional.normalize(make_batch().x.float(), dim=1).requires_grad_()
    loss = EXTREME[name](a, sign * a.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("name", ["info_nce", "info_nce_tiled", "nt_xent", "moco_v3"])
def test_equal_ids_are_no_negatives(name: str) -> None:
    batch = make_batch()
    objective = MASKABLE[name]
    # Without any negative only the positive is left, and its share is 1.
    alone = objective(batch.x, batch.y, batch, ids=torch.zeros(6, dtype=torch.int64))
    assert alone.item() == pytest.approx(0, abs=1e-12)
    different = objective(batch.x, batch.y, batch, ids=torch.arange(6))
    assert different == objective(batch.x, batch.y, batch)
    two_equal = objective(batch.x, batch.y, batch, ids=torch.tensor([0, 1, 2, 3, 4, 0]))
    assert 0 < two_equal < different


def _by_definition(name: str, a: Tensor, b: Tensor, ids: list[int]) -> Tensor:
    """The decoupled, debiased and hard negative losses, anchor by anchor."""
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    n, temperature = len(a), 0.3 if name == "dcl" else 0.5
    terms = []
    for anchor in range(2 * n):
        similarities = z @ z[anchor] / temperature
        positive = similarities[(anchor + n) % (2 * n)]
        others = [k for k in range(2 * n) if ids[k % n] != ids[anchor % n]]
        if name == "hard_negative_cross":
            others = [k for k in others if k // n != anchor // n]
        negatives = similarities[others].exp()
        if name == "dcl":
            terms.append(negatives.sum().log() - positive)
            continue
        weights = negatives / negatives.mean() if name.startswith("hard_negative") else 1
        tau_plus, count = 0.1, len(others)
        spread = (weights * negatives).sum() - count * tau_plus * positive.exp()
        spread = (spread / (1 - tau_plus)).clamp(min=count * torch.tensor(-1 / temperature).exp())
        terms.append(-(positive.exp() / (positive.exp() + spread)).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 1, 0]])
@pytest.mark.parametrize("name", ["dcl", "debiased", "hard_negative", "hard_negative_cross"])
def test_negatives_by_definition(name: str, ids: list[int]) -> None:
    batch = make_batch()
    loss = MASKABLE[name](batch.x, batch.y, batch, ids=torch.tensor(ids))
    torch.testing.assert_close(loss, _by_definition(name, batch.x, batch.y, ids))


@pytest.mark.parametrize(
    "name", ["siglip", "dcl", "debiased", "hard_negative", "hard_negative_cross", "cmkm"]
)
def test_anchors_without_negatives_stay_finite(name: str) -> None:
    batch = make_batch()
    a = batch.x.clone().requires_grad_()
    loss = MASKABLE[name](a, batch.y, batch, ids=torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


def test_siglip_sees_every_pair_of_different_ids_once() -> None:
    batch = make_batch()
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (batch.x, batch.y))
    ids = torch.tensor([0, 1, 2, 3, 1, 0])
    sign = 2 * torch.eye(6) - 1
    terms = torch.nn.functional.softplus(-sign * (4 * a @ b.T - 1))
    counted = (ids[:, None] != ids) | torch.eye(6, dtype=torch.bool)
    expected = (terms * counted).sum() / 6
    torch.testing.assert_close(losses.siglip(a, b, 4.0, -1.0, ids=ids), expected)


@pytest.mark.parametrize("name", ["byol", "simsiam", "moco", "moco_v3", "dino", "ibot", "simdino"])
def test_no_gradient_flows_to_the_target(name: str) -> None:
    batch = make_batch()
    a, b = batch.x.clone().requires_grad_(), batch.y.clone().requires_grad_()
    ALL[name](a, b, batch).backward()
    assert b.grad is None or (b.grad == 0).all()
    assert a.grad.abs().max() > 0
