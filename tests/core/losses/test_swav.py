import torch

from core.losses import sinkhorn, swav


def test_the_queue_takes_part_in_the_balance_only() -> None:
    scores, queue = torch.randn(3, 4, 5), torch.randn(2, 6, 5)
    terms = []
    for view in (0, 1):
        q = sinkhorn(torch.cat([scores[view], queue[view]]))[:4]
        for other in {0, 1, 2} - {view}:
            terms.append(-(q * (scores[other] / 0.1).log_softmax(1)).sum(1).mean())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(swav(scores, queue_scores=queue), expected)
    assert swav(scores) != expected
