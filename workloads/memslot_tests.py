"""The six tests of memslot_perf_test, and the parts that set a run up and play it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mmu.guest import vcpu_load, vcpu_put
from mmu.host_changes import discard_pages
from mmu.machine import layout as at
from mmu.machine.blocking import add_and_wake
from mmu.machine.primitives import set_own
from mmu.memslots import STATE_BITS, STATE_MASK
from mmu.slot_changes import create_memslot, delete_memslot
from mmu.vm import Vm
from workloads.actors.memslot_area import GUEST_LEFT, fill_batch, word
from workloads.memslot_sides import MOVE_PAGES, Arena, Guest, Host, RunStops
from workloads.plan import Actor, Part

EXTRA_PAGES = 16  # 64K
MAP_PAGES = 8192  # 32M
UNMAP_PAGES = 32768  # 128M
CHUNK_PAGES = 512  # 2M
WHOLE_PAGES = 131072  # 512M
RW_WRITES = 4  # of each page in a loop of RW, two by each side


@dataclass(frozen=True)
class SlotTest:
    """One test: its memory, what its guest does, what the host does once and at the end."""

    name: str
    pages: int  # of the test area
    guest: Callable[[Guest], None]
    loop: Callable[[Host, int], None]
    finish: Callable[[Host, int], None]

    @property
    def whole(self) -> bool:
        """It uses all memory: only such tests' slot set-up times are compared."""
        return self.pages == WHOLE_PAGES


def _map_guest(guest: Guest) -> None:
    half = MAP_PAGES // 2
    while True:
        for first in (EXTRA_PAGES, EXTRA_PAGES + half):
            guest.write(first, half, 0)
            if not guest.meet():
                return


def _map_loop(host: Host, loop: int) -> None:
    half = MAP_PAGES // 2
    first, second = EXTRA_PAGES, EXTRA_PAGES + half
    host.unmap(second, half, MAP_PAGES)
    host.meet()
    host.check(first, half, 1, "before madvise")
    host.unmap(first, half, MAP_PAGES)
    host.meet()
    host.check(second, half, 1, "before madvise")


def _map_finish(host: Host, loops: int) -> None:
    half = MAP_PAGES // 2
    host.check_all(EXTRA_PAGES, half, 1)
    host.check_all(EXTRA_PAGES + half, half, int(loops > 0))


def _touched(arena: Arena) -> int:
    """Pages of a half that the guest of an unmap test writes: one, as more would time mapping."""
    return UNMAP_PAGES // 2 if arena.every else 1


