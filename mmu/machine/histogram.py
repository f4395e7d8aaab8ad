"""Latency histograms in the actor's own block: log-linear buckets, plain private adds.

16 buckets per octave (6 % wide) of time-stamp-counter ticks; readers add the actors' buckets up
and convert to nanoseconds.  A histogram never makes the path that it measures share a line.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_HISTOGRAMS, HISTOGRAM_SUB_BITS, HISTOGRAM_WORDS
from mmu.machine.primitives import config, tally


@kernel
def bucket_of(ticks: int) -> int:
    """Bucket number of a latency: exact below 16, then 16 per octave."""
    if ticks < 1 << HISTOGRAM_SUB_BITS:
        return max(ticks, 0)
    octave = 0
    scaled = ticks
    while scaled >= 2 << HISTOGRAM_SUB_BITS:
        scaled >>= 1
        octave += 1
    return min((octave << HISTOGRAM_SUB_BITS) + scaled, HISTOGRAM_WORDS - 1)


@kernel
def record_latency(cpu: Cpu, which: int, ticks: int) -> None:
    """Count one latency in histogram `which` (`H_*`)."""
    histograms = config(cpu, C_HISTOGRAMS)
    if histograms != 0:
        tally(cpu, histograms + which * HISTOGRAM_WORDS + bucket_of(ticks), 1)


def bucket_low(bucket: int) -> int:
    """The smallest latency (ticks) that falls into `bucket`."""
    units = 1 << HISTOGRAM_SUB_BITS
    if bucket < 2 * units:
        return bucket
    octave, within = divmod(bucket, units)
    return (units + within) << (octave - 1)


def quantile(buckets: npt.NDArray[np.int64], share: float) -> float:
    """Upper edge (ticks) of the bucket that holds the `share` quantile; 0.0 if empty."""
    total = int(buckets.sum())
    if total == 0:
        return 0.0
    rank = int(np.searchsorted(np.cumsum(buckets), max(1, int(np.ceil(share * total)))))
    return float(bucket_low(rank + 1))
