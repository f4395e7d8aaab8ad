"""mapping: a guest access lands in the frame that is its own, as far as the host allows.

While the run goes on, every access is one atomic operation on the frame's word, which names the
frame's owner: the guest checks it each time.  At rest, every leaf is compared with the host,
and no MMIO entry that would be believed lies in a memslot.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Mask, Snapshot, mmio
from mmu import spte
from mmu.gfn_track import TRACKERS_MASK
from mmu.host.frames import (
    MAPPED,
    MAPPING_FRAME_SHIFT,
    MAPPING_LEVEL_MASK,
    MAPPING_LEVEL_SHIFT,
    MAPPING_RWX,
)
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
        # W would do if the ladder held, which is another oracle's business.
        may_write = spte.HOST_WRITABLE | spte.MMU_WRITABLE | spte.SPTE_W
        wrong |= ((leafs.values & may_write) != 0) & ~writable
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
    return problems + _mmio(snapshot)


def _mmio(snapshot: Snapshot) -> list[str]:
    """MMIO entries that the next access would believe although a memslot is there.

    Those of an older generation are no harm: whoever hits one looks the memslot up.
    """
    vm = snapshot.vm
    now = int(vm.words[at.SLOTS_GENERATION]) & spte.MMIO_GENERATION_MASK
    problems = []
    for reached in (each for each in snapshot.by_level if each.level == 1):
        for all_gfns, values, _ in snapshot.entries(reached):
            here = mmio(values)
            gfns, entries = all_gfns[here], values[here]
            wrong = (entries >> spte.PFN_SHIFT) & spte.PFN_MASK != gfns
            low = entries >> spte.MMIO_LOW_SHIFT & spte.MMIO_LOW_MASK
            high = entries >> spte.MMIO_HIGH_SHIFT << spte.MMIO_LOW_BITS
            wrong |= host_pages(vm, gfns)[1] & (high | low == now)
            problems += [
                f"{int(wrong.sum())} MMIO entries are wrong; the first, {int(entries[i]):#x}, is"
                f" at gfn {int(gfns[i]):#x}, the memslots' generation is {now}"
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
    levels = (words >> MAPPING_LEVEL_SHIFT) & MAPPING_LEVEL_MASK
    level = np.where(changed, levels, level)
    return np.where(present, frames, -1), level, ~changed | ((words & spte.SPTE_W) != 0)


def _host_text(inside: bool, frame: int, level: int, writable: bool) -> str:
    if not inside:
        return "no memslot there"
    if frame < 0:
        return "swapped the page out"
    return f"frame {int(frame):#x} at level {int(level)}{'' if writable else ', read-only'}"
