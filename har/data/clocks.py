"""Time columns: whether a sensor kept its rate, and its values at a constant one."""

import numpy as np
from jaxtyping import Float

from core.data.checks import DataError
from core.data.findings import Findings
from har.data.recordings import Stream

_GAP = 5.0  # periods without a sample
_JITTER = 0.1  # of a period
_WRONG_RATE = 0.05


def stream_of_times(
    values: Float[np.ndarray, "time ..."],
    times: Float[np.ndarray, " time"],
    rate: float | None,
    where: str,
    findings: Findings,
) -> Stream:
    """A stream at a constant rate from samples with times of their own.

    The rate is that of the median distance of two samples. Where a sample is more than a tenth of a
    period off the regular clock, all are interpolated onto it, linearly.

    Args:
        values: one row a sample.
        times: seconds.
        rate: samples a second as declared, None where nothing is.
        where: file and sensor, for messages.
        findings: collects problems and remarks.

    Raises:
        DataError: times that do not ascend or are in milliseconds, a gap of more than five
            periods, or another rate than declared by more than 5 %.
    """
    if times.ndim != 1 or times.dtype.kind not in "fiu":
        found = f"{times.dtype} of shape {list(times.shape)}"
        raise DataError(f"{where}: the times are {found}", expected="one number a sample, seconds")
    if len(times) != len(values) or len(times) < 2:
        raise DataError(f"{where}: {len(times)} times for {len(values)} samples, at least 2 needed")
    times = times.astype(np.float64)
    distances = np.diff(times)
    if not np.isfinite(times).all() or distances.min() <= 0:
        at = int(np.argmin(np.where(np.isfinite(distances), distances, -np.inf))) + 1
        raise DataError(f"{where}: the times do not ascend, at sample {at}", expected="seconds")
    period = float(np.median(distances))
    if period >= 1:
        raise DataError(
            f"{where}: one sample every {period:.4g} s, as it says",
            expected="times in seconds",
            fix="divide them by 1000 where they are milliseconds",
        )
    if rate is not None and abs(period * rate - 1) > _WRONG_RATE:
        raise DataError(
            f"{where}: {1 / period:.4g} samples a second by its times, {rate:g} as declared"
        )
    gaps = np.flatnonzero(distances > _GAP * period)
    if len(gaps):
        longest = int(gaps[distances[gaps].argmax()])
        raise DataError(
            f"{where}: {len(gaps)} gaps, the longest of {distances[longest]:.2f} s after "
            f"{times[longest] - times[0]:.2f} s",
            fix="cut the recording in two there",
        )
    clock = times[0] + np.arange(int((times[-1] - times[0]) / period + 1e-3) + 1) * period
    n = min(len(clock), len(times))
    off = float(np.abs(clock[:n] - times[:n]).max()) / period
    if off <= _JITTER and len(clock) == len(times):
        return Stream(values, 1 / period, float(times[0]))
    jitter = float(np.quantile(np.abs(distances / period - 1), 0.95))
    if jitter > _JITTER:
        findings.warn(f"{where}: 5 % of its samples come {jitter:.0%} of a period early or late")
    flat = values.reshape(len(values), -1)
    regular = np.stack([np.interp(clock, times, column) for column in flat.T], 1)
    regular = regular.reshape(len(clock), *values.shape[1:]).astype(np.float32)
    return Stream(regular, 1 / period, float(times[0]))
