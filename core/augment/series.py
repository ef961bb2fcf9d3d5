"""Views of series, batched on the device; every row of the batch draws its own.

Axis 1 is channels and axis 2 is time, of series (B, C, T) and of skeletons (B, 3, T, joints), to
which all of these apply but `SensorRotation`. `p` is how often a row is changed at all.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.augment.compose import Compose
from core.augment.draws import Draws
from core.data.checks import DataError

CHANNELS, TIME = 1, 2


def changed(
    rows: Bool[Tensor, " batch"], yes: Float[Tensor, "batch ..."], no: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch ..."]:
    """The rows of `yes` where `rows` is True, of `no` elsewhere."""
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)


class Jitter:
    """Noise on every number.

    Args:
        sigma: its standard deviation, in units of the series.
        p: how often.
    """

    def __init__(self, sigma: float = 0.1, p: float = 1.0) -> None:
        self.sigma, self.p = sigma, p

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        amount = _of_rows(self.sigma * draws.happens(self.p), x)
        return torch.addcmul(x, amount, draws.normal(*x.shape[1:]))


class Scaling:
    """A factor N(1, sigma²) for every number.

    Args:
        sigma: its standard deviation.
        p: how often.
    """

    def __init__(self, sigma: float = 1.0, p: float = 1.0) -> None:
        self.sigma, self.p = sigma, p

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        amount = _of_rows(self.sigma * draws.happens(self.p), x)
        return torch.addcmul(x, amount, draws.normal(*x.shape[1:]).mul_(x))


class Gain:
    """A factor N(1, sigma²) for every channel, the same at all times.

    Args:
        sigma: its standard deviation.
        p: how often.
    """

    def __init__(self, sigma: float = 0.3, p: float = 1.0) -> None:
        self.sigma, self.p = sigma, p

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        amount = _of_rows(self.sigma * draws.happens(self.p), x)
        return x * (1 + amount * draws.normal(x.shape[1], 1, *x.shape[3:]))


class NoiseAndGain:
    """A factor for every channel, then noise; for standardised series.

    Args:
        noise: standard deviation of the noise, in units of the series.
        gain: standard deviation of the factor, whose mean is 1.
    """

    def __init__(self, noise: float = 0.1, gain: float = 0.2) -> None:
        self.jitter, self.gain = Jitter(noise), Gain(gain)

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        return self.jitter(self.gain(x, draws), draws)


class CropAndResize:
    """A part of the time, stretched to the whole of it by linear interpolation.

    Args:
        low: smallest share of the time that is kept, in (0, 1].
        high: largest share.
        p: how often.

    Raises:
        DataError: the shares are no range within (0, 1].
    """

    def __init__(self, low: float = 0.8, high: float = 0.9, p: float = 1.0) -> None:
        if not 0 < low <= high <= 1:
            raise DataError(
                f"a crop of {low} to {high} of the time", expected="0 < low <= high <= 1"
            )
        self.low, self.high, self.p = low, high, p

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series, as long as before."""
        rows = draws.happens(self.p)[:, None]
        last = x.shape[TIME] - 1
        # A row that does not change keeps all of its time: its places are its own steps.
        length = last * torch.where(rows, draws.uniform(self.low, self.high, 1), 1.0)
        start = draws.uniform(0, 1, 1) * (last - length)
        step = torch.arange(x.shape[TIME], device=x.device)
        place = start + step * (length / max(last, 1))
        before = place.floor().clamp(max=max(last - 1, 0))
        after = (before + 1).clamp(max=last)
        weight = (place - before).view(*place.shape, *[1] * (x.ndim - 3))[:, None].to(x.dtype)
        first, second = (_taken(x, index.long(), TIME) for index in (before, after))
        return first.lerp_(second, weight.expand_as(x))


class Permutation:
    """The time cut into 1 to `max_segments` parts, which change places.

    Number, cuts and order are drawn evenly; all channels of a row are cut alike.

    Args:
        max_segments: the most parts.
        p: how often.
        axis: what is cut: 2 time, 1 channels.
    """

    def __init__(self, max_segments: int = 4, p: float = 1.0, axis: int = TIME) -> None:
        self.max_segments, self.p, self.axis = max_segments, p, axis

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        rows = draws.happens(self.p)
        size = x.shape[self.axis]
        most = min(self.max_segments, size)
        cuts = draws.uniform(0, most, 1).floor().clamp(max=most - 1)  # rounding may reach `most`
        cuts = cuts * rows[:, None]
        where = draws.uniform(0, 1, size - 1).topk(most - 1, dim=1, largest=False).indices
        is_cut = torch.arange(most - 1, device=x.device) < cuts
        begins = cuts.new_zeros(len(x), size).scatter(1, where + 1, is_cut.to(cuts.dtype))
        place = draws.uniform(0, 1, most).gather(1, begins.cumsum(1).long())
        return _taken(x, place.argsort(stable=True, dim=1), self.axis)


