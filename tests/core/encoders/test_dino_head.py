import torch
from torch.nn.functional import cosine_similarity

from core.encoders.dino_head import DINOHead


def test_logits_are_cosines_with_the_prototypes() -> None:
    torch.manual_seed(0)
    head = DINOHead(6, n_prototypes=5, hidden_dim=8, bottleneck_dim=4).double()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    expected = cosine_similarity(head.mlp(x)[..., None, :], head.prototypes, dim=-1)
    torch.testing.assert_close(head(x), expected)
    before = head(x)
    with torch.no_grad():
        head.prototypes.mul_(torch.rand(5, 1, dtype=torch.float64) + 0.5)
    torch.testing.assert_close(head(x), before)
