"""KVM_CLEAR_DIRTY_LOG: take bits from the log and protect their pages again, 64 at a time.

For `--dirty-log-mode manual` and `initially-set`.  The user's copy of the log says which bits; it
is the slot's second bitmap, where GET has put it.  What is to be saved is read after CLEAR, not
after GET: the bit that CLEAR takes may stand for a write between the two.

A bit is taken before its page is protected, as by a harvest, and the flush comes before the call
returns.
"""

from __future__ import annotations

from mmu.dirty_log import clear_in_roots, split_range
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs, request_all
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    BITMAP_BITS,
    C_DIRTY_LOG_MODE,
    C_HUGE_SPLIT,
    C_USE_PML,
    SLOT_BITMAP,
    SLOT_HARVEST,
    SLOT_PAGES,
    TABLE_CACHE_MAX,
)
from mmu.machine.lock import mmu_write_lock, mmu_write_unlock, slots_lock, slots_unlock
from mmu.machine.primitives import config, fetch_and, read_once, stopped
from mmu.memslots import is_logged, is_shown, slot_base, slot_word
from mmu.pages import maybe_free_deferred, topup_table_cache
from mmu.policy import LOG_INITIALLY_SET, SPLIT_EAGER
from mmu.roots import next_valid_root
from mmu.spte import DIRTY, LEVEL_2M, SPTE_W
from mmu.tdp.log import write_protect_huge
from mmu.tdp_iter import pages_of, round_gfn

CLEAR_PAGES = 64  # what the call counts in, and protects at a time: a word of the kernel's bitmap
CLEARED = 0
NOT_LOGGED = -2  # -ENOENT
INVALID = -22  # -EINVAL


@kernel
def _take_bits(cpu: Cpu, slot: int, word: int, end: int) -> int:
    """Take from a word of the bitmap what the user names; the bits that were really set.

    Of pages below `end` of the slot.  Another bit was taken by somebody else since the copy was
    made: its page is protected already.
    """
    if word * BITMAP_BITS >= end:
        return 0
    wanted = read_once(cpu, config(cpu, slot + SLOT_HARVEST) + word)
    if wanted == 0:
        return 0
    return wanted & fetch_and(cpu, config(cpu, slot + SLOT_BITMAP) + word, ~wanted)


@kernel
def _lowest(mask: int) -> int:
    """Number of the lowest bit that is set; there is one."""
    bit = 0
    while (mask >> bit) & 1 == 0:
        bit += 1
    return bit


@kernel
def _highest(mask: int) -> int:
    """Number of the highest bit that is set; there is one."""
    bit = 0
    while mask >> bit > 1:
        bit += 1
    return bit


@kernel
def _protect_huge(cpu: Cpu, first: int, last: int) -> None:
    """Huge pages that hold gfns of [first, last]: nobody protected them when logging began.

    They are split, or lose W, so that the next write splits them.  64 pages may straddle a border
    of 2M, so each block is looked at.  Splitting may drop and retake mmu_lock: the bits are taken
    already, but the caller has not returned yet, so nobody relies on them.
    """
    if config(cpu, C_HUGE_SPLIT) == SPLIT_EAGER:
        split_range(cpu, first, last + 1)
    root = next_valid_root(cpu, 0)
    while root != 0 and not stopped(cpu):
        for gfn in range(round_gfn(cpu, first, LEVEL_2M), last + 1, pages_of(cpu, LEVEL_2M)):
            write_protect_huge(cpu, root, gfn)
        root = next_valid_root(cpu, root)


@kernel
def _protect_again(cpu: Cpu, base: int, low: int, high: int) -> None:
    """Have the next write of each page in a mask of 64 noticed (enable_log_dirty_pt_masked).

    `low` and `high` are the mask's halves, for the gfns from `base` on; a bit is set.
    """
    if config(cpu, C_DIRTY_LOG_MODE) == LOG_INITIALLY_SET:
        first = _lowest(low) if low != 0 else BITMAP_BITS + _lowest(high)
        last = BITMAP_BITS + _highest(high) if high != 0 else _highest(low)
        _protect_huge(cpu, base + first, base + last)
    bits = DIRTY if config(cpu, C_USE_PML) else SPTE_W
    clear_in_roots(cpu, base, low, bits)
    clear_in_roots(cpu, base + BITMAP_BITS, high, bits)


@kernel
def clear_dirty_log(cpu: Cpu, number: int, first_page: int, pages: int) -> int:
    """Take from the log of memslot `number` what the user's copy names.

    kvm_clear_dirty_log_protect, for `pages` pages from the slot's `first_page` on: multiples of
    64, but the range may end with the slot.  Returns CLEARED, INVALID or NOT_LOGGED.
    """
    slot = slot_word(cpu, number)
    end = first_page + pages
    slot_pages = config(cpu, slot + SLOT_PAGES)
    if first_page % CLEAR_PAGES != 0 or end > slot_pages:
        return INVALID
    if pages % CLEAR_PAGES != 0 and end != slot_pages:
        return INVALID
    slots_lock(cpu)
    if not is_logged(cpu, slot):
        slots_unlock(cpu)
        return NOT_LOGGED
    request_all(cpu)  # drains PML buffers
    topup_table_cache(cpu, TABLE_CACHE_MAX)
    base = slot_base(cpu, slot)
    flush = 0
    mmu_write_lock(cpu)
    for page in range(first_page, end, CLEAR_PAGES):
        if stopped(cpu):
            break
        low = _take_bits(cpu, slot, page // BITMAP_BITS, end)
        high = _take_bits(cpu, slot, page // BITMAP_BITS + 1, end)
        if low | high != 0 and is_shown(cpu, slot):
            _protect_again(cpu, base + page, low, high)
            flush = 1
    mmu_write_unlock(cpu)
    if flush:
        flush_remote_tlbs(cpu, base, EVERYTHING)
    maybe_free_deferred(cpu)
    slots_unlock(cpu)
    return CLEARED
