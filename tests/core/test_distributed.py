import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core import distributed
from tests.core.gloo import run_gloo

ROWS = {2: [3, 2], 3: [2, 0, 4]}


def _split(x: Tensor, counts: list[int]) -> Tensor:
    return x.split(counts)[distributed.rank()]


def _data(world: int) -> Tensor:
    rows = sum(ROWS[world])
    return torch.randn(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_one_process_is_the_identity() -> None:
    x = torch.randn(3, 2)
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert distributed.row_counts(3) == [3]
    assert distributed.broadcast_object({"a": 1}) == {"a": 1}
    for function in (distributed.all_gather, distributed.all_reduce_sum, distributed.ring_shift):
        assert function(x) is x
    torch.testing.assert_close(distributed.global_mean(x), x.mean())
    torch.testing.assert_close(distributed.global_sum(x), x.sum())


def test_mean_counts_valid_values_only() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0, torch.inf], requires_grad=True)
    mean = distributed.global_mean(values, torch.tensor([True, False, True, False]))
    assert mean.item() == 2.0
    mean.backward()
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]
    assert distributed.global_mean(torch.empty(0)).item() == 0.0
    assert distributed.global_mean(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert distributed.global_mean(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def _values(world: int) -> dict[str, object]:
    x = _split(_data(world), ROWS[world]).requires_grad_()
    weight = torch.arange(1.0, len(_data(world)) + 1, dtype=torch.float64)[:, None]
    gathered = distributed.all_gather(x)
    # Every rank uses the gathered rows in its own way: the gradients of all uses must be summed.
    (gathered * weight * (distributed.rank() + 1)).sum().backward()
    total = distributed.all_reduce_sum(x.detach().sum(0).requires_grad_())
    log_sum = distributed.logsumexp_over_ranks(x.detach().logsumexp(0))
    return {
        "rank": distributed.rank(),
        "world": distributed.world_size(),
        "counts": distributed.row_counts(len(x)),
        "gathered": gathered.detach(),
        "grad": x.grad,
        "total": total.detach(),
        "log_sum": log_sum,
        "mean": distributed.global_mean(x.detach()),
        "object": distributed.broadcast_object({"from": distributed.rank()}, source=world - 1),
    }


@pytest.mark.parametrize("world", [2, 3])
def test_values_and_gradients_over_processes(world: int) -> None:
    results = run_gloo(world, _values, world)
    data = _data(world)
    weight = torch.arange(1.0, len(data) + 1, dtype=torch.float64)[:, None].expand_as(data)
    uses = sum(range(1, world + 1))
    for r, result in enumerate(results):
        assert result["rank"] == r
        assert result["world"] == world
        assert result["counts"] == ROWS[world]
        assert result["object"] == {"from": world - 1}
        torch.testing.assert_close(result["gathered"], data)
        torch.testing.assert_close(result["grad"], weight.split(ROWS[world])[r] * uses)
        torch.testing.assert_close(result["total"], data.sum(0))
        torch.testing.assert_close(result["log_sum"], data.logsumexp(0))
    torch.testing.assert_close(torch.stack([x["mean"] for x in results]).mean(), data.mean())


def _ring(world: int) -> tuple[Tensor, Tensor]:
    x = torch.full((2,), float(distributed.rank()), requires_grad=True)
    shifted = distributed.ring_shift(x)
    (shifted * (distributed.rank() + 10)).sum().backward()
    return shifted.detach(), x.grad


def test_ring_shift_sends_gradients_back() -> None:
    for r, (shifted, grad) in enumerate(run_gloo(3, _ring, 3)):
        assert shifted.tolist() == [(r + 1) % 3] * 2
        assert grad.tolist() == [(r - 1) % 3 + 10] * 2


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def _objective(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    spread = distributed.all_reduce_sum(out.square().sum(0)).log().sum()
    return distributed.global_mean(out.exp().sum(1)) + spread


def _ddp_gradients(world: int) -> tuple[float, list[Tensor]]:
    model = DistributedDataParallel(_model())
    loss = _objective(model, _split(_data(world), ROWS[world]))
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("world", [2, 3])
def test_ddp_averages_to_the_full_batch_gradient(world: int) -> None:
    model = _model()
    loss = _objective(model, _data(world))
    loss.backward()
    results = run_gloo(world, _ddp_gradients, world)
    assert sum(value for value, _ in results) / world == pytest.approx(loss.item(), rel=1e-12)
    for _, gradients in results:
        for gradient, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12)
