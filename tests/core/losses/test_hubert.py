import torch
import torch.nn.functional as F

from core.losses import feature_penalty, hubert, hubert_codebooks


def test_sum_over_the_chosen_frames() -> None:
    states, codes = torch.randn(2, 4, 5), torch.randn(3, 5)
    labels = torch.randint(0, 3, (2, 4))
    frames = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    logits = F.cosine_similarity(states[:, :, None], codes, dim=-1) / 0.1
    expected = F.cross_entropy(logits[frames], labels[frames], reduction="sum")
    torch.testing.assert_close(hubert(states, codes, labels, frames), expected)
    # A label outside the classes may stand where the frame does not count (padding).
    labels = labels.masked_fill(~frames, -100)
    torch.testing.assert_close(hubert(states, codes, labels, frames), expected)


def test_penalty_has_the_scale_of_a_sum() -> None:
    frames = torch.tensor([[True, True, False]])
    assert feature_penalty(torch.full((1, 3, 4), 3.0), frames).item() == 18


def test_codebooks_are_sums_of_their_own() -> None:
    states, codes = torch.randn(2, 4, 3, 5), torch.randn(3, 6, 5)
    labels, frames = torch.randint(0, 6, (2, 4, 3)), torch.rand(2, 4) < 0.6
    sums = hubert_codebooks(states, codes, labels, frames)
    for k in range(3):
        alone = hubert(states[:, :, k], codes[k], labels[..., k], frames)
        torch.testing.assert_close(sums[k], alone)
    order = torch.tensor([2, 0, 1])
    again = hubert_codebooks(states[:, :, order], codes[order], labels[..., order], frames)
    torch.testing.assert_close(again, sums[order])
