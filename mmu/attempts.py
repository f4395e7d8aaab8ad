"""What a fault that is sent back counts, so that oracle `progress` can tell bad luck from a bug.

Nothing here is a step, and all of it runs only where a fault did not get its page: the counts are
the actor's own words, and shared words are looked at for advice.  What is too much stands in
`harness.oracles.limits`.
"""

from __future__ import annotations

from mmu.machine.conditions import PROGRESS_REASON, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    ELSEWHERE_RETRIES,
    ELSEWHERE_SEQ,
    IN_PROGRESS,
    INVALIDATE_SEQ,
    LOCKED_GFN,
    LOCKED_RETRIES,
    LOCKED_SEQ,
    N_ACCESSES,
    N_ELSEWHERE_MAX,
    N_LOCKED_MAX,
    N_MMIO_EXITS,
    N_OBSOLETE_MAX,
    N_SPURIOUS_MAX,
    OBSOLETE_FAULTS,
    RANGE_END,
    RANGE_START,
    SPURIOUS_DONE,
    SPURIOUS_FAULTS,
)
from mmu.machine.primitives import hint, own, set_own, stopped


@kernel
def _covered(cpu: Cpu, gfn: int) -> int:
    """An invalidation of the gfn is under way, as far as one can see from here."""
    inside = hint(cpu, RANGE_START) <= gfn and gfn < hint(cpu, RANGE_END)
    return int(inside and hint(cpu, IN_PROGRESS) != 0)


@kernel
def note_early_retry(cpu: Cpu, gfn: int, seq: int) -> None:
    """A fault was sent back without mmu_lock, for an invalidation that may not be its business."""
    if _covered(cpu, gfn):
        return
    retries = own(cpu, ELSEWHERE_RETRIES) + 1 if own(cpu, ELSEWHERE_SEQ) == seq else 1
    set_own(cpu, ELSEWHERE_SEQ, seq)
    set_own(cpu, ELSEWHERE_RETRIES, retries)
    set_own(cpu, N_ELSEWHERE_MAX, max(own(cpu, N_ELSEWHERE_MAX), retries))


@kernel
def _note_locked_retry(cpu: Cpu, gfn: int, seq: int) -> None:
    """An invalidation that covers the gfn sent the fault back; the sequence says which one."""
    same = own(cpu, LOCKED_SEQ) == seq and own(cpu, LOCKED_GFN) == gfn
    retries = own(cpu, LOCKED_RETRIES) + 1 if same else 1
    set_own(cpu, LOCKED_SEQ, seq)
    set_own(cpu, LOCKED_GFN, gfn)
    set_own(cpu, LOCKED_RETRIES, retries)
    set_own(cpu, N_LOCKED_MAX, max(own(cpu, N_LOCKED_MAX), retries))


@kernel
def note_stale(cpu: Cpu, gfn: int, seq: int, obsolete: int) -> None:
    """A fault was sent back under mmu_lock, where invalidations stand still: there is a reason."""
    if obsolete:
        faults = own(cpu, OBSOLETE_FAULTS) + 1
        set_own(cpu, OBSOLETE_FAULTS, faults)
        set_own(cpu, N_OBSOLETE_MAX, max(own(cpu, N_OBSOLETE_MAX), faults))
        return
    now = hint(cpu, INVALIDATE_SEQ)
    if _covered(cpu, gfn):
        _note_locked_retry(cpu, gfn, now)
    else:
        warn(cpu, now == seq and not stopped(cpu), PROGRESS_REASON, gfn, seq, now)


@kernel
def note_spurious(cpu: Cpu) -> None:
    """The entry allowed the access already: the next walk must find it."""
    done = own(cpu, N_ACCESSES) + own(cpu, N_MMIO_EXITS)
    faults = own(cpu, SPURIOUS_FAULTS) + 1 if own(cpu, SPURIOUS_DONE) == done else 1
    set_own(cpu, SPURIOUS_DONE, done)
    set_own(cpu, SPURIOUS_FAULTS, faults)
    set_own(cpu, N_SPURIOUS_MAX, max(own(cpu, N_SPURIOUS_MAX), faults))
