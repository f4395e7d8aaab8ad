"""Dirty logging: the bitmaps, who sets bits, switching it on and off, KVM_GET_DIRTY_LOG.

A bit is set by whoever makes a page writable (fault, fast fault) and by draining the vCPUs' PML
buffers; the harvest takes a word of bits with one exchange and only then takes D (or W) from the
entries of these gfns.  In the other order a write between the two would be reported by nobody.

That is `--dirty-log-mode get`.  `manual`: GET copies the bitmap and changes nothing, clearing is a
call of its own (`mmu.dirty_clear`).  `initially-set`: besides, everything counts as written at
first, so nothing is protected before it is cleared, huge pages neither.
"""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs, request_all, synchronize_srcu
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    BITMAP_BITS,
    C_DIRTY_LOG_MODE,
    C_GFN_MASK,
    C_HUGE_SPLIT,
    C_PML,
    C_USE_PML,
    LOGGING,
    N_DIRTY_HARVESTED,
    PML_INDEX,
    PML_PUBLISHED,
    SLOT_BITMAP,
    SLOT_HARVEST,
    SLOT_HOME,
    SLOT_LOGGED,
    SLOT_PAGES,
    TABLE_CACHE_MAX,
)
from mmu.machine.lock import (
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
    slots_lock,
    slots_unlock,
)
from mmu.machine.primitives import (
    config,
    emit,
    fetch_add,
    fetch_or,
    own,
    poke,
    read_once,
    set_own,
    stopped,
    store_release,
    tally,
    write_once,
    xchg,
)
from mmu.memslots import is_logged, is_shown, slot_base, slot_of, slot_word
from mmu.pages import maybe_free_deferred, topup_table_cache
from mmu.policy import LOG_GET, LOG_INITIALLY_SET, SPLIT_EAGER
from mmu.roots import next_root, next_valid_root
from mmu.spte import DIRTY, LEVEL_2M, LEVEL_4K, SPTE_W
from mmu.tdp.log import clear_bits_in_slot, clear_bits_masked
from mmu.tdp.recover import recover_huge_pages
from mmu.tdp.split import try_split_huge_pages


@kernel
def mark_page_dirty(cpu: Cpu, slot: int, gfn: int) -> None:
    """Set the page's bit (mark_page_dirty_in_slot).

    One atomic or: a harvest may exchange the word at the same moment, and then the bit is in
    its hands or in the next one's.
    """
    relative = (gfn - config(cpu, slot + SLOT_HOME)) & config(cpu, C_GFN_MASK)
    word = config(cpu, slot + SLOT_BITMAP) + relative // BITMAP_BITS
    fetch_or(cpu, word, 1 << (relative % BITMAP_BITS))


@kernel
def publish_pml(cpu: Cpu) -> None:
    """Move what the PML buffer holds to the bitmaps, leaving the hardware's index alone.

    At quiet points, which are the harness's and no VM exits: nothing stays hidden from a harvest
    meanwhile, and the number of PML-full exits does not depend on the scheduler.
    """
    buffer = config(cpu, C_PML)
    for i in range(own(cpu, PML_PUBLISHED), own(cpu, PML_INDEX)):
        gfn = own(cpu, buffer + i)
        slot = abs(slot_of(cpu, gfn))
        if slot != 0 and is_logged(cpu, slot):
            mark_page_dirty(cpu, slot, gfn)
    set_own(cpu, PML_PUBLISHED, own(cpu, PML_INDEX))


@kernel
def drain_pml(cpu: Cpu) -> None:
    """At every VM exit: empty the buffer into the bitmaps (vmx_flush_pml_buffer)."""
    if own(cpu, PML_INDEX) == 0:
        return
    publish_pml(cpu)
    set_own(cpu, PML_INDEX, 0)
    set_own(cpu, PML_PUBLISHED, 0)


@kernel
def _bitmap_words(cpu: Cpu, slot: int) -> int:
    """Words of the slot's bitmap."""
    return (config(cpu, slot + SLOT_PAGES) + BITMAP_BITS - 1) // BITMAP_BITS


