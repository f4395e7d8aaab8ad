"""memory: a read returns the page's newest value; nobody sees less than anybody saw before.

Each write adds one to its page's value, so values only grow.  Before an access the guest looks up
what was seen at that gfn last, and afterwards it must not have seen less.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot, backed
from mmu.host.frames import VALUE_MASK, VALUE_SHIFT

NAME = "memory"
PROPERTY = "a read returns the page's newest value"
IN_STRESS = "every access; audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Pages whose frame holds less than what was seen there."""
    vm = snapshot.vm
    for offset, newest in backed(vm, "newest"):
        values = (vm.frames[offset : offset + len(newest)] >> VALUE_SHIFT) & VALUE_MASK
        behind = ((values - newest) & VALUE_MASK) > VALUE_MASK >> 1
        for i in np.flatnonzero(behind)[:1]:
            gfn = vm.config.gfn_base + offset + int(i)
            return [
                f"{int(behind.sum())} pages lost writes; the first is gfn {gfn:#x}: it holds"
                f" {int(values[i])}, but {int(newest[i])} was seen there"
            ]
    return []
