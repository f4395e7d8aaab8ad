"""dirty: no guest write is lost, neither by migration nor by the host's reclaim.

Migration is judged where a migration runs: what the log names is copied, and memory must end
equal.  Here is the promise to reclaim: a frame that the guest has written is known to be dirty,
by the leaf that maps it (its D bit, or MMU-writable without one) or by the host's mark;
otherwise it would be dropped without being written back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.oracles.snapshot import Snapshot, backed
from mmu import spte
from mmu.host.frames import (
    MARK_DIRTY,
    MARK_SPLIT,
    NOBODY,
    OWNER_MASK,
    VALUE_MASK,
    VALUE_SHIFT,
)
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.vm import Vm

NAME = "dirty"
PROPERTY = "no guest write is lost: the log names it, the leaf or the host's mark remembers it"
IN_STRESS = "audit (reclaim)"

Mask = npt.NDArray[np.bool_]


def audit(snapshot: Snapshot) -> list[str]:
    """Frames that were written and that nothing says so of."""
    vm = snapshot.vm
    known = _known_dirty(snapshot)
    for offset, frames in backed(vm, "frames"):
        written = (frames >> VALUE_SHIFT) & VALUE_MASK != _on_disk(vm, offset, frames)
        lost = np.flatnonzero(written & ~known[offset : offset + len(frames)])
        if len(lost):
            return [
                f"{len(lost)} frames were written but neither a leaf nor the host knows;"
                f" the first is that of gfn {vm.config.gfn_base + offset + int(lost[0]):#x}"
            ]
    return []


def _on_disk(vm: Vm, offset: int, frames: Words) -> Words:
    """What the disk has for the page that owns each frame; a free frame has nothing to lose."""
    values = (frames >> VALUE_SHIFT) & VALUE_MASK
    if not vm.config.spare_frames:
        return np.zeros_like(values)
    owners = (frames & OWNER_MASK) ^ np.arange(offset, offset + len(frames))
    free = owners == NOBODY
    return np.where(free, values, vm.region("disk")[np.where(free, 0, owners)])


def _known_dirty(snapshot: Snapshot) -> Mask:
    """Mask over frames; whole blocks where a huge leaf or the host's huge page says it."""
    vm = snapshot.vm
    bits = vm.config.bits
    block = 1 << bits * (vm.config.levels - 2)  # the largest leaf
    count = vm.layout.regions["frames"].words
    known: Mask = np.zeros(-(-count // block) * block, np.bool_)
    first_pfn = int(vm.words[at.C_FRAME_PFN])
    for leafs in snapshot.leafs():
        # Without A and D bits a leaf that may be written counts as written (`spte.is_dirty`).
        without_ad = (leafs.values & spte.AD_DISABLED) != 0
        bits_of = np.where(without_ad, spte.MMU_WRITABLE, spte.DIRTY)
        dirty = leafs.values[(leafs.values & bits_of) != 0]
        frames = ((dirty >> spte.PFN_SHIFT) & spte.PFN_MASK) - first_pfn
        shift = bits * (leafs.level - 1)
        inside = (frames >= 0) & (frames < count)
        known.reshape(-1, 1 << shift)[frames[inside] >> shift] = True
    shift = bits * (vm.config.backing_level - 1)
    for offset, marks in backed(vm, "marks"):
        marked = offset + np.flatnonzero(marks & MARK_DIRTY)
        known[marked] = True
        # A mark at the first frame of a huge page speaks for all of it, until the host splits it.
        whole = marked[vm.region("marks")[marked >> shift << shift] & MARK_SPLIT == 0]
        known.reshape(-1, 1 << shift)[whole >> shift] = True
    return known
