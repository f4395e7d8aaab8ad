"""What the host does to its own pages: give out frames, take them back, read from disk.

All under mmap_lock (`host_lock`).  Free frames lie on a stack, last-in-first-out: a frame freed too
early belongs to another page at once.  The disk holds one value per host page.
"""

from __future__ import annotations

from mmu.host.frames import (
    GENERATION_BITS,
    MAPPED,
    MAPPING_FRAME_SHIFT,
    MAPPING_LEVEL_SHIFT,
    MAPPING_READ_ONLY,
    MAPPING_RWX,
    MAPPING_USERFAULT,
    MARK_DIRTY,
    MARK_SPLIT,
    NOBODY,
    OWNER_BITS,
    OWNER_MASK,
    VALUE_MASK,
    VALUE_SHIFT,
    boot_mapping,
)
from mmu.machine import events
from mmu.machine.blocking import wait_while, wake
from mmu.machine.conditions import DIRTY_DROPPED, FRAME_DOUBLE, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_DISK,
    C_FRAMES,
    C_FREE_FRAMES,
    C_MAPPING,
    C_MARKS,
    HOST_FREE_TOP,
    N_HOST_FAULTS,
    N_HOST_WRITEBACKS,
    USERFAULT,
)
from mmu.machine.lock import HELD_HOST, assert_held, assert_may_sleep, host_lock, host_unlock
from mmu.machine.primitives import (
    config,
    emit,
    peek,
    poke,
    read_once,
    stopped,
    store_release,
    tally,
    xchg,
)
from mmu.spte import ACCESS_WRITE, LEVEL_4K, SPTE_W

GENERATION_MASK = (1 << GENERATION_BITS) - 1


@inlined_kernel
def mapped_frame(mapping: int) -> int:
    """Frame of a mapping word."""
    return (mapping & ~MAPPED) >> MAPPING_FRAME_SHIFT


@inlined_kernel
def new_mapping(frame: int, level: int, rights: int) -> int:
    """A mapping word; without rights, of a page that is swapped out."""
    return MAPPED | rights | level << MAPPING_LEVEL_SHIFT | frame << MAPPING_FRAME_SHIFT


@kernel
def ask_user(cpu: Cpu, page: int) -> None:
    """Tell this vCPU's handler in user space which page is missing, and sleep (handle_userfault).

    Nothing is held but SRCU: whoever changes memslots waits for the handler too.
    """
    assert_may_sleep(cpu)
    word = cpu.own + USERFAULT
    store_release(cpu, word, page + 1)
    wake(cpu, word)
    wait_while(cpu, word, page + 1)


@kernel
def mapping_of(cpu: Cpu, page: int) -> int:
    """The host's mapping of a host page (mmap_lock held: it does not change)."""
    word = read_once(cpu, config(cpu, C_MAPPING) + page)
    return word if word != 0 else boot_mapping(cpu, page)


@kernel
def set_mapping(cpu: Cpu, page: int, mapping: int) -> None:
    """Change it: between start and end of an invalidation, or from swapped out to present."""
    assert_held(cpu, HELD_HOST)
    store_release(cpu, config(cpu, C_MAPPING) + page, mapping)


@kernel
def take_frame(cpu: Cpu, page: int, value: int) -> int:
    """A free frame for `page` that holds `value`; its number + 1, 0 if there is none."""
    assert_held(cpu, HELD_HOST)
    top = peek(cpu, HOST_FREE_TOP)
    if top == 0:
        return 0
    poke(cpu, HOST_FREE_TOP, top - 1)
    frame = peek(cpu, config(cpu, C_FREE_FRAMES) + top - 1)
    give_frame(cpu, frame, page, value)
    return frame + 1


@kernel
def give_frame(cpu: Cpu, frame: int, page: int, value: int) -> None:
    """The frame belongs to `page` from now on, in a new generation."""
    word = config(cpu, C_FRAMES) + frame
    before = read_once(cpu, word)
    owner = (before & OWNER_MASK) ^ frame
    warn(cpu, owner != NOBODY and not stopped(cpu), FRAME_DOUBLE, frame, page, owner)
    generation = ((before >> OWNER_BITS) + 1) & GENERATION_MASK
    xchg(cpu, word, value << VALUE_SHIFT | generation << OWNER_BITS | (page ^ frame))


@kernel
def free_frame(cpu: Cpu, frame: int) -> int:
    """The frame is nobody's: whoever still uses it is in somebody else's memory; its value."""
    assert_held(cpu, HELD_HOST)
    word = config(cpu, C_FRAMES) + frame
    generation = read_once(cpu, word) >> OWNER_BITS & GENERATION_MASK
    before = xchg(cpu, word, generation << OWNER_BITS | (NOBODY ^ frame))
    top = peek(cpu, HOST_FREE_TOP)
    poke(cpu, config(cpu, C_FREE_FRAMES) + top, frame)
    poke(cpu, HOST_FREE_TOP, top + 1)
    emit(cpu, events.FRAME_FREE, frame, (before & OWNER_MASK) ^ frame, 0)
    return (before >> VALUE_SHIFT) & VALUE_MASK


@kernel
def take_marks(cpu: Cpu, frame: int) -> int:
    """What zaps told about the frame, once; that it is a frame of its own stays known."""
    marks = config(cpu, C_MARKS) + frame
    return xchg(cpu, marks, read_once(cpu, marks) & MARK_SPLIT)


@kernel
def write_back(cpu: Cpu, page: int, frame: int, value: int) -> None:
    """Reclaim: only a dirty frame goes to disk, a clean one is dropped (its copy there is good)."""
    copy = config(cpu, C_DISK) + page
    if take_marks(cpu, frame) & MARK_DIRTY != 0:
        poke(cpu, copy, value)
        tally(cpu, N_HOST_WRITEBACKS, 1)
    else:
        old = peek(cpu, copy)
        warn(cpu, old != value and not stopped(cpu), DIRTY_DROPPED, page, value, old)


@kernel
def fault_in(cpu: Cpu, page: int, access: int) -> int:
    """A page fault of the host (mmap_lock held); the mapping, 0: no memory.

    If user space has forbidden the access, the mapping does not allow it still.

    A page that is swapped out is read from disk, one that was write-protected for sharing and has
    no other user becomes writable again.  Neither takes anything away, so nobody is notified.
    One that user space has to install is waited for, as long as that takes.
    """
    assert_held(cpu, HELD_HOST)
    tally(cpu, N_HOST_FAULTS, 1)
    mapping = mapping_of(cpu, page)
    while mapping & MAPPING_USERFAULT != 0 and not stopped(cpu):
        host_unlock(cpu)
        ask_user(cpu, page)
        host_lock(cpu)
        mapping = mapping_of(cpu, page)
    if mapping & MAPPING_RWX == 0:
        value = peek(cpu, config(cpu, C_DISK) + page)
        taken = take_frame(cpu, page, value)
        mapping = new_mapping(taken - 1, LEVEL_4K, MAPPING_RWX) if taken != 0 else 0
    elif access & ACCESS_WRITE != 0 and mapping & MAPPING_READ_ONLY == 0:
        mapping |= SPTE_W
    if mapping != 0:
        set_mapping(cpu, page, mapping)
    return mapping


@kernel
def host_fault_in(cpu: Cpu, page: int, access: int) -> int:
    """The vCPU's thread touches its page (get_user_pages); the mapping, 0: no memory."""
    host_lock(cpu)
    mapping = fault_in(cpu, page, access)
    host_unlock(cpu)
    return mapping