@kernel
def _protect_slot(cpu: Cpu, slot: int) -> None:
    """Take what lets writes go unnoticed from every leaf of the slot (read lock held).

    With PML huge leafs lose W first, then all leafs D.  In the order of 6.8 a write in between sets
    D of a huge leaf again; and if that is split, for an execution, while it has W, its children
    have W and D, and nobody ever notices that they are written.
    """
    base = slot_base(cpu, slot)
    end = base + config(cpu, slot + SLOT_PAGES)
    root = next_root(cpu, 0, 1)
    while root != 0 and not stopped(cpu):
        if config(cpu, C_USE_PML):
            clear_bits_in_slot(cpu, root, base, end, LEVEL_2M, SPTE_W)
            clear_bits_in_slot(cpu, root, base, end, LEVEL_4K, DIRTY)
        else:
            clear_bits_in_slot(cpu, root, base, end, LEVEL_4K, SPTE_W)
        root = next_root(cpu, root, 1)


@kernel
def split_range(cpu: Cpu, base: int, end: int) -> int:
    """Split all huge pages of [base, end), in every valid root; 0, or SPLIT_FAILED.

    mmu_lock is held in either mode, and may be dropped and retaken in it.
    """
    result = 0
    root = next_root(cpu, 0, 1)
    while root != 0 and not stopped(cpu):
        result = min(result, try_split_huge_pages(cpu, root, base, end, LEVEL_4K))
        root = next_root(cpu, root, 1)
    return result


@kernel
def _begin_bitmap(cpu: Cpu, slot: int) -> None:
    """Logging begins with an empty bitmap, or with a full one; nobody else sets bits yet."""
    bitmap = config(cpu, slot + SLOT_BITMAP)
    pages = config(cpu, slot + SLOT_PAGES)
    full = config(cpu, C_DIRTY_LOG_MODE) == LOG_INITIALLY_SET
    for word in range(_bitmap_words(cpu, slot)):
        rest = min(pages - word * BITMAP_BITS, BITMAP_BITS)
        poke(cpu, bitmap + word, (1 << rest) - 1 if full else 0)


@kernel
def enable_dirty_log(cpu: Cpu, number: int) -> int:
    """Start logging memslot `number` (kvm_mmu_slot_apply_flags); 0, or SPLIT_FAILED.

    First the flag; then every vCPU leaves the guest (PML is on when it enters again) and ends
    the exit that it handles, since a fault that has read the old flag would install a writable
    leaf behind our back; then the leafs; then an unconditional flush before the caller hears.
    Where everything counts as written there is nothing to protect yet; where the memslot is
    nowhere, nothing at all: its log begins all the same, and goes on when it comes back.
    """
    slot = slot_word(cpu, number)
    slots_lock(cpu)
    if is_logged(cpu, slot):
        slots_unlock(cpu)
        return 0
    emit(cpu, events.DIRTY_LOG_CHANGED, number, 1, 0)
    _begin_bitmap(cpu, slot)
    store_release(cpu, slot + SLOT_LOGGED, 1)
    fetch_add(cpu, LOGGING, config(cpu, C_USE_PML))
    synchronize_srcu(cpu)
    if config(cpu, C_DIRTY_LOG_MODE) == LOG_INITIALLY_SET or not is_shown(cpu, slot):
        slots_unlock(cpu)
        return 0
    topup_table_cache(cpu, TABLE_CACHE_MAX)
    mmu_read_lock(cpu)
    result = 0
    if config(cpu, C_HUGE_SPLIT) == SPLIT_EAGER:
        base = slot_base(cpu, slot)
        result = split_range(cpu, base, base + config(cpu, slot + SLOT_PAGES))
    _protect_slot(cpu, slot)
    mmu_read_unlock(cpu)
    flush_remote_tlbs(cpu, 0, EVERYTHING)
    maybe_free_deferred(cpu)
    slots_unlock(cpu)
    return result


@kernel
def _recover_slot(cpu: Cpu, slot: int) -> None:
    """Put the slot's huge pages together again in every valid root (kvm_mmu_recover_huge_pages)."""
    if not is_shown(cpu, slot):
        return
    mmu_read_lock(cpu)
    root = next_root(cpu, 0, 1)
    while root != 0 and not stopped(cpu):
        recover_huge_pages(cpu, root, slot)
        root = next_root(cpu, root, 1)
    mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)


