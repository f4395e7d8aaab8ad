"""What guest and host do to the test area of memslot_perf_test, and what each must find there.

Areas are host pages of the memory, counted from its first; the first memslot is at the VM's first
gfn, so page p is gfn `C_GFN_BASE + p` as long as no slot has moved.  The model knows no bytes: a
page holds the number of writes since it was given to the guest, the guest's and the host's, modulo
2**24.  So each access knows exactly, or up to one write of the other side, what it must find.

The vCPU is the only one: what it saw last is in `C_NEWEST`.
"""

from __future__ import annotations

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.host.frames import MAPPING_RWX, MARK_DIRTY, VALUE_MASK, VALUE_ONE, VALUE_SHIFT
from mmu.host.mapping import host_fault_in, mapped_frame, mapping_of
from mmu.host_changes import discard_pages
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_DISK,
    C_FRAMES,
    C_GFN_BASE,
    C_MARKS,
    C_NEWEST,
    C_WORKLOAD,
    LINE,
    QUIET_BEGAN,
    TICK_BEGAN,
    WORK_DONE,
)
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import (
    config,
    cycles,
    fetch_add,
    fetch_or,
    hint,
    own,
    peek,
    read_once,
    set_hint,
    set_own,
    stopped,
    yield_core,
)
from mmu.spte import ACCESS_READ, ACCESS_WRITE

# Words of the workload, each group on a line of its own; the first three are waited for.
HOST_CAME = 0  # how often the host came to the meeting place
GUEST_CAME = LINE  # ... and the guest
GUEST_LEFT = 2 * LINE  # 1: the vCPU is at rest, for good
LEAVE = 3 * LINE  # 1: the host wants it to be
WRONG_PAGE, WRONG_VALUE = 4 * LINE, 4 * LINE + 1  # page + 1, 0: none
WRITES = 5 * LINE  # of the guest, for each page of the small area
MMIO = -1  # as a value: the access reached no memory


@kernel
def word(cpu: Cpu, offset: int) -> int:
    """Word index of one of the workload's words."""
    return config(cpu, C_WORKLOAD) + offset


@kernel
def rest(cpu: Cpu) -> int:
    """The monitor's thread gives up its core now and then, where it holds nothing."""
    if quiet_due(cpu):
        yield_core(cpu)
        now = cycles(cpu)
        set_own(cpu, QUIET_BEGAN, now)
        set_own(cpu, TICK_BEGAN, now)
    return 0


@kernel
def _due(value: int, least: int, slack: int) -> int:
    """Whether a value is one of `least` to `least + slack` writes."""
    return int((value - least) & VALUE_MASK <= slack)


@kernel
def _note_wrong(cpu: Cpu, page: int, value: int) -> None:
    """The first page in which the vCPU did not find what it should."""
    if hint(cpu, word(cpu, WRONG_PAGE)) == 0:
        set_hint(cpu, word(cpu, WRONG_VALUE), value)
        set_hint(cpu, word(cpu, WRONG_PAGE), page + 1)


# --- The guest -----------------------------------------------------------------------------------


@kernel
def await_host(cpu: Cpu, came: int, limit: int) -> int:
    """Look at the meeting page until the host has come more often than `came`; 1: not yet."""
    for number in range(1, limit + 1):
        asked = read_once(cpu, word(cpu, LEAVE)) != 0
        if asked or read_once(cpu, word(cpu, HOST_CAME)) != came or should_stop(cpu):
            return 0
        guest_access(cpu, config(cpu, C_GFN_BASE), ACCESS_READ)
        if number % QUIET_ACCESSES == 0 and quiet_due(cpu):
            quiet_point(cpu)
    return 1


@kernel
def _access_and_look(cpu: Cpu, page: int, access: int, least: int, slack: int) -> None:
    """One access of a page that must hold `least` to `least + slack` writes afterwards."""
    reached = guest_access(cpu, config(cpu, C_GFN_BASE) + page, access)
    if not reached and not stopped(cpu):
        _note_wrong(cpu, page, MMIO)
    value = hint(cpu, config(cpu, C_NEWEST) + page)
    if reached and not _due(value, least, slack):
        _note_wrong(cpu, page, value)


