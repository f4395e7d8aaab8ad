"""frames: what the host has taken back, nobody uses, and nobody tells it about any more.

After an invalidation has started, no entry of any root names the frame, valid root or not.  While
the run goes on, every mark of a frame (dirty, accessed) looks at the frame's owner; at rest every
leaf does.  At rest the host agrees with itself too: the frame that it maps a page to is the page's,
and a free one is nobody's and free once.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.mapping import host_pages
from harness.oracles.snapshot import Snapshot, backed
from mmu import spte
from mmu.host.frames import MAPPED, MAPPING_FRAME_SHIFT, MAPPING_RWX, NOBODY, OWNER_MASK
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.vm import Vm

NAME = "frames"
PROPERTY = (
    "no entry names, and nobody marks, a frame that the host has taken back; each has one owner"
)
IN_STRESS = "every mark (owner word); audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Leafs of frames that belong to somebody else or to nobody."""
    vm = snapshot.vm
    if not vm.config.spare_frames:
        return []
    first_pfn = int(vm.words[at.C_FRAME_PFN])
    problems = _host_problems(vm)
    for leafs in snapshot.leafs():
        frames = ((leafs.values >> spte.PFN_SHIFT) & spte.PFN_MASK) - first_pfn
        inside = (frames >= 0) & (frames < len(vm.frames))
        owners = _owners(vm, np.where(inside, frames, 0))
        wrong = ~inside | (owners != host_pages(vm, leafs.gfns)[0])
        problems += [
            f"{int(wrong.sum())} leafs at level {leafs.level} name frames of others; the first"
            f" maps gfn {int(leafs.gfns[i]):#x} to frame {int(frames[i]):#x}, which belongs to"
            f" {'nobody' if owners[i] == NOBODY else f'host page {int(owners[i]):#x}'}"
            for i in np.flatnonzero(wrong)[:1]
        ]
    return problems


def _owners(vm: Vm, frames: Words) -> Words:
    """The host page that each frame belongs to, or NOBODY."""
    owners: Words = (vm.frames[frames] & OWNER_MASK) ^ frames
    return owners


def _host_problems(vm: Vm) -> list[str]:
    """Free frames that are somebody's or free twice, pages in frames that are not theirs."""
    free = vm.region("free frames")[: int(vm.words[at.HOST_FREE_TOP])]
    problems = []
    if len(np.unique(free)) < len(free):
        problems.append(f"{len(free) - len(np.unique(free))} frames are free twice")
    if (owned := int((_owners(vm, free) != NOBODY).sum())) != 0:
        problems.append(f"{owned} free frames belong to somebody")
    for offset, words in backed(vm, "mapping"):
        # What was never changed is a page in its first frame.
        places = np.flatnonzero(words & MAPPING_RWX)
        frames = (words[places] & ~MAPPED) >> MAPPING_FRAME_SHIFT
        wrong = np.flatnonzero(_owners(vm, frames) != offset + places)
        problems += [
            f"{len(wrong)} pages are mapped to frames of others by the host; the first is host"
            f" page {offset + int(places[i]):#x}, in frame {int(frames[i]):#x}"
            for i in wrong[:1]
        ]
    return problems
