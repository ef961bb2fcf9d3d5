import pytest
import torch

from core.distributed import rank
from core.losses import StreamingFrequency
from tests.core.gloo import run_gloo


def _skewed(steps: int, batch: int, n: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches of ids, and the probability of each id to be in one."""
    generator = torch.Generator().manual_seed(0)
    share = 1.0 / torch.arange(1, n + 1)
    share /= share.sum()
    ids = torch.multinomial(share, steps * batch, replacement=True, generator=generator)
    return ids.view(steps, batch), 1 - (1 - share) ** batch


@pytest.mark.parametrize("hashes", [1, 3])
def test_it_learns_the_probability_to_be_in_a_batch(hashes):
    batches, probability = _skewed(1500, 8)
    frequency = StreamingFrequency(10_007, rate=0.01, hashes=hashes)
    for ids in batches:
        frequency(ids)
    found = frequency.probability(torch.arange(20))
    torch.testing.assert_close(found, probability, rtol=0.4, atol=0)
    assert (found.log() - probability.log()).mean().abs() < 0.1


def test_an_id_that_is_repeated_in_a_batch_counts_once():
    once, thrice = StreamingFrequency(64), StreamingFrequency(64)
    for step in range(5):
        ids = torch.tensor([3, 5]) if step % 2 else torch.tensor([3])
        once(ids)
        repeated = thrice(torch.cat([ids, ids, ids]))
        torch.testing.assert_close(repeated[: len(ids)], once.probability(ids))
    assert torch.equal(once.interval, thrice.interval)
    assert torch.equal(once.sightings, thrice.sightings)


def test_the_step_is_that_of_all_batches_not_of_the_id():
    frequency = StreamingFrequency(64, rate=0.5, debias=False)
    for step in range(1, 9):
        frequency(torch.tensor([7]) if step in (4, 8) else torch.tensor([1]))
    slot = (frequency.last == 8).nonzero()[0, 1]
    assert frequency.step == 8
    # B = .5 * 4 at step 4, then .5 * 2 + .5 * 4 at step 8.
    assert frequency.interval[0, slot] == 3


def test_it_is_a_probability_from_the_first_step_on():
    batches, _ = _skewed(50, 8)
    debiased, plain = StreamingFrequency(997), StreamingFrequency(997, debias=False)
    for step, ids in enumerate(batches, start=1):
        p = debiased(ids)
        assert (p <= 1 + 1e-5).all()
        assert (p >= 1 / step - 1e-5).all()
        assert plain(ids).max() > 1


def test_of_several_hashes_the_least_disturbed_counts():
    generator = torch.Generator().manual_seed(3)
    # As many slots as a power of two: the low bits of the hashes must not be all there is.
    crowded = StreamingFrequency(32, rate=0.05, hashes=1)
    several = StreamingFrequency(32, rate=0.05, hashes=4)
    for _ in range(300):
        ids = torch.randint(0, 200, (4,), generator=generator)
        crowded(ids)
        several(ids)
    everyone = torch.arange(200)
    assert (several.probability(everyone) <= crowded.probability(everyone) + 1e-6).all()
    assert several.probability(everyone).mean() < 0.8 * crowded.probability(everyone).mean()


def test_nothing_is_lost_through_its_state():
    batches, _ = _skewed(20, 8)
    frequency, copy = StreamingFrequency(64), StreamingFrequency(64)
    for ids in batches[:10]:
        frequency(ids)
    copy.load_state_dict(frequency.state_dict())
    for ids in batches[10:]:
        assert torch.equal(frequency(ids), copy(ids))


def _on_a_rank() -> tuple[list[torch.Tensor], torch.Tensor]:
    frequency = StreamingFrequency(64)
    batches, _ = _skewed(20, 8)
    return [frequency(ids[rank() * 5 : 5 + rank() * 5]) for ids in batches], frequency.interval


def test_two_processes_see_the_batch_of_both():
    frequency = StreamingFrequency(64)
    expected = [frequency(ids) for ids in _skewed(20, 8)[0]]
    results = run_gloo(2, _on_a_rank)
    for step, whole in enumerate(expected):
        torch.testing.assert_close(torch.cat([found[step] for found, _ in results]), whole)
    for _, interval in results:
        torch.testing.assert_close(interval, frequency.interval)
