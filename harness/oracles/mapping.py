"""mapping: a guest access lands in the frame that is its own, as far as the host allows.

While the run goes on, every access is one atomic operation on the frame's word, which names the
frame's owner: the guest checks it each time.  At rest, every leaf is compared with the host.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Mask, Snapshot
from mmu import spte
from mmu.gfn_track import TRACKERS_MASK
from mmu.host.frames import MAPPED, MAPPING_FRAME_SHIFT, MAPPING_LEVEL_SHIFT, MAPPING_RWX
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.memslots import STATE_BITS, STATE_MASK
from mmu.vm import Vm

NAME = "mapping"
PROPERTY = "an access lands in its own frame; level, permission: the host's, write tracking's"
IN_STRESS = "every access (owner, permission); level and write tracking by audit"


def audit(snapshot: Snapshot) -> list[str]:
    """Leafs that do not match the host's mapping, its level or permission, or the memslots."""
    vm = snapshot.vm
    first_pfn = int(vm.words[at.C_FRAME_PFN])
    problems = []
    tracked = _tracked_before(vm)
    for leafs in snapshot.leafs():
        pages, inside = host_pages(vm, leafs.gfns)
        wanted, levels, writable = _host_mapping(vm, np.where(inside, pages, 0))
        frames = ((leafs.values >> spte.PFN_SHIFT) & spte.PFN_MASK) - first_pfn
        wrong = ~inside | (frames != wanted) | (levels < leafs.level)
        wrong |= ((leafs.values & spte.HOST_WRITABLE) != 0) & ~writable
        problems += [
            f"{int(wrong.sum())} leafs at level {leafs.level} do not match the host; the first"
            f" maps gfn {int(leafs.gfns[i]):#x} to frame {int(frames[i]):#x}, the host has"
            f" {_host_text(inside[i], wanted[i], levels[i], writable[i])}"
            for i in np.flatnonzero(wrong)[:1]
        ]
        if tracked is not None:
            end = pages + (1 << vm.config.bits * (leafs.level - 1))
            hold = tracked[np.minimum(end, len(tracked) - 1)] > tracked[np.where(inside, pages, 0)]
            wrong = inside & hold & ((leafs.values & (spte.SPTE_W | spte.MMU_WRITABLE)) != 0)
            problems += [
                f"{int(wrong.sum())} leafs at level {leafs.level} map write-tracked pages writable,"
                f" or so that they may become it; the first is gfn {int(leafs.gfns[i]):#x}"
                for i in np.flatnonzero(wrong)[:1]
            ]
    return problems


def _tracked_before(vm: Vm) -> Words | None:
    """How many host pages below each are write-tracked; None where none can be."""
    if not vm.config.write_tracking:
        return None
    trackers = vm.region("write tracked")[: vm.config.pages] & TRACKERS_MASK
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(trackers != 0)])


def host_pages(vm: Vm, gfns: Words) -> tuple[Words, Mask]:
    """The host page behind each gfn, and whether a memslot shows it there."""
    slots = vm.region("slots").reshape(-1, at.SLOT_WORDS)
    inside: Mask = np.zeros(len(gfns), np.bool_)
    for slot in slots[slots[:, at.SLOT_PLACE] & STATE_MASK == at.SLOT_PRESENT]:
        relative = gfns - (slot[at.SLOT_PLACE] >> STATE_BITS)
        inside |= (relative >= 0) & (relative < slot[at.SLOT_PAGES])
    return (gfns - vm.config.gfn_base) & int(vm.words[at.C_GFN_MASK]), inside


def _host_mapping(vm: Vm, pages: Words) -> tuple[Words, Words, Mask]:
    """(frame, level, writable) of host pages; frame -1 of a page that is swapped out."""
    level = np.full(pages.shape, vm.config.backing_level)
    if not vm.config.spare_frames:
        return pages, level, np.full(pages.shape, True)
    words = vm.region("mapping")[pages]
    changed = words != 0
    present = ~changed | ((words & MAPPING_RWX) != 0)
    frames = np.where(changed, (words & ~MAPPED) >> MAPPING_FRAME_SHIFT, pages)
    level = np.where(changed, (words >> MAPPING_LEVEL_SHIFT) & 15, level)
    return np.where(present, frames, -1), level, ~changed | ((words & spte.SPTE_W) != 0)


def _host_text(inside: bool, frame: int, level: int, writable: bool) -> str:
    if not inside:
        return "no memslot there"
    if frame < 0:
        return "swapped the page out"
    return f"frame {int(frame):#x} at level {int(level)}{'' if writable else ', read-only'}"
