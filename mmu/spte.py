"""What 64 bits mean: predicates and constructors of shadow page-table entries, nothing else.

EPT format as of 6.8 (arch/x86/kvm/mmu/spte.h): non-present is 0, frozen is 0x5a0, bit 63 is never
set.  Functions take and return plain integers; none of them touches memory.
"""

from __future__ import annotations

from mmu.machine.kernel import inlined_kernel, kernel

SPTE_R = 1 << 0
SPTE_W = 1 << 1
SPTE_X = 1 << 2
RWX = SPTE_R | SPTE_W | SPTE_X
MEMTYPE_WB = 6 << 3
IPAT = 1 << 6  # ignore the guest's PAT: leafs only
PS = 1 << 7  # a leaf above level 1
ACCESSED = 1 << 8
DIRTY = 1 << 9
MMU_PRESENT = 1 << 11  # software: the one test for "shadow-present"
PFN_SHIFT = 12
PFN_MASK = (1 << 40) - 1
HOST_WRITABLE = 1 << 57  # memslot and host mapping allow writing
MMU_WRITABLE = 1 << 58  # no write protection but dirty logging's: W may come back without a lock

NONPRESENT = 0
FROZEN = 0x5A0  # REMOVED_SPTE: somebody owns this entry, everybody else retries

# What a freed table is filled with: looks like nothing that anybody may meet in a table.
POISON = 0x6B6B_6B6B_6B60_0000

# What the guest wants to do with a page; the same bits as in the entry.
ACCESS_READ = SPTE_R
ACCESS_WRITE = SPTE_W
ACCESS_EXECUTE = SPTE_X

LEVEL_4K = 1
LEVEL_2M = 2
LEVEL_1G = 3  # KVM_MAX_HUGEPAGE_LEVEL

# A frozen entry must look like nothing else: not present, no permissions, no frame, not empty.
assert FROZEN & MMU_PRESENT == 0
assert FROZEN & RWX == 0
assert FROZEN >> PFN_SHIFT == 0
assert FROZEN != NONPRESENT
assert POISON & (MMU_PRESENT | RWX) == 0
assert POISON not in (NONPRESENT, FROZEN)
# Taking A, D or W from a real entry must never give a frozen one.
assert MMU_PRESENT & (ACCESSED | DIRTY | SPTE_W) == 0


@inlined_kernel
def is_present(spte: int) -> int:
    """Shadow-present: KVM put something there (access-tracked entries included)."""
    return spte & MMU_PRESENT != 0


@inlined_kernel
def is_frozen(spte: int) -> int:
    """Owned by somebody who will replace it."""
    return spte == FROZEN


@inlined_kernel
def is_poison(spte: int) -> int:
    """Read from a table that was freed."""
    return spte == POISON


@inlined_kernel
def is_leaf(spte: int, level: int) -> int:
    """Maps memory, if it is present: level 1, or the large-page bit."""
    return level == LEVEL_4K or spte & PS != 0


@inlined_kernel
def pfn_of(spte: int) -> int:
    """The frame of a leaf, the table page of a non-leaf."""
    return (spte >> PFN_SHIFT) & PFN_MASK


@inlined_kernel
def ladder_holds(spte: int) -> int:
    """W implies MMU-writable implies host-writable (KVM checks it since 5.17)."""
    if spte & SPTE_W != 0 and spte & MMU_WRITABLE == 0:
        return False
    return spte & MMU_WRITABLE == 0 or spte & HOST_WRITABLE != 0


@kernel
def needs_atomic_update(spte: int, level: int) -> int:
    """A present leaf that somebody may change although mmu_lock is held for write.

    `fast_page_fault` sets W where MMU-writable allows it; the hardware sets D where W is set
    (spte_needs_atomic_update, 6.15: losing an A bit is tolerated).
    """
    if not is_present(spte) or not is_leaf(spte, level):
        return False
    writable = spte & SPTE_W != 0
    return (not writable and spte & MMU_WRITABLE != 0) or (writable and spte & DIRTY == 0)


@inlined_kernel
def make_leaf(pfn: int, level: int, host_writable: int, executable: int) -> int:
    """A leaf for a fault (make_spte): a read gets write permission too where the host allows it.

    D is set together with W, so that a first write needs no second update of the entry.
    """
    spte = MMU_PRESENT | MEMTYPE_WB | IPAT | ACCESSED | SPTE_R | pfn << PFN_SHIFT
    if level > LEVEL_4K:
        spte |= PS
    if executable:
        spte |= SPTE_X
    if host_writable:
        spte |= HOST_WRITABLE | MMU_WRITABLE | SPTE_W | DIRTY
    return spte


@kernel
def make_nonleaf(page: int) -> int:
    """An entry that links a table: all permissions, A set (make_nonleaf_spte)."""
    return MMU_PRESENT | RWX | ACCESSED | page << PFN_SHIFT


@kernel
def make_split_child(huge: int, child_level: int, pfn_offset: int, restore_executable: int) -> int:
    """One of the entries that take a huge leaf's place (make_small_spte): W, A and D as they were.

    A 4K child may be executed again where only the NX workaround forbade it.
    """
    child = huge + (pfn_offset << PFN_SHIFT)
    if child_level == LEVEL_4K:
        child &= ~PS
        if restore_executable:
            child |= SPTE_X
    return child
