import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.distributed import global_mean, rank, world_size
from core.encoders.sharded_embedding import (
    ShardedEmbedding,
    own_optimizer_state,
    whole_optimizer_state,
)
from tests.core.gloo import run_gloo

ROWS, DIM, VALUES = 11, 4, 3
SHARES = {2: [5, 2], 3: [3, 0, 4]}  # rows of the batch on each rank; one may have none


class Model(nn.Module):
    """A table and a layer over sums of its rows."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = ShardedEmbedding(ROWS, DIM, sparse=sparse)
        self.layer = nn.Linear(DIM, 2)
        self.double()

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        return self.layer(self.table(ids, per_sample_weights=weights).tanh())


def _batch(seed: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, ROWS, (size, VALUES), generator=generator)
    return ids, torch.rand(size, VALUES, dtype=torch.float64, generator=generator)


def _optimizer(model: nn.Module, sparse: bool) -> torch.optim.Optimizer:
    if sparse:
        return torch.optim.Adagrad(model.parameters(), lr=0.1)
    return torch.optim.Adam(model.parameters(), lr=0.1)


def _train(world: int, sparse: bool, steps: int = 4, state: dict | None = None) -> dict:
    """Trains on this rank's share of the batches; with one process, on all of them."""
    model = Model(sparse)
    if state is not None:
        model.load_state_dict(state["model"])
    module: nn.Module = model
    if world_size() > 1:
        model.table.shard()
        model._ddp_params_and_buffers_to_ignore = ["table.weight"]
        module = DistributedDataParallel(model)
    optimizer = _optimizer(model, sparse)
    tables = [
        model.table if p is model.table.weight and model.table.is_sharded else None
        for p in model.parameters()
    ]
    if state is not None:
        saved = state["optimizer"]
        saved["state"] = own_optimizer_state(tables, saved["state"])
        optimizer.load_state_dict(saved)
    start = sum(SHARES[world][: rank()]) if world_size() > 1 else 0
    rows = SHARES[world][rank()] if world_size() > 1 else sum(SHARES[world])
    losses = []
    for step in range(steps):
        ids, weights = _batch(step, sum(SHARES[world]))
        share = slice(start, start + rows)
        optimizer.zero_grad()
        loss = global_mean(module(ids[share], weights[share]).square().sum(1))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    saved = optimizer.state_dict()
    saved["state"] = whole_optimizer_state(tables, saved["state"])
    own = model.table.weight.detach()
    return {"model": model.state_dict(), "optimizer": saved, "losses": losses, "own": own}


def _assert_same(found: dict, expected: dict) -> None:
    for name, value in expected["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=1e-10, atol=1e-12)
    assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()
    for number, values in expected["optimizer"]["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(found["optimizer"]["state"][number][name], value)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_train_as_one(world, sparse):
    expected = _train(world, sparse)
    results = run_gloo(world, _train, world, sparse)
    assert expected["losses"][-1] < expected["losses"][0]
    for step, loss in enumerate(expected["losses"]):
        mean = sum(result["losses"][step] for result in results) / world
        assert mean == pytest.approx(loss, rel=1e-10)
    for number, result in enumerate(results):
        _assert_same(result, expected)
        # Each keeps its part alone.
        torch.testing.assert_close(result["own"], expected["model"]["table.weight"][number::world])


def _go_on(state: dict) -> dict:
    # Arguments of processes come in memory that they share, and optimizers write in place.
    return _train(2, False, state=copy.deepcopy(state))


def test_what_one_process_wrote_two_go_on_with_and_back():
    first = _train(2, False)
    expected = _go_on(first)
    two = run_gloo(2, _go_on, first)[0]
    _assert_same(two, expected)
    _assert_same(_go_on(two), _go_on(expected))


def _looked_up() -> tuple[Tensor, Tensor]:
    table = ShardedEmbedding(ROWS, DIM)
    whole = torch.arange(ROWS * DIM, dtype=torch.float32).view(ROWS, DIM)
    table.load_state_dict({"weight": whole})
    table.shard()
    table.shard()  # once is enough
    ids = torch.tensor([[0, 10, 0], [7, 7, 1]]) if rank() == 0 else torch.tensor([[3, 3, 3]])
    return table(ids), table.whole_of(table.weight)


def test_rows_come_from_where_they_are():
    whole = torch.arange(ROWS * DIM, dtype=torch.float32).view(ROWS, DIM)
    (first, kept), (second, _) = run_gloo(2, _looked_up)
    torch.testing.assert_close(
        first, torch.stack([2 * whole[0] + whole[10], 2 * whole[7] + whole[1]])
    )
    torch.testing.assert_close(second, 3 * whole[3:4])
    torch.testing.assert_close(kept, whole)


def test_one_process_has_an_embedding_bag():
    model = Model()
    bag = nn.EmbeddingBag.from_pretrained(model.table.weight.detach(), mode="sum")
    model.table.shard()
    assert not model.table.is_sharded
    ids, weights = _batch(0, 6)
    torch.testing.assert_close(
        model.table(ids, per_sample_weights=weights), bag(ids, per_sample_weights=weights)
    )
