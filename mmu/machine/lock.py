"""The locks of the model, their order, and what an actor holds.

`slots_lock` or the host's `mmap_lock` -> `mmu_lock` (read or write) -> `tdp_mmu_pages_lock`; the
host's page allocator (`pool`) is a lock that may sleep: nothing that spins may be held.  `HELD` in
the actor's own block says what it holds; `assert_*` are the first statement of a function that has
a precondition, as lockdep's are in the kernel.
"""

from __future__ import annotations

from mmu.machine.blocking import (
    EXCLUSIVE,
    SHARED_MASK,
    SHARED_UNIT,
    WAITING_MASK,
    acquire_when,
    release,
)
from mmu.machine.conditions import LOCK_MODE, LOCK_ORDER, LOCK_SLEEP, LOCK_WRITERS, warn
from mmu.machine.cpu import Cpu
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    H_WRITE_LOCK,
    HELD,
    HOST_LOCK,
    MMU_LOCK,
    OWNER,
    PAGES_LOCK,
    POOL_LOCK,
    SLEEPERS,
    SLOTS_LOCK,
)
from mmu.machine.primitives import cycles, hint, own, set_own, stopped, xchg

HELD_MMU_READ = 1
HELD_MMU_WRITE = 2
HELD_PAGES = 4
HELD_SLOTS = 8
HELD_POOL = 16
HELD_RCU = 32
HELD_HOST = 64
HELD_MMU = HELD_MMU_READ | HELD_MMU_WRITE

LOCK_NAMES = {
    HELD_MMU_READ: "mmu_lock (read)",
    HELD_MMU_WRITE: "mmu_lock (write)",
    HELD_PAGES: "tdp_mmu_pages_lock",
    HELD_SLOTS: "slots_lock",
    HELD_POOL: "page allocator",
    HELD_RCU: "RCU read section",
    HELD_HOST: "mmap_lock",
}


@inlined_kernel
def _take(cpu: Cpu, forbidden: int, mine: int) -> None:
    """Note that `mine` is held now; holding any of `forbidden` before is a wrong order."""
    held = own(cpu, HELD)
    warn(cpu, held & forbidden != 0, LOCK_ORDER, mine, held, 0)
    set_own(cpu, HELD, held | mine)


@inlined_kernel
def _drop(cpu: Cpu, mine: int) -> None:
    """Note that `mine` is about to be released; it must be held."""
    held = own(cpu, HELD)
    warn(cpu, held & mine == 0, LOCK_MODE, mine, held, 0)
    set_own(cpu, HELD, held & ~mine)


@inlined_kernel
def assert_held(cpu: Cpu, wanted: int) -> None:
    """One of the locks in `wanted` must be held (lockdep_assert_held)."""
    held = own(cpu, HELD)
    warn(cpu, held & wanted == 0, LOCK_MODE, wanted, held, 0)


@inlined_kernel
def assert_may_sleep(cpu: Cpu) -> None:
    """Neither a spinning lock nor an RCU section may be held (might_sleep)."""
    held = own(cpu, HELD)
    warn(cpu, held & ~(HELD_SLOTS | HELD_HOST) != 0, LOCK_SLEEP, 0, held, 0)


@inlined_kernel
def mmu_read_lock(cpu: Cpu) -> None:
    """Shared mode of mmu_lock: every SPTE change is a cmpxchg from now on."""
    _take(cpu, HELD_MMU | HELD_PAGES | HELD_POOL | HELD_RCU, HELD_MMU_READ)
    acquire_when(cpu, MMU_LOCK, EXCLUSIVE, 0, SHARED_UNIT)


@inlined_kernel
def mmu_read_unlock(cpu: Cpu) -> None:
    """Leave shared mode."""
    _drop(cpu, HELD_MMU_READ)
    release(cpu, MMU_LOCK, -SHARED_UNIT)


@kernel
def mmu_write_lock(cpu: Cpu) -> None:
    """Exclusive mode of mmu_lock; hardware and lockless paths still change SPTEs."""
    _take(cpu, HELD_MMU | HELD_PAGES | HELD_POOL | HELD_RCU, HELD_MMU_WRITE)
    began = cycles(cpu)
    acquire_when(cpu, MMU_LOCK, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)
    waited = cycles(cpu) - began
    record_latency(cpu, H_WRITE_LOCK, waited)
    before = xchg(cpu, MMU_LOCK + OWNER, cpu.id + 1)
    warn(cpu, before != 0, LOCK_WRITERS, MMU_LOCK, before - 1, cpu.id)


@kernel
def mmu_write_unlock(cpu: Cpu) -> None:
    """Leave exclusive mode."""
    before = xchg(cpu, MMU_LOCK + OWNER, 0)
    warn(cpu, before != cpu.id + 1 and not stopped(cpu), LOCK_WRITERS, MMU_LOCK, before - 1, cpu.id)
    _drop(cpu, HELD_MMU_WRITE)
    release(cpu, MMU_LOCK, -EXCLUSIVE)


@kernel
def mmu_lock_contended(cpu: Cpu) -> int:
    """1 if somebody waits for what this actor holds (rwlock_needbreak)."""
    if hint(cpu, MMU_LOCK) & WAITING_MASK != 0:
        return 1
    return int(own(cpu, HELD) & HELD_MMU_WRITE != 0 and hint(cpu, MMU_LOCK + SLEEPERS) != 0)


@kernel
def _lock(cpu: Cpu, word: int, forbidden: int, mine: int) -> None:
    """A plain mutex."""
    _take(cpu, forbidden, mine)
    acquire_when(cpu, word, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)


@kernel
def _unlock(cpu: Cpu, word: int, mine: int) -> None:
    _drop(cpu, mine)
    release(cpu, word, -EXCLUSIVE)


@kernel
def pages_lock(cpu: Cpu) -> None:
    """tdp_mmu_pages_lock: inside mmu_lock in either mode."""
    assert_held(cpu, HELD_MMU)
    _lock(cpu, PAGES_LOCK, HELD_PAGES | HELD_POOL, HELD_PAGES)


@kernel
def pages_unlock(cpu: Cpu) -> None:
    """Release tdp_mmu_pages_lock."""
    _unlock(cpu, PAGES_LOCK, HELD_PAGES)


@kernel
def slots_lock(cpu: Cpu) -> None:
    """slots_lock: the outermost lock of whoever changes memslots or their flags."""
    _lock(cpu, SLOTS_LOCK, ~0, HELD_SLOTS)


@kernel
def slots_unlock(cpu: Cpu) -> None:
    """Release slots_lock."""
    _unlock(cpu, SLOTS_LOCK, HELD_SLOTS)


@kernel
def host_lock(cpu: Cpu) -> None:
    """The host's mmap_lock: whoever changes mappings or gives out frames.

    Never inside slots_lock: notifiers run under this one and must not wait for that one.
    """
    assert_may_sleep(cpu)
    _lock(cpu, HOST_LOCK, ~0, HELD_HOST)


@kernel
def host_unlock(cpu: Cpu) -> None:
    """Release mmap_lock."""
    _unlock(cpu, HOST_LOCK, HELD_HOST)


@kernel
def pool_lock(cpu: Cpu) -> None:
    """The host's page allocator: it may sleep, so nothing that spins may be held."""
    assert_may_sleep(cpu)
    _lock(cpu, POOL_LOCK, HELD_POOL, HELD_POOL)


@kernel
def pool_unlock(cpu: Cpu) -> None:
    """Release the page allocator."""
    _unlock(cpu, POOL_LOCK, HELD_POOL)
