"""NX recovery: tables that exist only because of an execution make room for huge pages again.

What the kernel thread "kvm-nx-lpage-recovery" does once a period (kvm_recover_nx_huge_pages,
6.18): with mmu_lock held for read it takes tables off possible_nx_huge_pages and zaps each by the
entry that links it.  The next access maps a huge page there, the next execution splits it again.
"""

from __future__ import annotations

from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.conditions import PROGRESS_RECOVERY, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_NX_HUGE_PAGES,
    N_NX_RECOVERED,
    N_YIELDS,
    NX_LIST,
    SP_GFN,
    SP_NX_DISALLOWED,
    STAT_NX_SPLITS,
)
from mmu.machine.lock import (
    HELD_MMU_READ,
    HELD_RCU,
    assert_held,
    mmu_read_lock,
    mmu_read_unlock,
    pages_lock,
    pages_unlock,
)
from mmu.machine.primitives import config, cycles, hint, read_once, stopped, tally
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.memslots import is_logged, slot_of
from mmu.nx_list import unaccount_nx_huge_page
from mmu.pages import maybe_free_deferred, record_of
from mmu.tdp.zap import zap_sp
from mmu.tdp_mmu import relax_mmu_lock, resched_wanted

NOTHING_LEFT = -1


@inlined_kernel
def _is_worth_it(cpu: Cpu, gfn: int) -> int:
    """Whether a huge page could be mapped: logging would have it small again at once.

    The answer may be old, since nobody waits for this thread when logging is switched: then a
    table is zapped in vain, or stays until logging ends.
    """
    slot = abs(slot_of(cpu, gfn))
    return int(slot == 0 or not is_logged(cpu, slot))


@kernel
def _recover_one(cpu: Cpu) -> int:
    """Take the first table off the list and zap it; 1 if a flush is owed for it, 0 if not.

    It leaves the list whatever comes next: a table that cannot be zapped must not be the first one
    for ever.  Others may remove it as soon as the pages lock is released.  Its number stays good
    nevertheless: it was listed in this RCU section, so it had not been freed when that began, and
    is not before that ends.  What its record says of it is read while it is listed.
    """
    assert_held(cpu, HELD_MMU_READ)
    assert_held(cpu, HELD_RCU)
    pages_lock(cpu)
    page = read_once(cpu, NX_LIST)
    gfn = 0
    if page != 0:
        gfn = read_once(cpu, record_of(cpu, page) + SP_GFN)
        unaccount_nx_huge_page(cpu, page)
    pages_unlock(cpu)
    if page == 0:
        return NOTHING_LEFT
    zapped = zap_sp(cpu, page) if _is_worth_it(cpu, gfn) else 0
    # As kvm_recover_nx_huge_pages warns: else the next round would take the same table again.
    listed = hint(cpu, record_of(cpu, page) + SP_NX_DISALLOWED) != 0
    warn(cpu, listed and not stopped(cpu), PROGRESS_RECOVERY, page, gfn, 0)
    return zapped


@inlined_kernel
def _flush_owed(cpu: Cpu, owed: int) -> None:
    """Still in the RCU section that the tables were zapped in: they may be freed after it."""
    if owed:
        flush_remote_tlbs(cpu, 0, EVERYTHING)


@kernel
def recover_nx_huge_pages(cpu: Cpu, ratio: int) -> int:
    """Give one in `ratio` of the tables back, at least one (0: none); how many were zapped."""
    if ratio == 0 or config(cpu, C_NX_HUGE_PAGES) == 0:
        return 0
    to_zap = (read_once(cpu, STAT_NX_SPLITS) + ratio - 1) // ratio
    recovered = 0
    flush = 0
    mmu_read_lock(cpu)
    rcu_read_lock(cpu)
    while to_zap > 0 and not stopped(cpu):
        zapped = _recover_one(cpu)
        if zapped == NOTHING_LEFT:
            break
        recovered += zapped
        flush |= zapped
        to_zap -= 1
        if resched_wanted(cpu, cycles(cpu)):
            # Pays first: what was zapped may be freed as soon as RCU is left.
            _flush_owed(cpu, flush)
            rcu_read_unlock(cpu)
            relax_mmu_lock(cpu, 0)
            rcu_read_lock(cpu)
            flush = 0
            tally(cpu, N_YIELDS, 1)
    _flush_owed(cpu, flush)
    rcu_read_unlock(cpu)
    mmu_read_unlock(cpu)
    maybe_free_deferred(cpu)
    tally(cpu, N_NX_RECOVERED, recovered)
    return recovered