class ChannelShuffle:
    """The channels in another order.

    Args:
        p: how often.
        axis: what is shuffled: 1 channels, 2 time.
    """

    def __init__(self, p: float = 1.0, axis: int = CHANNELS) -> None:
        self.p, self.axis = p, axis

    def __call__(
        self, x: Float[Tensor, "batch channels time ..."], draws: Draws
    ) -> Float[Tensor, "batch channels time ..."]:
        """One view of every series."""
        rows = draws.happens(self.p)
        # Equal keys leave the order of a row as it is.
        keys = draws.uniform(0, 1, x.shape[self.axis]) * rows[:, None]
        return _taken(x, keys.argsort(stable=True, dim=1), self.axis)


class SensorRotation:
    """The sensor mounted another way: every x, y, z of a row turned by one rotation.

    Acceleration and angular rate of one device turn together, as they would.

    Args:
        degrees: the largest angle, about an axis of any direction.
        p: how often.
    """

    def __init__(self, degrees: float = 180.0, p: float = 1.0) -> None:
        self.degrees, self.p = degrees, p

    def __call__(
        self, x: Float[Tensor, "batch channels time"], draws: Draws
    ) -> Float[Tensor, "batch channels time"]:
        """One view of every series.

        Raises:
            DataError: the channels are not x, y, z of one sensor or of several.
        """
        if x.ndim != 3 or x.shape[CHANNELS] % 3:
            raise DataError(
                f"samples of shape {list(x.shape[1:])} have no axes to turn",
                expected="series (channels, time), x, y and z of each sensor in turn",
            )
        rows = draws.happens(self.p)
        axis = torch.nn.functional.normalize(draws.normal(3), dim=1)
        angle = torch.deg2rad(draws.uniform(0, self.degrees))
        turn = rotation_about(axis, angle).to(x.dtype)
        turned = torch.einsum("bij,bsjt->bsit", turn, x.unflatten(CHANNELS, (-1, 3)))
        return changed(rows, turned.flatten(1, 2), x)


def rotation_about(
    axis: Float[Tensor, "*batch 3"], angle: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Matrices that turn right-handedly about unit vectors, by radians (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    sine, rest = angle.sin()[..., None, None], (1 - angle.cos())[..., None, None]
    identity = torch.eye(3, device=axis.device, dtype=axis.dtype)
    turned: Tensor = identity + sine * cross + rest * (cross @ cross)
    return turned


class InertialViews:
    """The views of CMC-CMKM for inertial sensors: noise, factors, cut and swapped time, channels.

    The authors' code has turned the series to (channels, time) before, and then takes the wrong
    axis: what it calls a permutation swaps channels, what it calls a shuffle of the channels
    shuffles time.

    Args:
        jitter: standard deviation of the noise, in units of the series.
        scaling: standard deviation of the factor of every number.
        max_segments: the most parts that change places.
        p: how often each of the four happens.
        compat_axes: True for the axes of the authors' code.
    """

    def __init__(
        self,
        jitter: float = 1.0,
        scaling: float = 1.0,
        max_segments: int = 2,
        p: float = 0.75,
        compat_axes: bool = False,
    ) -> None:
        cut, shuffled = (CHANNELS, TIME) if compat_axes else (TIME, CHANNELS)
        self.views = Compose(
            [
                Jitter(jitter, p),
                Scaling(scaling, p),
                Permutation(max_segments, p, cut),
                ChannelShuffle(p, shuffled),
            ]
        )

    def __call__(
        self, x: Float[Tensor, "batch channels time"], draws: Draws
    ) -> Float[Tensor, "batch channels time"]:
        """One view of every series."""
        return self.views(x, draws)


def _of_rows(values: Float[Tensor, " batch"], x: Tensor) -> Float[Tensor, "batch ..."]:
    """In a shape that multiplies the samples."""
    return values.view(-1, *[1] * (x.ndim - 1))


def _taken(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Along an axis, the entries of `index` (B, size), the same at all places of the other axes."""
    before, after = x.shape[1:axis], x.shape[axis + 1 :]
    index = index.view(len(x), *[1] * len(before), -1).expand(len(x), *before, -1)
    if not after:
        return x.gather(axis, index)
    # Whatever lies behind the axis is taken in one piece, which is several times as quick.
    first = torch.arange(index[..., 0].numel(), device=x.device) * x.shape[axis]
    rows = index.reshape(-1, index.shape[-1]) + first[:, None]
    taken = x.reshape(-1, after.numel()).index_select(0, rows.flatten())
    return taken.view(*index.shape, *after)
