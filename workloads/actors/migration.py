"""A live migration: copy the memory while the guest runs, with the help of the dirty log.

Logging on; everything is copied; some rounds of fetching the log and copying what it names; the
vCPUs come to rest; a last round; and then the copy must equal the memory.  It does not stop for
the host's reclaim, memslot changes or the zap worker: none of these may lose a write.

Before the vCPUs go on, the host saves the memory (as for a checkpoint): it counts as clean then,
and a D bit is the only record of the next write to a page.  Who loses that loses data, as soon as
the page is swapped out.
"""

from __future__ import annotations

from mmu.dirty_clear import clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.guest import should_stop, vcpu_load, vcpu_put
from mmu.host.frames import MAPPING_RWX, VALUE_MASK, VALUE_SHIFT
from mmu.host.mapping import mapped_frame, mapping_of
from mmu.host_changes import save_page
from mmu.machine.blocking import EXCLUSIVE, SHARED_MASK, SHARED_UNIT, acquire_when, release
from mmu.machine.conditions import DIRTY_LOST, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    BITMAP_BITS,
    C_DIRTY_LOG_MODE,
    C_DISK,
    C_FRAMES,
    C_GFN_BASE,
    C_SLOT_COUNT,
    C_VCPUS,
    C_WORKLOAD,
    SLOT_HARVEST,
    SLOT_HOME,
    SLOT_PAGES,
)
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import (
    config,
    count,
    hint,
    peek,
    poke,
    read_once,
    set_hint,
    stopped,
    yield_core,
)
from mmu.memslots import slot_word
from mmu.policy import LOG_GET, LOG_INITIALLY_SET
from workloads.actors.turmoil_words import ALIVE, GATE, MIGRATIONS, ROUNDS, TURNS, WANTED, book

LOCKED_PAGES = 64  # copied at a stretch while the host's mappings are kept from changing


# --- Bringing all vCPUs to rest ------------------------------------------------------------------


@kernel
def begin_running(cpu: Cpu) -> None:
    """A vCPU begins to work, unless somebody keeps them all at rest."""
    count(cpu, config(cpu, C_WORKLOAD) + ALIVE, 1)
    acquire_when(cpu, config(cpu, C_WORKLOAD) + GATE, EXCLUSIVE, 0, SHARED_UNIT)


@kernel
def end_running(cpu: Cpu) -> None:
    """The vCPU, which has left the guest, is at rest and has no more work."""
    release(cpu, config(cpu, C_WORKLOAD) + GATE, -SHARED_UNIT)
    count(cpu, config(cpu, C_WORKLOAD) + ALIVE, -1)


@kernel
def make_way(cpu: Cpu) -> None:
    """Between two turns: come to rest if somebody wants that, until he has done."""
    if hint(cpu, config(cpu, C_WORKLOAD) + WANTED) != 0:
        vcpu_put(cpu)
        release(cpu, config(cpu, C_WORKLOAD) + GATE, -SHARED_UNIT)
        acquire_when(cpu, config(cpu, C_WORKLOAD) + GATE, EXCLUSIVE, 0, SHARED_UNIT)
        vcpu_load(cpu)


@kernel
def pause_vcpus(cpu: Cpu) -> None:
    """Bring every vCPU to rest."""
    set_hint(cpu, config(cpu, C_WORKLOAD) + WANTED, 1)
    acquire_when(cpu, config(cpu, C_WORKLOAD) + GATE, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)


@kernel
def resume_vcpus(cpu: Cpu) -> None:
    """Let them run again."""
    set_hint(cpu, config(cpu, C_WORKLOAD) + WANTED, 0)
    release(cpu, config(cpu, C_WORKLOAD) + GATE, -EXCLUSIVE)


@kernel
def _let_guests_work(cpu: Cpu) -> None:
    """Until the vCPUs have had a turn each on the average, or have no more work.

    Without it the migration would go on while they are still waking up, and copy memory at rest.
    """
    workload = config(cpu, C_WORKLOAD)
    end = hint(cpu, workload + TURNS) + config(cpu, C_VCPUS)
    while hint(cpu, workload + TURNS) < end and not should_stop(cpu):
        if hint(cpu, workload + ALIVE) == 0:
            return
        yield_core(cpu)


