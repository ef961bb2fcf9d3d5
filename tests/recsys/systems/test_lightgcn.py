import pytest
import torch
from torch.nn.functional import logsigmoid

from recsys.systems.lightgcn import LightGCN
from tests.recsys.generated import batch_of, built, generated


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_embeddings_are_those_of_torch_geometric(n_layers):
    models = pytest.importorskip("torch_geometric.nn.models")
    data = generated()
    system = built(LightGCN, data, dim=8, n_layers=n_layers)
    peer = models.LightGCN(data.n_users + data.n_items, 8, n_layers)
    peer.embedding.weight.data.copy_(system.embedding.weight)
    users, items = data.train[0], data.train[1] + data.n_users
    edges = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    expected = peer.get_embedding(edges)
    tables = system.tables()
    found = torch.cat([tables["user"], tables["item"]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_objective_and_gradient_equal_a_dense_computation():
    data = generated()
    system = built(LightGCN, data, dim=8, n_layers=2, reg_weight=0.1).double()
    batch = batch_of(data, slice(0, 60), negatives=True)
    n = data.n_users
    dense = torch.zeros(n + data.n_items, n + data.n_items, dtype=torch.float64)
    dense[data.train[0], data.train[1] + n] = dense[data.train[1] + n, data.train[0]] = 1
    root = (dense.sum(1) + 1e-7).rsqrt()
    dense = root[:, None] * dense * root
    ids = system.embedding.weight.detach().clone().requires_grad_()
    nodes = (ids + dense @ ids + dense @ dense @ ids) / 3
    users, items, others = batch["user"], batch["item"] + n, batch["negative"] + n
    margin = (nodes[users] * (nodes[items] - nodes[others])).sum(1)
    squares = sum(ids[rows].square().sum() for rows in (users, items, others))
    expected = -logsigmoid(margin).mean() + 0.1 * squares / 2 / len(users)

    loss = system.objective(batch)["loss"]
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(system.embedding.weight.grad, ids.grad, atol=1e-7, rtol=1e-6)


def test_defaults_are_the_papers():
    system = built(LightGCN, generated())
    assert (system.embedding.embedding_dim, system.n_layers, system.reg_weight) == (64, 3, 1e-4)
    for table in system.embedding.weight.split([system.n_users, system.n_items]):
        assert table.std().item() == pytest.approx((2 / sum(table.shape)) ** 0.5, rel=0.05)