@kernel
def disable_dirty_log(cpu: Cpu, number: int) -> None:
    """Stop logging memslot `number`, then let its memory be mapped huge again.

    Only when nobody handles an exit any more that began while the slot was logged: such a fault
    could still want, and count on, a 4K leaf.
    """
    slot = slot_word(cpu, number)
    slots_lock(cpu)
    if is_logged(cpu, slot):
        emit(cpu, events.DIRTY_LOG_CHANGED, number, 0, 0)
        store_release(cpu, slot + SLOT_LOGGED, 0)
        fetch_add(cpu, LOGGING, -config(cpu, C_USE_PML))
        synchronize_srcu(cpu)
        _recover_slot(cpu, slot)
    slots_unlock(cpu)


@kernel
def _pages_in(mask: int) -> int:
    """Bits set."""
    pages = 0
    rest = mask
    while rest != 0:
        rest &= rest - 1
        pages += 1
    return pages


@kernel
def clear_in_roots(cpu: Cpu, first_gfn: int, mask: int, bits: int) -> None:
    """Take `bits` from the leafs of these gfns in every valid root (write lock held).

    Nobody puts a root while the lock is held for write, so none needs a reference.
    """
    root = next_valid_root(cpu, 0)
    while root != 0 and not stopped(cpu):
        clear_bits_masked(cpu, root, first_gfn, mask, bits)
        root = next_valid_root(cpu, root)


@kernel
def _copy_bitmap(cpu: Cpu, slot: int, number: int) -> int:
    """GET where CLEAR is a call of its own: hand the bitmap out as it is; pages that it names.

    No lock, no flush: bits may be set meanwhile, and none is taken.
    """
    bitmap = config(cpu, slot + SLOT_BITMAP)
    harvest = config(cpu, slot + SLOT_HARVEST)
    base = slot_base(cpu, slot)
    pages = 0
    for word in range(_bitmap_words(cpu, slot)):
        mask = read_once(cpu, bitmap + word)
        write_once(cpu, harvest + word, mask)
        emit(cpu, events.DIRTY_LOG_RETURNED, base + word * BITMAP_BITS, mask, number)
        pages += _pages_in(mask)
    return pages


@kernel
def get_dirty_log(cpu: Cpu, number: int) -> int:
    """KVM_GET_DIRTY_LOG: return the bitmap; how many pages it names.

    In mode `get` it starts over too.  The harvest lies in the slot's second bitmap, as in the
    kernel.  PML buffers are drained by making every vCPU leave the guest.  The flush comes after
    the lock is dropped and before anything is handed out.
    """
    slot = slot_word(cpu, number)
    slots_lock(cpu)
    request_all(cpu)
    if config(cpu, C_DIRTY_LOG_MODE) != LOG_GET:
        pages = _copy_bitmap(cpu, slot, number)
        slots_unlock(cpu)
        tally(cpu, N_DIRTY_HARVESTED, pages)
        return pages
    bits = DIRTY if config(cpu, C_USE_PML) else SPTE_W
    base = slot_base(cpu, slot)
    shown = is_shown(cpu, slot)
    bitmap = config(cpu, slot + SLOT_BITMAP)
    harvest = config(cpu, slot + SLOT_HARVEST)
    pages = 0
    mmu_write_lock(cpu)
    for word in range(_bitmap_words(cpu, slot)):
        if stopped(cpu):
            break
        mask = 0
        if read_once(cpu, bitmap + word) != 0:
            mask = xchg(cpu, bitmap + word, 0)
            if shown:
                clear_in_roots(cpu, base + word * BITMAP_BITS, mask, bits)
            pages += _pages_in(mask)
        write_once(cpu, harvest + word, mask)
        emit(cpu, events.DIRTY_LOG_RETURNED, base + word * BITMAP_BITS, mask, number)
    mmu_write_unlock(cpu)
    if pages != 0:
        # Also where no entry had anything to lose: ageing may have taken W, and it never flushes.
        flush_remote_tlbs(cpu, base, EVERYTHING)
    slots_unlock(cpu)
    tally(cpu, N_DIRTY_HARVESTED, pages)
    return pages
