"""What the model asserts about itself while it runs, and `warn`, which reports a failure.

Each condition belongs to one oracle.  A failed one goes to the observer if there is one, else to
the actor's violation record in shared memory, so that a stress run reports it.  The first
failure of an actor is kept whole; later ones are counted.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    VIOLATION_A,
    VIOLATION_B,
    VIOLATION_C,
    VIOLATION_CONDITION,
    VIOLATIONS,
)
from mmu.machine.primitives import announce, observe, own, set_own, tally

# Each has its oracle and a sentence below; {a}, {b}, {c} are the values that `warn` was given.
# Beside Python's formats there are `step` (a kind), `held` (a mask of locks) and `owner` (a host
# page, or nobody): harness/oracles/sentences.py.
(
    MAPPING_OWNER,
    MAPPING_PERMISSION,
    MEMORY_OLDER,
    TRANSITION_PFN,
    TRANSITION_LADDER,
    TRANSITION_LEVEL,
    TRANSITION_NONPRESENT,
    FROZEN_CHANGED,
    LOCK_MODE,
    LOCK_ORDER,
    LOCK_WRITERS,
    LOCK_SLEEP,
    LOCK_HELD,
    FROZEN_LOST,
    LIFETIME_OUTSIDE,
    LEAK_EXHAUSTED,
    DIRTY_LOST,
    LIFETIME_POISON,
    LIFETIME_WALK,
    FRAME_MARKED,
    FRAME_DOUBLE,
    MAPPING_MMIO,
    ZAP_NONPRESENT,
    ROOT_UNREFERENCED,
    ROOT_REFERENCES,
    ROOT_VALID,
    ROOT_INVALID_USED,
    LEAK_ROOT,
    BALANCE_IN_PROGRESS,
    BALANCE_USERS,
    LIFETIME_FREED,
    TLB_TABLE,
    TLB_FRAME,
    TLB_RANGE,
    DIRTY_DROPPED,
    TRANSITION_MMIO,
    MAPPING_TRACKED,
    MAPPING_SLOT,
    LOGGED_RECOVERY,
    DIRTY_MISSED,
    DIRTY_NAMED,
    LIFETIME_SECTION,
    ROOT_CHAIN,
    ROOT_POPULATED,
    ROOT_SCHEDULED_TWICE,
    BALANCE_ACTIVE,
    PROGRESS_YIELD,
    PROGRESS_REASON,
    TRANSITION_TAKEN,
    PROGRESS_RECOVERY,
    PROGRESS_ZAP,
) = range(1, 52)

CONDITIONS: dict[int, tuple[str, str]] = {
    MAPPING_OWNER: (
        "mapping",
        "gfn {a:#x} was accessed in frame {b:#x}, whose owner is gfn {c:#x}",
    ),
    MAPPING_PERMISSION: ("mapping", "gfn {a:#x} was reached with access {b}, its entry allows {c}"),
    MEMORY_OLDER: ("memory", "gfn {a:#x} holds value {b}, but {c} was seen there before"),
    TRANSITION_PFN: (
        "transitions",
        "leaf at word {a} changed its pfn while present ({b:#x} to {c:#x})",
    ),
    TRANSITION_LADDER: (
        "transitions",
        "entry at word {a}: {b:#x} to {c:#x} breaks W => MMU-writable => host-writable",
    ),
    TRANSITION_LEVEL: (
        "transitions",
        "gfn {a:#x}: level {b} entry {c:#x} has a wrong level or alignment",
    ),
    TRANSITION_NONPRESENT: (
        "transitions",
        "entry at word {a} went from non-present {b:#x} to non-present {c:#x}",
    ),
    FROZEN_CHANGED: ("frozen", "frozen entry at word {a} was about to be changed to {c:#x}"),
    FROZEN_LOST: (
        "frozen",
        "entry at word {a} was changed to {b:#x} while somebody else had frozen it",
    ),
    LIFETIME_POISON: (
        "lifetime",
        "table page {c} was written at word {a} after it had been freed: it holds {b:#x}",
    ),
    LIFETIME_WALK: (
        "lifetime",
        "gfn {a:#x}: a walk at level {c} read word {b}, which belongs to a freed table",
    ),
    LIFETIME_FREED: (
        "lifetime",
        "a step ({b:step}) touched word {a} of table page {c}, which was freed",
    ),
    TLB_TABLE: ("tlb", "table page {a} may be freed while vCPU {b} in the guest can still walk it"),
    TLB_FRAME: ("tlb", "frame {a:#x} was freed while vCPU {b} in the guest could still use it"),
    TLB_RANGE: (
        "tlb",
        "an invalidation had started, and vCPU {b} in the guest could still use gfn {a:#x}",
    ),
    FRAME_MARKED: (
        "frames",
        "gfn {a:#x}: frame {b:#x} was marked dirty or accessed, but it belongs to {c:owner}",
    ),
    FRAME_DOUBLE: (
        "frames",
        "frame {a:#x} was given to host page {b:#x} while it belonged to {c:owner}",
    ),
    MAPPING_MMIO: (
        "mapping",
        "gfn {a:#x} was emulated as a device, but the memslot at word {b} covers it",
    ),
    TRANSITION_MMIO: (
        "transitions",
        "entry at word {a} went from present {b:#x} to MMIO {c:#x}",
    ),
    MAPPING_TRACKED: (
        "mapping",
        "gfn {a:#x} is write-tracked, and {b} writes of it landed that its trackers do not know of",
    ),
    ZAP_NONPRESENT: (
        "transitions",
        "entry at word {a} (gfn {c:#x}) was to be zapped while it was not present ({b:#x})",
    ),
    ROOT_UNREFERENCED: ("roots", "root page {a} was zapped with {b} references: nobody keeps it"),
    ROOT_REFERENCES: ("roots", "root page {a} was put with {b} references (case {c})"),
    ROOT_VALID: ("roots", "root page {a} lost its last reference while it was valid"),
    ROOT_INVALID_USED: ("roots", "root page {a} is invalid, and somebody who does not zap uses it"),
    LEAK_ROOT: ("leaks", "root page {a} was freed while entry {b} was {c:#x}"),
    BALANCE_IN_PROGRESS: ("balance", "{b} invalidations are in progress"),
    BALANCE_USERS: ("balance", "a VM with {b} users was destroyed or created"),
    LIFETIME_OUTSIDE: (
        "lifetime",
        "a step ({b:step}) was about to touch word {a}, outside the block",
    ),
    LEAK_EXHAUSTED: ("leaks", "gfn {a:#x}: no page-table page is left, {b} were handed out"),
    LOCK_MODE: ("locks", "a function that needs {a:held} ran while its actor held {b:held}"),
    LOCK_ORDER: ("locks", "{a:held} was taken while {b:held} was held"),
    LOCK_WRITERS: ("locks", "mmu_lock has two exclusive holders (word {a}): {b} and {c}"),
    LOCK_SLEEP: ("locks", "something that may sleep ran while {b:held} was held"),
    LOCK_HELD: ("locks", "an actor came to rest while it held {b:held}"),
    LIFETIME_SECTION: (
        "lifetime",
        "a step ({b:step}) touched word {a} of table page {c} outside an RCU section and without"
        " mmu_lock",
    ),
    ROOT_CHAIN: ("roots", "root page {a}: {b} references were reported, but {c} were there"),
    ROOT_POPULATED: (
        "roots",
        "entry at word {b} became {c:#x} below root page {a}, which is invalid",
    ),
    ROOT_SCHEDULED_TWICE: ("roots", "root page {a} was scheduled twice: one reference is lost"),
    BALANCE_ACTIVE: ("balance", "mn_active_invalidate_count was {b} when an invalidation ended"),
    PROGRESS_YIELD: ("progress", "a walk yielded at gfn {a:#x}, where it had started or yielded"),
    PROGRESS_REASON: (
        "progress",
        "gfn {a:#x} was sent back: nobody invalidates it, and its sequence {b} is still {c}",
    ),
    PROGRESS_RECOVERY: (
        "progress",
        "table page {a} (gfn {b:#x}) was to be recovered, and is still first on the list for that",
    ),
    PROGRESS_ZAP: (
        "progress",
        "root page {a} was zapped by vCPU {b}, and there is a worker for it",
    ),
    TRANSITION_TAKEN: (
        "transitions",
        "a fault at word {a} took permissions away ({b:#x} to {c:#x})",
    ),
    DIRTY_LOST: (
        "dirty",
        "gfn {a:#x} was written and no harvest names it: it holds {b:#x}, its copy {c:#x}",
    ),
    DIRTY_DROPPED: (
        "dirty",
        "host page {a:#x} was dropped as clean while it held {b:#x} and its copy on disk {c:#x}",
    ),
    MAPPING_SLOT: (
        "mapping",
        "gfn {a:#x} was looked up in the memslot at word {b}, which does not cover it",
    ),
    LOGGED_RECOVERY: (
        "dirty",
        "huge pages of the memslot at word {a} were to be put together while it is logged",
    ),
    DIRTY_MISSED: (
        "dirty",
        "gfn {a:#x} was written in iteration {b} behind its harvest, and that of iteration {c} does"
        " not name it",
    ),
    DIRTY_NAMED: (
        "dirty",
        "gfn {a:#x} is named by the log of iteration {b}, but was written in iteration {c} last",
    ),
}


@kernel
def _record(cpu: Cpu, condition: int, a: int, b: int, c: int) -> None:
    """Keep the first failure of this actor, count the others."""
    if own(cpu, VIOLATIONS) == 0:
        set_own(cpu, VIOLATION_CONDITION, condition)
        set_own(cpu, VIOLATION_A, a)
        set_own(cpu, VIOLATION_B, b)
        set_own(cpu, VIOLATION_C, c)
    tally(cpu, VIOLATIONS, 1)
    announce(cpu, events.WARN + condition, a, b, c)


def warn(cpu: Cpu, failed: int, condition: int, a: int, b: int, c: int) -> None:
    """Report `condition` if `failed`; the actor goes on, as after the kernel's WARN_ON_ONCE."""
    if not failed:
        return
    if int(cpu.words[cpu.own + VIOLATIONS]) == 0:
        cpu.words[cpu.own + VIOLATION_CONDITION : cpu.own + VIOLATION_C + 1] = (condition, a, b, c)
    cpu.words[cpu.own + VIOLATIONS] += 1
    observe(cpu, events.WARN + condition, a, b, c)


@overload(warn, inline="always")
def _compiled_warn(cpu: Any, failed: Any, condition: Any, a: Any, b: Any, c: Any) -> Any:
    def implementation(cpu: Any, failed: Any, condition: Any, a: Any, b: Any, c: Any) -> None:
        if failed:
            _record(cpu, condition, a, b, c)

    return implementation
