import pytest
import torch

from core.data.checks import DataError
from core.encoders.stgcn import KINECT_BONES, STGCN, spatial_partition

CHAIN = [(0, 1), (1, 2)]


def test_the_partition_of_a_chain_by_hand() -> None:
    itself, farther, nearer = spatial_partition(3, CHAIN, root=0)
    torch.testing.assert_close(itself, torch.diag(torch.tensor([1 / 2, 1 / 3, 1 / 2])))
    # [v, w]: v counts for w
    torch.testing.assert_close(farther, torch.tensor([[0, 0, 0], [1 / 2, 0, 0], [0, 1 / 3, 0]]))
    torch.testing.assert_close(nearer, torch.tensor([[0, 1 / 3, 0], [0, 0, 1 / 2], [0, 0, 0]]))


def test_the_partition_of_a_body() -> None:
    partition = spatial_partition(20, KINECT_BONES, root=2)
    torch.testing.assert_close(partition.sum((0, 1)), torch.ones(20))
    assert (partition != 0).sum((1, 2)).tolist() == [20, 19, 19]  # a tree has 19 bones
    assert ((partition[1] != 0) == (partition[2] != 0).T).all()
    assert not partition[2][:, 2].any()  # nothing is nearer to the root than the root


def test_rings_are_in_one_subset_only() -> None:
    partition = spatial_partition(3, [(0, 1), (1, 2), (2, 0)], root=0)
    assert ((partition != 0).sum(0) == 1).all()
    assert partition[1][1, 2] > 0 and partition[1][2, 1] > 0  # of the same distance


@pytest.mark.parametrize(
    ("edges", "root", "words"),
    [([(0, 1), (1, 3)], 0, r"\[3\]"), (CHAIN, 5, r"\[5\]"), ([(0, 1)], 0, r"joints \[2\]")],
)
def test_bones_that_make_no_skeleton(edges: list[tuple[int, int]], root: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        spatial_partition(3, edges, root)


def test_a_joint_is_seen_as_far_as_there_are_blocks() -> None:
    """Bones carry what happens at a joint, one a block; without a bone nothing passes."""
    torch.manual_seed(0)
    chain = [(i, i + 1) for i in range(5)]
    net = STGCN((3, 8, 6), chain, root=0, widths=(8, 8), kernel=3).double().eval()
    maps: list[torch.Tensor] = []
    net.blocks[-1].register_forward_hook(lambda _, inputs, out: maps.append(out))
    x = torch.randn(1, 3, 8, 6, dtype=torch.float64)
    changed = x.clone()
    changed[..., 0] += 1
    net(x), net(changed)
    difference = (maps[0] - maps[1]).abs().amax((0, 1, 2))
    assert (difference[:3] > 0).all()
    assert (difference[3:] == 0).all()


def test_the_order_of_the_joints_does_not_matter() -> None:
    """Joints in another order, with the bones renamed, give the same features."""
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    bones = [(int(place[a]), int(place[b])) for a, b in KINECT_BONES]
    torch.manual_seed(0)
    net = STGCN((3, 12, 20), widths=(8, 16)).double().eval()
    torch.manual_seed(0)
    other = STGCN((3, 12, 20), bones, int(place[2]), widths=(8, 16)).double().eval()
    x = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    torch.testing.assert_close(other(x[..., order]), net(x))


def test_frames_are_halved_where_the_width_changes() -> None:
    net = STGCN((3, 40, 20))
    frames: list[int] = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, inputs, out: frames.append(out.shape[2]))
    assert net.eval()(torch.randn(1, 3, 40, 20)).shape == (1, 256)
    assert frames == [40] * 4 + [20] * 3 + [10] * 3
