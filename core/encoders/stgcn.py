"""Spatial temporal graph convolution over the joints of a skeleton."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.checks import DataError

# Kinect v1: head, shoulder centre, spine, hip centre, then left and right arm, left and right leg.
KINECT_BONES = (
    *((0, 1), (1, 2), (2, 3)),
    *((1, 4), (4, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11)),
    *((3, 12), (12, 13), (13, 14), (14, 15), (3, 16), (16, 17), (17, 18), (18, 19)),
)


def spatial_partition(
    joints: int, edges: Sequence[Sequence[int]], root: int
) -> Float[Tensor, "3 joints joints"]:
    """The normalised adjacency in three subsets (Yan et al. 2018, section 3.3, eq. 7 and 10).

    Entry [k, v, w] is by how much joint v counts for joint w: in subset 0 for v = w, in 1 where v
    is not nearer to the root than w, in 2 where it is. All that count for one joint sum to 1.

    Args:
        joints: how many there are.
        edges: pairs of joints that a bone connects.
        root: the joint from which nearness is counted, in bones.

    Raises:
        DataError: an edge or the root names no joint, or no path leads to a joint.
    """
    named = {root, *(joint for edge in edges for joint in edge)}
    if not named <= set(range(joints)):
        raise DataError(
            f"bones to joints {sorted(named - set(range(joints)))}",
            expected=f"joints 0 to {joints - 1}",
            fix="name the bones of your skeleton: edges=[[0,1],...] root=0",
        )
    linked = torch.eye(joints, dtype=torch.bool)
    for first, second in edges:
        linked[first, second] = linked[second, first] = True
    distance = torch.full((joints,), -1)
    reached = torch.arange(joints) == root
    for bones in range(joints):
        distance[reached & (distance < 0)] = bones
        reached = linked[reached].any(0)
    if (distance < 0).any():
        lost = (distance < 0).nonzero().flatten().tolist()
        raise DataError(
            f"no bones lead from joint {root} to joints {lost}", expected="one skeleton"
        )
    shares = linked / linked.sum(0)
    same = torch.eye(joints, dtype=torch.bool)
    nearer = distance[:, None] < distance
    return torch.stack([shares * same, shares * ~same * ~nearer, shares * nearer])


class STGCN(nn.Module):
    """ST-GCN (Yan et al. 2018): blocks of graph convolution, then convolution over time.

    Ten blocks to 64, 128 and 256 channels; the fifth and the eighth halve the frame rate. Every
    block weighs the edges by learned factors. The last map is averaged over frames and joints.

    Args:
        shape: of one sample (coordinates, time, joints).
        edges: pairs of joints that a bone connects; the default is Kinect v1 with 20 joints.
        root: the joint towards and away from which bones are told apart; 2 is Kinect's spine.
        widths: channels of the blocks; a block that changes them halves the frame rate.
        kernel: frames of a convolution over time, odd.
        dropout: at the end of every block.

    Attributes:
        dim: the last width.

    Raises:
        DataError: the samples are no skeletons, or not of these joints.
    """

    adjacency: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        edges: Sequence[Sequence[int]] = KINECT_BONES,
        root: int = 2,
        *,
        widths: Sequence[int] = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256),
        kernel: int = 9,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise DataError(
                f"samples of shape {list(shape)} for {type(self).__name__}",
                expected="skeletons (coordinates, time, joints)",
            )
        self.dim = widths[-1]
        adjacency = spatial_partition(shape[2], edges, root)
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.norm = nn.BatchNorm1d(shape[0] * shape[2])
        befores = [widths[0], *widths[:-1]]
        self.blocks = nn.ModuleList(
            _Block(
                before if i else shape[0],
                after,
                shape[2],
                kernel,
                stride=2 if before != after else 1,
                dropout=dropout,
                shortcut=i > 0,
            )
            for i, (before, after) in enumerate(zip(befores, widths, strict=True))
        )

    def forward(
        self, x: Float[Tensor, "batch coordinates time joints"]
    ) -> Float[Tensor, "batch dim"]:
        """(B, dim) features of clips of any length."""
        by_joint = x.transpose(2, 3)
        normed = self.norm(by_joint.flatten(1, 2)).view_as(by_joint).transpose(2, 3)
        for block in self.blocks:
            normed = block(normed, self.adjacency)
        features: Tensor = normed.mean((2, 3))
        return features


class _Block(nn.Module):
    def __init__(
        self,
        before: int,
        after: int,
        joints: int,
        kernel: int,
        stride: int,
        dropout: float,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.importance = nn.Parameter(torch.ones(3, joints, joints))
        self.graph = nn.Conv2d(before, 3 * after, 1)
        self.time = nn.Sequential(
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, (kernel, 1), (stride, 1), (kernel // 2, 0)),
            nn.BatchNorm2d(after),
            nn.Dropout(dropout),
        )
        self.residual: nn.Module = nn.Identity()
        if shortcut and (stride > 1 or before != after):
            self.residual = nn.Sequential(
                nn.Conv2d(before, after, 1, (stride, 1)), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        weights = adjacency * self.importance
        subsets = self.graph(x).unflatten(1, (3, -1))
        out: Tensor = self.time(torch.einsum("nkctv,kvw->nctw", subsets, weights))
        return (out + self.residual(x) if self.shortcut else out).relu()
