"""Light graph convolution on the bipartite graph of users and items."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import embedding_bag


def normalized_adjacency(
    users: Int[Tensor, " n"], items: Int[Tensor, " n"], n_users: int, n_items: int
) -> Float[Tensor, "nodes nodes"]:
    """D^-1/2 [0 R; R^T 0] D^-1/2 as a float32 CSR matrix; nodes are users, then items.

    A node of degree d weighs (d + 1e-7)^-1/2; there are no self loops, and a node without
    interactions has an empty row (LightGCN, arXiv 2002.02126, eq. 8).
    """
    n_nodes = n_users + n_items
    rows = torch.cat([users, items + n_users]).long()
    columns = torch.cat([items + n_users, users]).long()
    weight = (torch.bincount(rows, minlength=n_nodes).double() + 1e-7).rsqrt()
    order = (rows * n_nodes + columns).argsort()
    rows, columns = rows[order], columns[order]
    starts = torch.zeros(n_nodes + 1, dtype=torch.int32, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=n_nodes).cumsum(0)
    values = (weight[rows] * weight[columns]).float()
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # 32-bit indices: what the CPU's sparse kernels take without a copy.
        return torch.sparse_csr_tensor(starts, columns.int(), values, (n_nodes, n_nodes))


class _SymmetricProduct(torch.autograd.Function):
    """A @ H for a symmetric sparse A: the gradient of H is A @ grad, without a transpose."""

    @staticmethod
    def forward(ctx: FunctionCtx, adjacency: Tensor, nodes: Tensor) -> Tensor:
        ctx.adjacency = adjacency  # type: ignore[attr-defined]
        return _product(adjacency, nodes)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[None, Tensor]:
        adjacency: Tensor = ctx.adjacency  # type: ignore[attr-defined]
        return None, _product(adjacency, grad)


def _product(adjacency: Tensor, nodes: Tensor) -> Tensor:
    with torch.autocast(nodes.device.type, enabled=False):
        if nodes.device.type != "cpu":
            return adjacency @ nodes
        starts, columns = adjacency.crow_indices(), adjacency.col_indices()
        return weighted_sums(starts[:-1], columns, adjacency.values(), nodes)


def weighted_sums(
    starts: Int[Tensor, " rows"],
    columns: Int[Tensor, " n"],
    values: Float[Tensor, " n"],
    nodes: Float[Tensor, "nodes dim"],
) -> Float[Tensor, "rows dim"]:
    """The rows of a CSR matrix times `nodes`: on a CPU four times as fast as the sparse product.

    Args:
        starts: where each row begins among the columns.
        columns: of the entries, row by row.
        values: of the entries.
        nodes: what is summed.
    """
    return embedding_bag(
        columns, nodes.contiguous(), starts, mode="sum", per_sample_weights=values.to(nodes.dtype)
    )


def propagate(
    adjacency: Float[Tensor, "nodes nodes"], nodes: Float[Tensor, "nodes dim"], n_layers: int
) -> Float[Tensor, "nodes dim"]:
    """Mean of H^0 = nodes and H^{l+1} = A H^l up to layer L (LightGCN, eq. 7 and 8).

    `adjacency` must be symmetric; it gets no gradient. Computed in float32 or better.
    """
    layer = total = nodes.to(torch.promote_types(nodes.dtype, torch.float32))
    adjacency = adjacency.to(layer.dtype)
    for _ in range(n_layers):
        layer = _SymmetricProduct.apply(adjacency, layer)
        total = total + layer
    return total / (n_layers + 1)
