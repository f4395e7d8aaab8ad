"""mapping: a guest access lands in the frame that is its own, as far as the host allows.

While the run goes on, every access is one atomic operation on the frame's word, which names the
frame's owner: the guest checks it each time.  At rest, every leaf is compared with the host.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot
from mmu import spte
from mmu.machine import layout as at

NAME = "mapping"
PROPERTY = "an access lands in a frame that is its own; level and permission are the host's"
IN_STRESS = "every access (owner, permission); level by audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Leafs that do not match the host's mapping, level or memslots."""
    vm = snapshot.vm
    first_pfn = int(vm.words[at.C_FRAME_PFN])
    problems = []
    for leafs in snapshot.leafs():
        relative = leafs.gfns - vm.config.gfn_base
        pages = 1 << vm.config.bits * (leafs.level - 1)
        outside = (relative < 0) | (relative + pages > vm.config.pages)
        frames = ((leafs.values >> spte.PFN_SHIFT) & spte.PFN_MASK) - first_pfn
        wrong = outside | (frames != relative)
        if leafs.level > vm.config.backing_level:
            wrong |= np.full(wrong.shape, True)
        problems += [
            f"{int(wrong.sum())} leafs at level {leafs.level} do not match the host; the first"
            f" maps gfn {int(leafs.gfns[i]):#x} to frame {int(frames[i]):#x}, the host has"
            f" frame {int(relative[i]):#x} at level {vm.config.backing_level}"
            for i in np.flatnonzero(wrong)[:1]
        ]
    return problems