# --- Copying -------------------------------------------------------------------------------------


@kernel
def page_value(cpu: Cpu, page: int) -> int:
    """What a page of the host holds, resident or not (mmap_lock held)."""
    mapping = mapping_of(cpu, page)
    if mapping & MAPPING_RWX == 0:
        return peek(cpu, config(cpu, C_DISK) + page)
    frame = config(cpu, C_FRAMES) + mapped_frame(mapping)
    return (read_once(cpu, frame) >> VALUE_SHIFT) & VALUE_MASK


@kernel
def _copy_named(cpu: Cpu, to: int, first: int, mask: int) -> None:
    """Copy the pages `first + i` for which bit i is set."""
    host_lock(cpu)
    for i in range(BITMAP_BITS):
        if (mask >> i) & 1 != 0:
            poke(cpu, to + first + i, page_value(cpu, first + i))
    host_unlock(cpu)


@kernel
def _copy_everything(cpu: Cpu, to: int, pages: int) -> None:
    """The first pass."""
    for first in range(0, pages, LOCKED_PAGES):
        host_lock(cpu)
        for page in range(first, min(first + LOCKED_PAGES, pages)):
            poke(cpu, to + page, page_value(cpu, page))
        host_unlock(cpu)


@kernel
def _fetch_and_copy(cpu: Cpu, to: int) -> None:
    """A round: fetch the log of every memslot, clear it where that is a call, copy what it names.

    Cleared before it is copied: the bit may stand for a write that comes until then.
    """
    for number in range(config(cpu, C_SLOT_COUNT)):
        slot = slot_word(cpu, number)
        get_dirty_log(cpu, number)
        if config(cpu, C_DIRTY_LOG_MODE) != LOG_GET:
            clear_dirty_log(cpu, number, 0, config(cpu, slot + SLOT_PAGES))
        first = config(cpu, slot + SLOT_HOME) - config(cpu, C_GFN_BASE)
        for word in range(-(-config(cpu, slot + SLOT_PAGES) // BITMAP_BITS)):
            mask = read_once(cpu, config(cpu, slot + SLOT_HARVEST) + word)
            if mask != 0:
                _copy_named(cpu, to, first + word * BITMAP_BITS, mask)
    book(cpu, ROUNDS, 1)


@kernel
def _compare(cpu: Cpu, to: int, pages: int) -> None:
    """Memory and copy are equal, or the log has not named a write."""
    for first in range(0, pages, LOCKED_PAGES):
        host_lock(cpu)
        for page in range(first, min(first + LOCKED_PAGES, pages)):
            here, there = page_value(cpu, page), peek(cpu, to + page)
            gfn = page + config(cpu, C_GFN_BASE)
            warn(cpu, here != there and not stopped(cpu), DIRTY_LOST, gfn, here, there)
        host_unlock(cpu)


@kernel
def _save_everything(cpu: Cpu, pages: int) -> None:
    """The memory goes to disk while all vCPUs are at rest."""
    for page in range(pages):
        if stopped(cpu):
            return
        save_page(cpu, page)


@kernel
def migrate(cpu: Cpu, copy: int, pages: int, rounds: int) -> int:
    """One migration of the whole memory to the workload's words from `copy` on."""
    to = config(cpu, C_WORKLOAD) + copy
    for number in range(config(cpu, C_SLOT_COUNT)):
        enable_dirty_log(cpu, number)
    if config(cpu, C_DIRTY_LOG_MODE) != LOG_INITIALLY_SET:
        # There the log names everything at first.
        _copy_everything(cpu, to, pages)
    for _ in range(rounds):
        _let_guests_work(cpu)
        _fetch_and_copy(cpu, to)
    _let_guests_work(cpu)
    pause_vcpus(cpu)
    _fetch_and_copy(cpu, to)
    _compare(cpu, to, pages)
    _save_everything(cpu, pages)
    resume_vcpus(cpu)
    for number in range(config(cpu, C_SLOT_COUNT)):
        disable_dirty_log(cpu, number)
    book(cpu, MIGRATIONS, 1)
    return 1
