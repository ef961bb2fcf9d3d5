import torch
import torch.nn.functional as F

from core.encoders.prototypes import Prototypes


def test_scores_are_cosines() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(6, count=4)
    embeddings = 5 * torch.randn(2, 3, 6)
    expected = F.cosine_similarity(embeddings[:, :, None], prototypes.weight, dim=-1)
    torch.testing.assert_close(prototypes(embeddings), expected)


def test_a_step_leaves_the_sphere_and_normalize_returns_in_the_same_direction() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(6, count=4)
    optimizer = torch.optim.SGD(prototypes.parameters(), lr=0.5)
    F.cross_entropy(prototypes(torch.randn(8, 6)), torch.arange(8) % 4).backward()
    optimizer.step()
    moved = prototypes.weight.detach().clone()
    assert (moved.norm(dim=1) - 1).abs().max() > 1e-4
    prototypes.normalize()
    assert prototypes.weight.requires_grad
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(F.cosine_similarity(prototypes.weight, moved), torch.ones(4))
    # The optimizer still steps the same tensor.
    before = prototypes.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(prototypes.weight, before)
