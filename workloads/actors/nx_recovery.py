"""The kernel thread "kvm-nx-lpage-recovery": once a period it gives tables back.

It plays in phases and is no service: between two phases the VM is at rest and is looked at.
"""

from __future__ import annotations

import time

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import WORK_DONE
from mmu.machine.lock import slots_lock, slots_unlock
from mmu.machine.primitives import tally
from mmu.nx_recovery import recover_nx_huge_pages
from mmu.zap_all import zap_all_fast
from workloads.plan import Actor, Part

RATIO = 60  # nx_huge_pages_recovery_ratio: one table in so many
RATIO_MAX = 3600  # what a period is derived from at most: it is a second at least
HOUR_MS = 3_600_000
NAP_SECONDS = 0.05  # how long the thread may not hear that it is to stop


@kernel
def recovery_turn(cpu: Cpu, ratio: int) -> int:
    """What the thread does when it wakes up; how many tables it zapped."""
    tally(cpu, WORK_DONE, 1)
    return recover_nx_huge_pages(cpu, ratio)


@kernel
def begin_again(cpu: Cpu) -> None:
    """All that is mapped goes, as for a memslot change: the VM is as it was at first."""
    slots_lock(cpu)
    zap_all_fast(cpu)
    slots_unlock(cpu)


@kernel
def _still_there(cpu: Cpu) -> None:
    """Asleep, not stuck: what the watchdog looks at moves."""
    tally(cpu, WORK_DONE, 1)


def recovery_period_ms(period_ms: int, ratio: int) -> int:
    """How long the thread sleeps (calc_nx_huge_pages_recovery_period); 0: it never works.

    Period 0 is derived from the ratio, so that each table's turn comes once an hour.
    """
    if ratio == 0:
        return 0
    return period_ms if period_ms != 0 else HOUR_MS // min(ratio, RATIO_MAX)


def nx_recovery(seconds: float, period_ms: int, ratio: int = RATIO) -> Part:
    """The thread for so long, or until the run stops: it sleeps first, as in the kernel."""
    period = recovery_period_ms(period_ms, ratio) / 1000

    def part(actor: Actor) -> None:
        began = now = time.monotonic()
        due = began + period
        while now < began + seconds and not actor.stopping():
            if period and due <= now:
                recovery_turn(actor.cpu, ratio)
                due += period
            _still_there(actor.cpu)
            time.sleep(min(NAP_SECONDS, seconds, period or seconds))
            now = time.monotonic()

    return part
