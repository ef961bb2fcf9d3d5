import math

import torch

from core.losses import code_diversity, code_perplexity, sample_distractors, wav2vec2


def test_distractors_are_other_masked_frames_of_the_utterance() -> None:
    mask = torch.rand(4, 20, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[3] = False
    mask[3, [2, 7]] = True
    drawn = sample_distractors(mask, 200, torch.Generator().manual_seed(1))
    for utterance in range(4):
        masked = mask[utterance].nonzero().flatten().tolist()
        for frame in masked:
            own = utterance * 20 + frame
            others = {utterance * 20 + other for other in masked} - {own}
            assert set(drawn[utterance, frame].tolist()) == others


def test_a_lonely_masked_frame_has_no_loss() -> None:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 3] = True
    drawn = sample_distractors(mask, 4)
    assert (drawn[0, 3] == 3).all()
    context = torch.randn(2, 5, 6, requires_grad=True)
    loss = wav2vec2(context, torch.randn(2, 5, 6), mask, drawn)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(context.grad).all()


def test_equal_distractors_are_left_out_and_frames_are_summed() -> None:
    context, quantized = torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    quantized[0, 2] = quantized[0, 0]
    mask = torch.ones(1, 3, dtype=torch.bool)
    both = wav2vec2(context, quantized, mask, torch.tensor([[[1, 2], [0, 0], [1, 0]]]))
    alone = wav2vec2(context, quantized, mask, torch.tensor([[[1], [0], [1]]]))
    cos = torch.nn.functional.cosine_similarity(context[0, 1], quantized[0, [1, 0, 0]], dim=-1)
    twice = -(cos / 0.1).log_softmax(0)[0]
    once = -(cos[:2] / 0.1).log_softmax(0)[0]
    torch.testing.assert_close(both - alone, twice - once, rtol=1e-4, atol=1e-5)


def test_perplexity_runs_from_groups_to_entries() -> None:
    mask = torch.tensor([[True, True, True, False]])
    codes = torch.zeros(1, 4, 2, 3)
    codes[..., 0] = 1
    assert code_perplexity(codes, mask).item() == 2
    assert code_diversity(codes, mask).item() == (6 - 2) / 6 * 3
    codes[0, 1] = torch.tensor([0.0, 1.0, 0.0])
    codes[0, 2] = torch.tensor([0.0, 0.0, 1.0])
    assert math.isclose(code_perplexity(codes, mask).item(), 6, rel_tol=1e-6)
    assert abs(code_diversity(codes, mask).item()) < 1e-5
