"""frames: what the host has taken back, nobody uses, and nobody tells it about any more.

After an invalidation has started, no entry of any root names the frame, valid root or not.  While
the run goes on, every mark of a frame (dirty, accessed) looks at the frame's owner; at rest every
leaf does.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.mapping import host_pages
from harness.oracles.snapshot import Snapshot
from mmu import spte
from mmu.host.frames import NOBODY, OWNER_MASK
from mmu.machine import layout as at

NAME = "frames"
PROPERTY = "no entry names, and nobody marks, a frame that the host has taken back"
IN_STRESS = "every mark (owner word); audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Leafs of frames that belong to somebody else or to nobody."""
    vm = snapshot.vm
    if not vm.config.spare_frames:
        return []
    first_pfn = int(vm.words[at.C_FRAME_PFN])
    problems = []
    for leafs in snapshot.leafs():
        frames = ((leafs.values >> spte.PFN_SHIFT) & spte.PFN_MASK) - first_pfn
        inside = (frames >= 0) & (frames < len(vm.frames))
        owners = (vm.frames[np.where(inside, frames, 0)] & OWNER_MASK) ^ frames
        wrong = ~inside | (owners != host_pages(vm, leafs.gfns)[0])
        problems += [
            f"{int(wrong.sum())} leafs at level {leafs.level} name frames of others; the first"
            f" maps gfn {int(leafs.gfns[i]):#x} to frame {int(frames[i]):#x}, which belongs to"
            f" {'nobody' if owners[i] == NOBODY else f'host page {int(owners[i]):#x}'}"
            for i in np.flatnonzero(wrong)[:1]
        ]
    return problems
