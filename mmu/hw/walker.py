"""The hardware page walker: reads tables, sets A and D, logs to the PML buffer, fills the TLB.

It knows entries, not operations, and takes no lock: it may be inside any table that its vCPU
could reach since its last flush.  A and D are set by one locked update of the entry it has read;
if the entry changed meanwhile, the walk starts over.
"""

from __future__ import annotations

from mmu.hw.tlb import page_entry, structure_drop, structure_fill, structure_lookup, tlb_fill
from mmu.machine.conditions import LIFETIME_WALK, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel
from mmu.machine.layout import (
    C_AD_BITS,
    C_PML,
    N_PML_ENTRIES,
    PML_INDEX,
    PML_ON,
    VCPU_ROOT,
)
from mmu.machine.primitives import cmpxchg, config, own, read_once, set_own, stopped, tally
from mmu.spte import ACCESS_WRITE, ACCESSED, DIRTY, LEVEL_4K, PS, RWX, SPTE_R, is_mmio, is_poison
from mmu.tdp_iter import child_table, index_of, root_level, root_table

# What a walk that grants nothing reports (bits 3 to 5 of the exit qualification, condensed).
VIOLATION_NOT_PRESENT = 0
VIOLATION_PERMISSION = -1
MISCONFIGURATION = -3  # an exit of its own: write permission without read permission


@inlined_kernel
def pml_log(cpu: Cpu, gfn: int) -> None:
    """Append to the vCPU's page-modification log; there is room, or the guest had exited."""
    index = own(cpu, PML_INDEX)
    set_own(cpu, config(cpu, C_PML) + index, gfn)
    set_own(cpu, PML_INDEX, index + 1)
    tally(cpu, N_PML_ENTRIES, 1)


@inlined_kernel
def _set_accessed_dirty(cpu: Cpu, sptep: int, spte: int, gfn: int, access: int) -> int:
    """Set A, and D for a write; the entry as it is now, or 0 if it changed under the walker.

    Without A and D bits there is nothing to set, and what is cached owes no update.
    """
    if config(cpu, C_AD_BITS) == 0:
        return spte | ACCESSED | DIRTY
    wanted = ACCESSED | DIRTY if access & ACCESS_WRITE != 0 else ACCESSED
    if spte & wanted == wanted:
        return spte
    if cmpxchg(cpu, sptep, spte, spte | wanted) != spte:
        return 0
    if wanted & ~spte & DIRTY != 0 and own(cpu, PML_ON) != 0:
        pml_log(cpu, gfn)
    return spte | wanted


@inlined_kernel
def _walk_once(cpu: Cpu, gfn: int, access: int) -> int:
    """One walk; a grant, why there is none, or -2: the leaf changed, the walk must be repeated.

    A violation drops what led to it from the caches (SDM 28.4.3.1): otherwise a vCPU would fault
    again and again in a table that was replaced, until somebody flushes.
    """
    level = LEVEL_4K
    table = structure_lookup(cpu, gfn)
    if table == 0:
        root = own(cpu, VCPU_ROOT)
        level = root_level(root)
        table = root_table(cpu, root)
    while True:
        sptep = table + index_of(cpu, gfn, level)
        spte = read_once(cpu, sptep)
        if spte & RWX == 0:
            warn(cpu, is_poison(spte), LIFETIME_WALK, gfn, sptep, level)
            structure_drop(cpu, gfn)
            return VIOLATION_NOT_PRESENT
        if level == LEVEL_4K or spte & PS != 0:
            break
        table = child_table(cpu, spte)
        level -= 1
        if level == LEVEL_4K:
            structure_fill(cpu, gfn, table)
    wanted = access | SPTE_R
    if spte & wanted != wanted:
        structure_drop(cpu, gfn)
        return MISCONFIGURATION if is_mmio(spte) else VIOLATION_PERMISSION
    granted = _set_accessed_dirty(cpu, sptep, spte, gfn, access)
    if granted == 0:
        return -2
    tlb_fill(cpu, gfn, level, granted)
    return page_entry(cpu, granted, gfn, level)


@inlined_kernel
def walk(cpu: Cpu, gfn: int, access: int) -> int:
    """Translate `gfn` for `access`: its entry, adjusted to the page (positive), or why not.

    What it grants is cached; the grant itself is returned, since the TLB may hold an older
    translation of the page at another size.
    """
    result = _walk_once(cpu, gfn, access)
    while result == -2 and not stopped(cpu):
        result = _walk_once(cpu, gfn, access)
    return result
