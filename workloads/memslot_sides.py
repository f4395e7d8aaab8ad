"""The two sides of a run of memslot_perf_test, guest and host: what they do, what they must find.

Pages are counted from the first of the memory.  The 64K before the test area hold the meeting
page: the guest looks at it until the host has come, as the selftest's guest spins on its flag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmu.host.frames import VALUE_MASK
from mmu.machine import layout as at
from mmu.machine.blocking import add_and_wake
from mmu.machine.futex import raw_load
from mmu.machine.primitives import set_own
from mmu.slot_changes import move_memslot
from workloads.actors.memslot_area import (
    GUEST_CAME,
    GUEST_LEFT,
    HOST_CAME,
    LEAVE,
    MMIO,
    WRITES,
    WRONG_PAGE,
    WRONG_VALUE,
    await_host,
    discard_batch,
    first_other,
    hammer_batch,
    host_value,
    host_write_batch,
    rest,
    word,
    write_batch,
)
from workloads.errors import RunFailed
from workloads.plan import Actor

MOVE_PAGES = 48  # 192K
WORKLOAD_WORDS = WRITES + MOVE_PAGES


@dataclass(frozen=True)
class Arena:
    """A test's memory: pages in memslots of equal size, the last of which has the remainder."""

    pages: int
    slots: int
    every: bool = False  # -d: look at every page, not at the first and last of an area only

    @property
    def per_slot(self) -> int:
        """Pages of each memslot but the last."""
        return self.pages // self.slots

    @property
    def last_slot(self) -> int:
        """First page of the last memslot."""
        return self.per_slot * (self.slots - 1)

    def sizes(self) -> tuple[int, ...]:
        """Pages of each memslot."""
        return (self.per_slot,) * (self.slots - 1) + (self.pages - self.last_slot,)


class RunStops(Exception):  # noqa: N818 - no error: the harness wants everybody to end
    """Nothing that is found from here on means anything."""


def _found(value: int) -> str:
    return "no memory (MMIO)" if value == MMIO else f"{value} writes"


def check_area(actor: Actor, first: int, pages: int, value: int, every: bool, when: str) -> None:
    """Raise RunFailed unless the pages hold `value` writes: all of them, or the two at the ends."""
    step = 1 if every or pages == 1 else pages - 1
    page = first_other(actor.cpu, first, first + pages, step, value)
    if page >= 0 and not actor.stopping():
        gfn = actor.vm.config.gfn_base + page
        found = host_value(actor.cpu, page)
        raise RunFailed(
            f"{when}: the host finds {_found(found)} in page {page} (gfn {gfn:#x}), not {value}"
        )


def check_noted(actor: Actor, who: str, due: str) -> None:
    """Raise RunFailed if an access has noted a page that did not hold what it should."""
    page = raw_load(actor.cpu, word(actor.cpu, WRONG_PAGE)) - 1
    if page >= 0:
        found = raw_load(actor.cpu, word(actor.cpu, WRONG_VALUE))
        gfn = actor.vm.config.gfn_base + page
        raise RunFailed(f"{who} finds {_found(found)} in page {page} (gfn {gfn:#x}), not {due}")


# --- Both sides ----------------------------------------------------------------------------------


class Guest:
    """The vCPU's side of a run."""

    def __init__(self, actor: Actor, arena: Arena) -> None:
        self._actor = actor
        self.arena = arena
        self._came = 0

    def write(self, first: int, pages: int, least: int, slack: int = 0, reading: int = 0) -> None:
        """Write the pages; each must have held `least` to `least + slack` writes."""
        set_own(self._actor.cpu, at.WORK_DONE, 0)
        self._actor.run(write_batch, first, pages, least, slack, reading)
        also = f" to {least + slack + 1}" if reading or slack else ""
        check_noted(self._actor, "the guest", f"{least + 1 - reading}{also}")

    def hammer(self, first: int, hole: int) -> None:
        """Write the small area until the host has had enough."""
        self._actor.run(hammer_batch, first, MOVE_PAGES, hole)
        check_noted(self._actor, "the guest", "memory")

    def meet(self) -> bool:
        """Wait for the host; False if it wants the guest to leave."""
        cpu = self._actor.cpu
        self._actor.run(await_host, self._came)
        if raw_load(cpu, word(cpu, LEAVE)) or self._actor.stopping():
            return False
        self._came += 1
        add_and_wake(cpu, word(cpu, GUEST_CAME), 1)
        return True


class Host:
    """The monitor's side of a run."""

    def __init__(self, actor: Actor, arena: Arena) -> None:
        self.actor = actor
        self.arena = arena
        self._came = 0

    def _wait(self, offset: int, value: int) -> None:
        cpu = self.actor.cpu
        line = word(cpu, offset)
        if not self.actor.wait_until(lambda: raw_load(cpu, line) >= value, line):
            raise RunStops

    def _run(self, batch: Callable[..., int], *arguments: int) -> None:
        set_own(self.actor.cpu, at.WORK_DONE, 0)
        self.actor.run(batch, *arguments)
        if self.actor.stopping():
            raise RunStops

    def meet(self) -> None:
        """Tell the guest to go on once it is done, and wait for that."""
        self._came += 1
        add_and_wake(self.actor.cpu, word(self.actor.cpu, HOST_CAME), 1)
        self._wait(GUEST_CAME, self._came)

    def dismiss(self) -> None:
        """The guest leaves as soon as it is done."""
        add_and_wake(self.actor.cpu, word(self.actor.cpu, LEAVE), 1)
        self._wait(GUEST_LEFT, 1)

    def unmap(self, first: int, pages: int, chunk: int) -> None:
        """Give the pages' memory up; they must be zeros then."""
        arena = self.arena
        self._run(discard_batch, first, pages, chunk, arena.per_slot, arena.slots)
        check_area(self.actor, first, pages, 0, arena.every, "after madvise")

    def check(self, first: int, pages: int, value: int, when: str) -> None:
        """The pages hold so many writes."""
        check_area(self.actor, first, pages, value, self.arena.every, when)

    def check_all(self, first: int, pages: int, value: int) -> None:
        """At the end: every page holds so many writes."""
        check_area(self.actor, first, pages, value, True, "at the end of the run")

    def write(self, first: int, pages: int, least: int) -> None:
        """Write the pages; each must have held `least` or one more, as the guest writes too."""
        self._run(host_write_batch, first, pages, least, 1)
        check_noted(self.actor, "the host", f"{least} to {least + 1}")

    def move_away_and_back(self) -> None:
        """The last memslot goes behind the memory and comes back."""
        config = self.actor.vm.config
        window = 1 << (config.pages - 1).bit_length()
        number, base = self.arena.slots - 1, config.gfn_base + self.arena.last_slot
        move_memslot(self.actor.cpu, number, base + window)
        move_memslot(self.actor.cpu, number, base)
        rest(self.actor.cpu)

    def check_writes(self, first: int) -> None:
        """Every write of the small area that reached memory is there."""
        words = self.actor.vm.region("workload")
        for i in range(MOVE_PAGES):
            written = int(words[WRITES + i]) & VALUE_MASK
            check_area(self.actor, first + i, 1, written, True, "at the end of the run")
