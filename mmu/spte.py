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
AD_DISABLED = 1 << 52  # software: the hardware keeps no A and D bits in this entry
SAVED_SHIFT = 54  # where an access-tracked entry keeps its R and X
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

# An MMIO entry is a misconfiguration, W without R, so that the guest exits at once; the memslots'
# generation lies around the gfn, in bits 10:3 and 62:52.
MMIO_VALUE = SPTE_W | SPTE_X
MMIO_GENERATION_BITS = 19
MMIO_GENERATION_MASK = (1 << MMIO_GENERATION_BITS) - 1
MMIO_LOW_SHIFT, MMIO_LOW_BITS, MMIO_HIGH_SHIFT = 3, 8, 52
MMIO_LOW_MASK = (1 << MMIO_LOW_BITS) - 1

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
# Nor may an MMIO entry: it has permissions that no frozen, empty or real one has.
assert FROZEN & RWX != MMIO_VALUE
assert MMU_PRESENT & (MMIO_LOW_MASK << MMIO_LOW_SHIFT | MMIO_VALUE) == 0
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
def is_mmio(spte: int) -> int:
    """The guest's access is a device's: emulated, if the entry's generation is the memslots'."""
    return spte & RWX == MMIO_VALUE


@inlined_kernel
def is_leaf(spte: int, level: int) -> int:
    """Maps memory, if it is present: level 1, or the large-page bit."""
    return level == LEVEL_4K or spte & PS != 0


@inlined_kernel
def pfn_of(spte: int) -> int:
    """The frame of a leaf, the table page of a non-leaf."""
    return (spte >> PFN_SHIFT) & PFN_MASK


@inlined_kernel
def is_access_tracked(spte: int) -> int:
    """Its permissions are put aside: the next access faults, and is noticed by that."""
    return spte & AD_DISABLED != 0 and spte & RWX == 0


@inlined_kernel
def dirty_bit_of(spte: int) -> int:
    """The bit whose loss makes the next write be noticed: D, or W where there is no D."""
    return SPTE_W if spte & AD_DISABLED != 0 else DIRTY


@inlined_kernel
def is_dirty(spte: int) -> int:
    """The guest may have written through this leaf since it was mapped: the host is to know.

    Without D, MMU-writable says it: a leaf that has it was writable once.  W itself, as in 6.12,
    would not do: ageing takes it without a lock, and while it told the host of the write the frame
    could be given to somebody else.  (6.13 tells the host when a leaf becomes writable.)
    """
    return spte & (MMU_WRITABLE if spte & AD_DISABLED != 0 else DIRTY) != 0


@inlined_kernel
def is_accessed(spte: int) -> int:
    """The page was used since it was marked old (is_accessed_spte)."""
    if spte & AD_DISABLED != 0:
        return spte & RWX != 0
    return spte & ACCESSED != 0


@inlined_kernel
def ladder_holds(spte: int) -> int:
    """W implies MMU-writable implies host-writable (KVM checks it since 5.17)."""
    if spte & SPTE_W != 0 and spte & MMU_WRITABLE == 0:
        return False
    return spte & MMU_WRITABLE == 0 or spte & HOST_WRITABLE != 0


@kernel
def needs_atomic_update(spte: int, level: int) -> int:
    """A present leaf that somebody may change although mmu_lock is held for write.

    `fast_page_fault` sets W where MMU-writable allows it; the hardware sets D where W is set;
    ageing takes no lock, and does more than clear a bit where there is no A
    (spte_needs_atomic_update, 6.15: losing an A bit is tolerated).
    """
    if not is_present(spte) or not is_leaf(spte, level):
        return False
    if spte & AD_DISABLED != 0:
        return True
    writable = spte & SPTE_W != 0
    return (not writable and spte & MMU_WRITABLE != 0) or (writable and spte & DIRTY == 0)