def _unmap_guest(guest: Guest) -> None:
    while True:
        for first in (EXTRA_PAGES, EXTRA_PAGES + UNMAP_PAGES // 2):
            guest.write(first, _touched(guest.arena), 0)
            if not guest.meet():
                return


def _unmap_loop(chunk: int) -> Callable[[Host, int], None]:
    def loop_once(host: Host, loop: int) -> None:
        half = UNMAP_PAGES // 2
        for first in (EXTRA_PAGES, EXTRA_PAGES + half):
            host.meet()
            host.check(first, _touched(host.arena), 1, "before madvise")
            host.unmap(first, half, chunk)

    return loop_once


def _unmap_finish(host: Host, loops: int) -> None:
    written = _touched(host.arena)
    host.check_all(EXTRA_PAGES, written, 1)
    host.check_all(EXTRA_PAGES + written, UNMAP_PAGES - written, 0)


def _move_first(arena: Arena, active: bool) -> int:
    """First page of the small area: half of it in the last memslot, or right before that."""
    return arena.last_slot - (MOVE_PAGES // 2 if active else MOVE_PAGES)


def _move_guest(active: bool) -> Callable[[Guest], None]:
    def guest_part(guest: Guest) -> None:
        # In the inactive area nothing may ever be missing: its end lies before the last slot.
        guest.hammer(_move_first(guest.arena, active), guest.arena.last_slot)

    return guest_part


def _move_loop(host: Host, loop: int) -> None:
    host.move_away_and_back()


def _move_finish(active: bool) -> Callable[[Host, int], None]:
    def finish(host: Host, loops: int) -> None:
        host.check_writes(_move_first(host.arena, active))

    return finish


def _rw_guest(guest: Guest) -> None:
    loop = 0
    while True:
        guest.write(EXTRA_PAGES, WHOLE_PAGES, RW_WRITES * loop, 1)
        if not guest.meet():
            return
        guest.write(EXTRA_PAGES, WHOLE_PAGES, RW_WRITES * loop + 2, 1, 1)
        if not guest.meet():
            return
        loop += 1


def _rw_loop(host: Host, loop: int) -> None:
    host.write(EXTRA_PAGES, WHOLE_PAGES, RW_WRITES * loop)
    host.meet()
    host.write(EXTRA_PAGES, WHOLE_PAGES, RW_WRITES * loop + 2)
    host.meet()


def _rw_finish(host: Host, loops: int) -> None:
    host.check_all(EXTRA_PAGES, WHOLE_PAGES, RW_WRITES * loops + 1)


TESTS = (
    SlotTest("map", MAP_PAGES, _map_guest, _map_loop, _map_finish),
    SlotTest("unmap", UNMAP_PAGES, _unmap_guest, _unmap_loop(1), _unmap_finish),
    SlotTest("unmap chunked", UNMAP_PAGES, _unmap_guest, _unmap_loop(CHUNK_PAGES), _unmap_finish),
    SlotTest("move active area", WHOLE_PAGES, _move_guest(True), _move_loop, _move_finish(True)),
    SlotTest(
        "move inactive area", WHOLE_PAGES, _move_guest(False), _move_loop, _move_finish(False)
    ),
    SlotTest("RW", WHOLE_PAGES, _rw_guest, _rw_loop, _rw_finish),
)


# --- Parts ---------------------------------------------------------------------------------------


def _place_slots(vm: Vm, sizes: tuple[int, ...]) -> list[int]:
    """Lay the memslots, all of which are nowhere, over the memory anew; where each belongs."""
    slots = vm.region("slots").reshape(-1, at.SLOT_WORDS)
    bases = [vm.config.gfn_base + sum(sizes[:i]) for i in range(len(sizes))]
    for row, base, pages in zip(slots, bases, sizes, strict=True):
        row[at.SLOT_PLACE] = base << STATE_BITS | at.SLOT_ABSENT
        row[at.SLOT_HOME] = base
        row[at.SLOT_PAGES] = pages
    return bases


def set_up(arena: Arena, counter: str) -> Part:
    """Memory of zeros, then all memslots, one by one; how long these took is reported."""

    def part(actor: Actor) -> None:
        vm, cpu = actor.vm, actor.cpu
        slots = vm.region("slots").reshape(-1, at.SLOT_WORDS)
        for number, row in enumerate(slots):
            if row[at.SLOT_PLACE] & STATE_MASK != at.SLOT_ABSENT:
                delete_memslot(cpu, number)
        discard_pages(cpu, 0, vm.config.pages)
        bases = _place_slots(vm, arena.sizes())
        set_own(cpu, at.WORK_DONE, 0)
        actor.run(fill_batch, arena.pages)
        vm.region("workload")[:] = 0
        began = time.monotonic_ns()
        for number, base in enumerate(bases):
            create_memslot(cpu, number, base)
        actor.report(counter, time.monotonic_ns() - began)

    return part


def guest_part(test: SlotTest, arena: Arena) -> Part:
    """The vCPU runs the test's guest until the host lets it go, and comes to rest."""

    def part(actor: Actor) -> None:
        vcpu_load(actor.cpu)
        test.guest(Guest(actor, arena))
        vcpu_put(actor.cpu)
        add_and_wake(actor.cpu, word(actor.cpu, GUEST_LEFT), 1)

    return part


def host_part(test: SlotTest, arena: Arena, seconds: float, counter: str) -> Part:
    """Loops of the test for so long; the time that they took and how many are reported."""

    def part(actor: Actor) -> None:
        host = Host(actor, arena)
        loops, limit_ns = 0, int(seconds * 1e9)
        began = time.monotonic_ns()
        try:
            while (took := time.monotonic_ns() - began) < limit_ns and not actor.stopping():
                test.loop(host, loops)
                loops += 1
            host.dismiss()
            test.finish(host, loops)
        except RunStops:
            return
        actor.report(f"{counter}_runtime_ns", took)
        actor.report(f"{counter}_iterations", loops)

    return part
