"""transitions: entries change only in legal ways and are well-formed at any rest.

The funnel asserts each change while it happens (frames of present leafs, the writability ladder,
levels, frozen entries); the audit looks at what the changes have left.
"""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot, leaf, mmio, present, records
from mmu import spte
from mmu.machine import layout as at
from mmu.machine.cpu import Words

NAME = "transitions"
PROPERTY = "entries change only in legal ways; W => MMU-writable => host-writable; levels fit"
IN_STRESS = "assertions in the funnel; audit"

SAVED_BITS = (spte.SPTE_R | spte.SPTE_X) << spte.SAVED_SHIFT


def audit(snapshot: Snapshot) -> list[str]:
    """Ill-formed entries, and tables whose record does not say where they are linked."""
    problems = []
    for reached in snapshot.by_level:
        for gfns, values, places in snapshot.entries(reached):
            for what, mask in _rules(values, reached.level, snapshot.vm.config.bits).items():
                problems += [
                    f"{int(mask.sum())} entries at level {reached.level} {what}; the first is"
                    f" {int(values[i]):#x} for gfn {int(gfns[i]):#x} (word {int(places[i])})"
                    for i in np.flatnonzero(mask)[:1]
                ]
        problems += _records(snapshot, reached.pages, reached.gfns, reached.level, reached.parents)
    return problems


def _rules(values: Words, level: int, bits: int) -> dict[str, Words]:
    here = present(values)
    is_leaf = here & leaf(values, level)
    writable = (values & spte.SPTE_W) != 0
    mmu_writable = (values & spte.MMU_WRITABLE) != 0
    without_ad = (values & spte.AD_DISABLED) != 0
    saved = (values & SAVED_BITS) != 0
    tracked = is_leaf & without_ad & ((values & spte.RWX) == 0)
    host_writable = (values & spte.HOST_WRITABLE) != 0
    pfns = (values >> spte.PFN_SHIFT) & spte.PFN_MASK
    aligned = pfns & ((1 << bits * (level - 1)) - 1) == 0
    return {
        "are neither present nor empty": ~here
        & (values != spte.NONPRESENT)
        & (values != spte.FROZEN)
        & ~(mmio(values) & (level == 1)),
        "are writable but not MMU-writable": is_leaf & writable & ~mmu_writable,
        "are MMU-writable but not host-writable": is_leaf & mmu_writable & ~host_writable,
        "neither grant reading nor have it put aside": is_leaf
        & ((values & spte.SPTE_R) == 0)
        & ~(tracked & ((values & spte.SPTE_R << spte.SAVED_SHIFT) != 0)),
        "grant something and have put permissions aside": is_leaf & ~tracked & saved,
        "have A or D bits although they have none": here
        & without_ad
        & ((values & (spte.ACCESSED | spte.DIRTY)) != 0),
        "are huge leafs of a misaligned frame": is_leaf & ~aligned,
        "are 4K leafs with the large-page bit": is_leaf
        & np.full(values.shape, level == 1)
        & ((values & spte.PS) != 0),
    }


def _records(
    snapshot: Snapshot, pages: Words, gfns: Words, level: int, parents: Words
) -> list[str]:
    rows = records(snapshot.vm)[pages]
    is_root = parents == 0
    wrong = (
        (rows[:, at.SP_LEVEL] != level)
        | (~is_root & (rows[:, at.SP_GFN] != gfns))
        | (~is_root & (rows[:, at.SP_PARENT] != parents))
    )
    return [
        f"table page {int(pages[i])} at level {level} for gfn {int(gfns[i]):#x} has the record"
        f" level {int(rows[i, at.SP_LEVEL])}, gfn {int(rows[i, at.SP_GFN]):#x}"
        for i in np.flatnonzero(wrong)[:1]
    ]
