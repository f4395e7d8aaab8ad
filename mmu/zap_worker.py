"""Zapping scheduled roots: by the zap worker (a process of its own), or by who needs it done.

As the kernel's work queue of 5.18 ("kvm", one per VM): whoever schedules a root gives the worker
a reference, the worker zaps under the read lock and puts it.  Queued and finished roots are
counted, so that "flush the queue" is to wait until as many are finished as were queued.
"""

from __future__ import annotations

from mmu.machine.blocking import wait_while, wake
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_ZAP_BY,
    ROOTS,
    SP_ROOT_NEXT,
    SP_ROOT_SCHEDULED,
    ZAP_FINISHED,
    ZAP_QUEUED,
)
from mmu.machine.lock import assert_may_sleep, mmu_read_lock, mmu_read_unlock
from mmu.machine.primitives import cmpxchg, config, read_once, stopped, xchg
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.pages import maybe_free_deferred, record_of
from mmu.policy import ZAP_BY_WORKER
from mmu.roots import put_root
from mmu.tdp.zap import zap_root
from mmu.tdp_iter import root_page


@kernel
def _take_scheduled(cpu: Cpu) -> int:
    """A scheduled root, which is the caller's to zap and to put from now on; 0 if there is none."""
    rcu_read_lock(cpu)
    root = read_once(cpu, ROOTS)
    while root != 0:
        record = record_of(cpu, root_page(root))
        # The flag is taken by one exchange: two zappers must not share one reference.
        flag = record + SP_ROOT_SCHEDULED
        if read_once(cpu, flag) != 0 and cmpxchg(cpu, flag, 1, 0) == 1:
            break
        root = read_once(cpu, record + SP_ROOT_NEXT)
    rcu_read_unlock(cpu)
    return root


@kernel
def zap_scheduled_roots(cpu: Cpu) -> None:
    """Zap every root that is scheduled, in shared mode (kvm_tdp_mmu_zap_invalidated_roots)."""
    assert_may_sleep(cpu)
    root = _take_scheduled(cpu)
    while root != 0 and not stopped(cpu):
        mmu_read_lock(cpu)
        zap_root(cpu, root)
        put_root(cpu, root)
        mmu_read_unlock(cpu)
        maybe_free_deferred(cpu)
        root = _take_scheduled(cpu)


@kernel
def zap_worker_turn(cpu: Cpu) -> int:
    """The worker: zap what is queued; how many were queued when it began.

    Only the worker writes ZAP_FINISHED.  What is queued during the zap is found, or found again
    at the next turn.
    """
    queued = read_once(cpu, ZAP_QUEUED)
    zap_scheduled_roots(cpu)
    # An exchange, not a store: who flushes goes to sleep by a second look at this word.
    xchg(cpu, ZAP_FINISHED, queued)
    wake(cpu, ZAP_FINISHED)
    return queued


@kernel
def flush_zap_worker(cpu: Cpu) -> None:
    """Until the worker has finished all that is queued now (flush_workqueue)."""
    assert_may_sleep(cpu)
    queued = read_once(cpu, ZAP_QUEUED)
    finished = read_once(cpu, ZAP_FINISHED)
    while finished < queued and not stopped(cpu):
        wait_while(cpu, ZAP_FINISHED, finished)
        finished = read_once(cpu, ZAP_FINISHED)


@kernel
def zap_invalidated_roots(cpu: Cpu) -> None:
    """Return only when no invalidated root maps anything any more.

    The memslot is gone afterwards, and notifiers could not find such a mapping.
    """
    if config(cpu, C_ZAP_BY) == ZAP_BY_WORKER:
        flush_zap_worker(cpu)
    else:
        zap_scheduled_roots(cpu)
