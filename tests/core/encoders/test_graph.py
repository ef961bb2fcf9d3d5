import pytest
import torch
from torch import Tensor
from torch_geometric.nn import LGConv
from torch_geometric.utils import to_undirected

from core.encoders.graph import normalized_adjacency, propagate

N_USERS, N_ITEMS = 6, 5
# User 4 and item 3 have no interaction; the others have 1 to 4.
USERS = torch.tensor([0, 0, 0, 0, 1, 2, 2, 3, 5, 5])
ITEMS = torch.tensor([0, 1, 2, 4, 0, 1, 4, 4, 0, 2])


def _adjacency(dtype: torch.dtype = torch.int64) -> Tensor:
    return normalized_adjacency(USERS.to(dtype), ITEMS.to(dtype), N_USERS, N_ITEMS)


def _dense() -> Tensor:
    """D^-1/2 A D^-1/2 in float64, entry by entry from its definition."""
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    for user, item in zip(USERS.tolist(), ITEMS.tolist(), strict=True):
        a[user, N_USERS + item] = a[N_USERS + item, user] = 1
    scale = torch.where(a.sum(1) > 0, (a.sum(1) + 1e-7).rsqrt(), 0.0)
    return scale[:, None] * a * scale


def _nodes(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N_USERS + N_ITEMS, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_matrix_is_that_of_its_definition(dtype: torch.dtype) -> None:
    adjacency = _adjacency(dtype)
    assert adjacency.layout == torch.sparse_csr
    assert adjacency.dtype == torch.float32
    torch.testing.assert_close(adjacency.to_dense().double(), _dense(), rtol=1e-7, atol=0)
    torch.testing.assert_close(adjacency.to_dense(), adjacency.to_dense().T, rtol=0, atol=0)


def test_the_order_of_the_interactions_does_not_matter() -> None:
    shuffled = torch.randperm(len(USERS), generator=torch.Generator().manual_seed(1))
    other = normalized_adjacency(USERS[shuffled], ITEMS[shuffled], N_USERS, N_ITEMS)
    assert torch.equal(other.to_dense(), _adjacency().to_dense())


def test_nodes_without_interactions_have_empty_rows_and_keep_their_own_share() -> None:
    isolated = [4, N_USERS + 3]
    assert (_adjacency().to_dense()[isolated] == 0).all()
    nodes = _nodes()
    out = propagate(_adjacency(), nodes, n_layers=3)
    torch.testing.assert_close(out[isolated], nodes[isolated] / 4)
    assert out.isfinite().all()


def test_a_graph_without_interactions() -> None:
    none = torch.empty(0, dtype=torch.int64)
    adjacency = normalized_adjacency(none, none, 2, 3)
    nodes = torch.ones(5, 2)
    assert torch.equal(propagate(adjacency, nodes, 1), nodes / 2)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_propagates_as_torch_geometric_does(n_layers: int) -> None:
    nodes = _nodes()
    edges = to_undirected(torch.stack([USERS, ITEMS + N_USERS]), num_nodes=N_USERS + N_ITEMS)
    convolution = LGConv(normalize=True)
    layers = [nodes]
    for _ in range(n_layers):
        layers.append(convolution(layers[-1], edges))
    out = propagate(_adjacency(), nodes, n_layers)
    torch.testing.assert_close(out, torch.stack(layers).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_value_and_gradient_are_those_of_the_dense_product(n_layers: int) -> None:
    adjacency, weight = _adjacency().to(torch.float64), _nodes(torch.float64).cos()

    def dense(nodes: Tensor) -> Tensor:
        total, layer = nodes, nodes
        for _ in range(n_layers):
            layer = _dense() @ layer
            total = total + layer
        return total / (n_layers + 1)

    found = _nodes(torch.float64).requires_grad_()
    expected = _nodes(torch.float64).requires_grad_()
    sparse_out, dense_out = propagate(adjacency, found, n_layers), dense(expected)
    torch.testing.assert_close(sparse_out, dense_out, rtol=1e-6, atol=1e-8)
    (sparse_out.sin() * weight).sum().backward()
    (dense_out.sin() * weight).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-8)
    nodes = _nodes(torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: propagate(adjacency, x, n_layers), nodes)


def test_a_gradient_that_is_not_contiguous() -> None:
    nodes = _nodes().requires_grad_()
    weight = _nodes().T.contiguous()
    # The gradient of a transpose arrives transposed.
    (propagate(_adjacency(), nodes, 2).T * weight).sum().backward()
    expected = propagate(_adjacency(), weight.T.contiguous(), 2)
    torch.testing.assert_close(nodes.grad, expected)


def test_mixed_precision_propagates_in_float32() -> None:
    nodes = _nodes().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = propagate(_adjacency(), nodes, 2)
        out.sum().backward()
        low = propagate(_adjacency(), nodes.detach().bfloat16(), 2)
    assert out.dtype == low.dtype == torch.float32
    assert torch.equal(out, propagate(_adjacency(), nodes, 2))
    torch.testing.assert_close(nodes.grad, propagate(_adjacency(), torch.ones_like(nodes), 2))
