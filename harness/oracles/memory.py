"""memory: a read returns the page's newest value; nobody sees less than anybody saw before.

Each write adds one to its page's value, so values only grow.  Before an access the guest looks up
what was seen at that gfn last, and afterwards it must not have seen less.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot, backed
from mmu.host.frames import (
    MAPPED,
    MAPPING_FRAME_SHIFT,
    MAPPING_RWX,
    VALUE_MASK,
    VALUE_SHIFT,
)
from mmu.machine.cpu import Words
from mmu.vm import Vm

NAME = "memory"
PROPERTY = "a read returns the page's newest value"
IN_STRESS = "every access; audit"


def _contents(vm: Vm, first: int, count: int) -> Words:
    """What each host page holds, in its frame or on disk."""
    if not vm.config.spare_frames:
        return (vm.frames[first : first + count] >> VALUE_SHIFT) & VALUE_MASK
    mapping = vm.region("mapping")[first : first + count]
    frames = np.arange(first, first + count)
    frames = np.where(mapping != 0, (mapping & ~MAPPED) >> MAPPING_FRAME_SHIFT, frames)
    gone = (mapping != 0) & (mapping & MAPPING_RWX == 0)
    resident = (vm.frames[frames] >> VALUE_SHIFT) & VALUE_MASK
    return np.where(gone, vm.region("disk")[first : first + count], resident)


def audit(snapshot: Snapshot) -> list[str]:
    """Pages whose frame holds less than what was seen there."""
    vm = snapshot.vm
    for offset, newest in backed(vm, "newest"):
        values = _contents(vm, offset, len(newest))
        behind = ((values - newest) & VALUE_MASK) > VALUE_MASK >> 1
        for i in np.flatnonzero(behind)[:1]:
            gfn = vm.config.gfn_base + offset + int(i)
            return [
                f"{int(behind.sum())} pages lost writes; the first is gfn {gfn:#x}: it holds"
                f" {int(values[i])}, but {int(newest[i])} was seen there"
            ]
    return []
