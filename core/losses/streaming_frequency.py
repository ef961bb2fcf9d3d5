"""How often an id is in a batch, estimated while the batches pass."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.distributed import all_gather, row_counts

_MULTIPLIERS = (2654435761, 2246822519, 3266489917, 668265263, 374761393)


class StreamingFrequency(nn.Module):
    """Estimates the probability of an id to be in a batch by its steps between two sightings.

    Yi et al. 2019, algorithm 2: at step t every distinct slot y of the batch gets
    B[y] <- (1 - a) B[y] + a (t - A[y]), then A[y] <- t; p = 1 / B[y]. Ids share slots by hashing;
    of several hashes the longest interval is taken, the one least disturbed by other ids. The batch
    is that of all ranks, and all ranks keep the same state.

    Args:
        slots: H, length of the arrays; about the number of ids or more.
        rate: a, share of the newest interval.
        hashes: number of hash functions, 1 to 5.
        debias: divide B by 1 - (1 - a)^m after m sightings. B starts at 0, so that without it
            p is above 1 at first, the more so the rarer the id; with it p is 1/t at the first
            sighting and never above 1.

    Attributes:
        step: t, batches seen.
        last: (hashes, slots) A, the step of the latest sighting.
        interval: (hashes, slots) B, the averaged interval in steps.
        sightings: (hashes, slots) m.
    """

    step: Tensor
    last: Tensor
    interval: Tensor
    sightings: Tensor

    def __init__(
        self, slots: int, rate: float = 0.01, hashes: int = 1, *, debias: bool = True
    ) -> None:
        super().__init__()
        self.slots, self.rate, self.hashes, self.debias = slots, rate, hashes, debias
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(hashes, slots, dtype=torch.int64))
        self.register_buffer("interval", torch.zeros(hashes, slots))
        self.register_buffer("sightings", torch.zeros(hashes, slots, dtype=torch.int32))

    def forward(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Takes in a batch and returns p of its ids, after the update.

        Args:
            ids: (B,) ids of this rank's rows; a repeated id counts once.
        """
        with torch.no_grad():
            counts = row_counts(len(ids))
            everyone = self._slots_of(all_gather(ids, counts))
            self.step += 1
            old = self.interval.gather(1, everyone)
            waited = (self.step - self.last.gather(1, everyone)).to(old.dtype)
            # An id that is twice in the batch writes the same values twice.
            self.interval.scatter_(1, everyone, (1 - self.rate) * old + self.rate * waited)
            seen = self.sightings.gather(1, everyone) + 1
            self.sightings.scatter_(1, everyone, seen)
            self.last.scatter_(1, everyone, self.step.expand_as(everyone))
        return self.probability(ids)

    def probability(self, ids: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The estimate as it stands; infinite for an id whose slots were never seen."""
        slots = self._slots_of(ids)
        interval = self.interval.gather(1, slots)
        if self.debias:
            seen = self.sightings.gather(1, slots).to(interval.dtype)
            interval = interval / -torch.expm1(seen * torch.log1p(-interval.new_tensor(self.rate)))
        return 1 / interval.amax(0)

    def _slots_of(self, ids: Int[Tensor, " batch"]) -> Int[Tensor, "hashes batch"]:
        products = [ids.long() * m % 2**32 for m in _MULTIPLIERS[: self.hashes]]
        # The low bits of a product follow from those of the id, whatever the factor: without the
        # high bits, ids that share a slot of the first hash would share all of them.
        mixed = products[:1] + [product ^ (product >> 16) for product in products[1:]]
        return torch.stack(mixed) % self.slots