@inlined_kernel
def make_leaf(pfn: int, level: int, host_writable: int, executable: int, ad: int) -> int:
    """A leaf for a fault (make_spte): a read gets write permission too where the host allows it.

    D is set together with W, so that a first write needs no second update of the entry; `ad`: the
    hardware keeps A and D.
    """
    spte = MMU_PRESENT | MEMTYPE_WB | IPAT | ACCESSED | SPTE_R | pfn << PFN_SHIFT
    if level > LEVEL_4K:
        spte |= PS
    if executable:
        spte |= SPTE_X
    if host_writable:
        spte |= HOST_WRITABLE | MMU_WRITABLE | SPTE_W | DIRTY
    if not ad:
        spte = (spte & ~(ACCESSED | DIRTY)) | AD_DISABLED
    return spte


@inlined_kernel
def without_write(leaf: int) -> int:
    """A new leaf of a gfn whose writes are KVM's to see: host-writable at most."""
    return leaf & ~(SPTE_W | MMU_WRITABLE | (0 if leaf & AD_DISABLED != 0 else DIRTY))


@inlined_kernel
def mark_for_access_track(spte: int) -> int:
    """A present leaf as it is until its next access (mark_spte_for_access_track).

    Without A bits its R and X are put aside; W is taken and comes back by a fault.
    """
    if spte & AD_DISABLED == 0:
        return spte & ~ACCESSED
    if is_access_tracked(spte):
        return spte
    return (spte & ~RWX) | (spte & (SPTE_R | SPTE_X)) << SAVED_SHIFT


@inlined_kernel
def restore_access(spte: int) -> int:
    """An access-tracked leaf with its R and X as they were (restore_acc_track_spte)."""
    saved = spte >> SAVED_SHIFT & (SPTE_R | SPTE_X)
    return (spte & ~((SPTE_R | SPTE_X) << SAVED_SHIFT)) | saved


@inlined_kernel
def make_mmio(gfn: int, generation: int) -> int:
    """The entry of a gfn that no memslot covers (make_mmio_spte)."""
    low = (generation & MMIO_LOW_MASK) << MMIO_LOW_SHIFT
    high = (generation & MMIO_GENERATION_MASK) >> MMIO_LOW_BITS << MMIO_HIGH_SHIFT
    return MMIO_VALUE | low | gfn << PFN_SHIFT | high


@inlined_kernel
def mmio_generation(spte: int) -> int:
    """The memslots' generation when an MMIO entry was made, 19 bits."""
    high = spte >> MMIO_HIGH_SHIFT << MMIO_LOW_BITS
    return high | (spte >> MMIO_LOW_SHIFT & MMIO_LOW_MASK)


@inlined_kernel
def mmio_gfn(spte: int) -> int:
    """The gfn of an MMIO entry."""
    return pfn_of(spte)


@kernel
def make_nonleaf(page: int, ad: int) -> int:
    """An entry that links a table: all permissions, A set if there are A bits."""
    return MMU_PRESENT | RWX | (ACCESSED if ad else AD_DISABLED) | page << PFN_SHIFT


@kernel
def make_split_child(huge: int, child_level: int, pfn_offset: int, restore_executable: int) -> int:
    """One of the entries that take a huge leaf's place (make_small_spte): W, A and D as they were.

    A 4K child may be executed again where only the NX workaround forbade it; if it is
    access-tracked, as the huge leaf was, then from its next access on (make_spte_executable).
    """
    child = huge + (pfn_offset << PFN_SHIFT)
    if child_level == LEVEL_4K:
        child &= ~PS
        if restore_executable:
            child |= SPTE_X << SAVED_SHIFT if is_access_tracked(child) else SPTE_X
    return child


@inlined_kernel
def make_huge(small: int, pages: int, executable: int) -> int:
    """The leaf of `pages` pages that takes the place of a table with the leaf `small` in it.

    make_huge_spte, 6.13: permissions, A and D are that one's; what the others knew is told to the
    host when they go.  An access-tracked one keeps its X among the saved bits.
    """
    huge = (small | PS) & ~((pages - 1) << PFN_SHIFT)
    return huge if executable else huge & ~(SPTE_X | SPTE_X << SAVED_SHIFT)
