"""How fast the time stamp counter runs, measured once per process tree."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import cycles

CALIBRATION_NS = 20_000_000


@kernel
def read_ticks(cpu: Cpu) -> int:
    """The counter, from Python."""
    return cycles(cpu)


@cache
def ticks_per_ns() -> float:
    """Ticks of the counter per nanosecond of CLOCK_MONOTONIC."""
    cpu = Cpu(np.zeros(8, np.int64))
    read_ticks(cpu)
    began_ns, began = time.monotonic_ns(), read_ticks(cpu)
    while time.monotonic_ns() - began_ns < CALIBRATION_NS:
        pass
    ended_ns, ended = time.monotonic_ns(), read_ticks(cpu)
    return (ended - began) / (ended_ns - began_ns)