@kernel
def write_batch(
    cpu: Cpu, first: int, pages: int, least: int, slack: int, reading: int, limit: int
) -> int:
    """Go on writing the pages once, reading each before if `reading`; how many are left.

    Before the vCPU's write a page must hold `least` to `least + slack` writes.
    """
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch:
            if reading:
                _access_and_look(cpu, first + done, ACCESS_READ, least, slack)
            _access_and_look(cpu, first + done, ACCESS_WRITE, least + 1, slack)
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    return pages - done


@kernel
def hammer_batch(cpu: Cpu, first: int, pages: int, hole: int, limit: int) -> int:
    """Write the pages in turn, counting what reached memory, until the host says LEAVE; 0 then.

    Pages from `hole` on may be nowhere just now: an access there may be MMIO.
    """
    base = config(cpu, C_GFN_BASE)
    done = 0
    while done < limit and not should_stop(cpu):
        if read_once(cpu, word(cpu, LEAVE)) != 0:
            return 0
        for i in range(pages):
            if guest_access(cpu, base + first + i, ACCESS_WRITE):
                mine = word(cpu, WRITES) + i
                set_hint(cpu, mine, hint(cpu, mine) + 1)
            elif first + i < hole and not stopped(cpu):
                _note_wrong(cpu, first + i, MMIO)
        done += pages
        if quiet_due(cpu):
            quiet_point(cpu)
    return 1


# --- The host ------------------------------------------------------------------------------------


@kernel
def host_value(cpu: Cpu, page: int) -> int:
    """What the monitor reads in a page; one that is not there would be a page of zeros."""
    host_lock(cpu)
    mapping = mapping_of(cpu, page)
    if mapping & MAPPING_RWX == 0:
        value = peek(cpu, config(cpu, C_DISK) + page)
    else:
        value = read_once(cpu, config(cpu, C_FRAMES) + mapped_frame(mapping)) >> VALUE_SHIFT
    host_unlock(cpu)
    return value & VALUE_MASK


@kernel
def first_other(cpu: Cpu, first: int, end: int, step: int, value: int) -> int:
    """The first of every `step` pages of [first, end) that does not hold `value`; -1: none."""
    for page in range(first, end, step):
        if host_value(cpu, page) != value & VALUE_MASK and not should_stop(cpu):
            return page
    return -1


@kernel
def _host_write(cpu: Cpu, page: int) -> int:
    """The monitor writes to a page, which is there; what it held before."""
    host_lock(cpu)
    frame = mapped_frame(mapping_of(cpu, page))
    fetch_or(cpu, config(cpu, C_MARKS) + frame, MARK_DIRTY)
    before = fetch_add(cpu, config(cpu, C_FRAMES) + frame, VALUE_ONE)
    host_unlock(cpu)
    return (before >> VALUE_SHIFT) & VALUE_MASK


@kernel
def host_write_batch(cpu: Cpu, first: int, pages: int, least: int, slack: int, limit: int) -> int:
    """Go on writing the pages once, as the monitor; how many are left, 0 once one was wrong.

    Each must have held `least` to `least + slack` writes.
    """
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        before = _host_write(cpu, first + done)
        if not _due(before, least, slack):
            _note_wrong(cpu, first + done, before)
            return 0
        done += 1
        rest(cpu)
    set_own(cpu, WORK_DONE, done)
    return pages - done


@kernel
def discard_batch(
    cpu: Cpu, first: int, pages: int, chunk: int, per_slot: int, slots: int, limit: int
) -> int:
    """Go on giving the pages' memory up, `chunk` pages a call; how many pages are left.

    A call never crosses the border of a memslot, as the memory of each is a mapping of its own.
    """
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        page = first + done
        slot = page // per_slot
        stop = min(page + chunk, first + pages)
        if slot < slots - 1:
            stop = min(stop, (slot + 1) * per_slot)
        discard_pages(cpu, page, stop)
        done = stop - first
        rest(cpu)
    set_own(cpu, WORK_DONE, done)
    return pages - done


@kernel
def fill_batch(cpu: Cpu, pages: int, limit: int) -> int:
    """Go on having memory given to the first `pages` pages (the monitor's memset to 0)."""
    done = own(cpu, WORK_DONE)
    end = min(pages, done + limit)
    while done < end and not should_stop(cpu):
        if mapping_of(cpu, done) & MAPPING_RWX == 0:
            host_fault_in(cpu, done, ACCESS_WRITE)
        done += 1
    set_own(cpu, WORK_DONE, done)
    return pages - done
