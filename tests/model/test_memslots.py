"""Memslots that come, go and move: what is memory then, what is mapped, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.watch.stepper import Stepper
from mmu.fault import handle_page_fault
from mmu.guest import guest_access, vcpu_load, vm_exit
from mmu.host.frames import VALUE_SHIFT
from mmu.hw.vcpu import SRCU_HELD, leave_guest
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.events import ACQUIRE, WAIT_WHILE
from mmu.machine.twin import interpreted
from mmu.memslots import STATE_BITS
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_READ, ACCESS_WRITE, MMIO_GENERATION_MASK
from mmu.tdp.map import RET_PF_EMULATE, RET_PF_RETRY
from tests.model.worlds import PAGES, World, modes, world

VMM, HOST = 1, 2
SLOTS = 2
SLOT = PAGES // SLOTS  # pages of a memslot
WINDOWS = 4  # places that a slot can have: PAGES gfns apart


def slots_world(twin: bool, **options: Any):
    """Two slots; room for several places of each below one root."""
    return world(twin, **{"helpers": 2, "slots": SLOTS, "bits": 2, "roots": 3, **options})


def home(slot: int, window: int) -> int:
    return window * PAGES + slot * SLOT


# --- What is memory ------------------------------------------------------------------------------


class Places:
    """Where the slots are, and what was written to each host page."""

    def __init__(self, it: World) -> None:
        self.it = it
        self.base: list[int | None] = [home(0, 0), None]
        self.written = [0] * PAGES
        self.holes = self.changes = 0

    def page_at(self, gfn: int) -> int | None:
        """The host page that a gfn shows."""
        for slot, base in enumerate(self.base):
            if base is not None and base <= gfn < base + SLOT:
                return slot * SLOT + gfn - base
        return None

    def act(self, what: str, number: int, window: int) -> None:
        """One action, if it is possible now; its effects at once."""
        it = self.it
        if what == "touch":
            self.touch(window * PAGES + number)
            return
        slot = number % SLOT % SLOTS
        there, base = self.base[slot] is not None, home(slot, window)
        mapped = it.mapped()
        if what == "create" and not there:
            it.run(create_memslot, VMM, slot, base)
            assert it.mapped() == mapped
        elif what == "delete" and there:
            it.run(delete_memslot, VMM, slot)
            assert it.mapped() == set()
        elif what == "move" and there:
            it.run(move_memslot, VMM, slot, base)
            assert it.mapped() == set()
        else:
            return
        self.base[slot] = None if what == "delete" else base
        self.changes += 1

    def touch(self, gfn: int) -> None:
        page = self.page_at(gfn)
        assert self.it.touch([gfn], ACCESS_WRITE) == (page is not None)
        assert (gfn in self.it.mapped()) == (page is not None)
        if page is None:
            self.holes += 1
        else:
            self.written[page] += 1

    def check(self) -> None:
        it = self.it
        assert (it.vm.frames >> VALUE_SHIFT).tolist() == self.written
        assert it.count(at.N_MMIO_EXITS) == self.holes
        assert it.count(at.N_SLOTS_CHANGED) == self.changes
        assert it.problems() == []


actions = st.tuples(
    st.sampled_from(["touch", "touch", "touch", "create", "delete", "move"]),
    st.integers(0, PAGES - 1),
    st.integers(0, WINDOWS - 1),
)


@modes
@pytest.mark.parametrize("life", ["put", "owned"])
@given(st.lists(actions, max_size=12))
def test_slots_show_their_memory_wherever_they_are(
    twin: bool, life: str, script: list[tuple[str, int, int]]
) -> None:
    with slots_world(twin, absent_slots=1, root_life=life) as it:
        places = Places(it)
        for each in script:
            places.act(*each)
            places.check()


@modes
def test_every_access_of_a_hole_is_an_exit_of_its_own(twin: bool) -> None:
    with slots_world(twin, absent_slots=1) as it:
        assert it.touch([0, SLOT, SLOT, SLOT + 1, 5 * PAGES, 1], ACCESS_READ) == 2
        assert it.count(at.N_MMIO_EXITS) == 4
        assert it.count(at.N_ACCESSES) == 2
        assert it.mapped() == {0, 1}
        it.run(create_memslot, VMM, 1, home(1, 0))
        assert it.touch([SLOT, SLOT + 1], ACCESS_READ) == 2
        assert it.count(at.N_MMIO_EXITS) == 4
        assert it.problems() == []


@modes
def test_a_hole_is_looked_up_again_only_after_a_change(twin: bool) -> None:
    with slots_world(twin, absent_slots=1) as it:

        def counted() -> tuple[int, ...]:
            words = (at.N_PF_TAKEN, at.N_PF_MMIO_SPTE_CREATED, at.N_MMIO_SPTE_HITS)
            return tuple(it.count(word) for word in words)

        assert it.touch([SLOT, SLOT, SLOT], ACCESS_WRITE) == 0
        assert counted() == (1, 1, 2)
        # The memslot comes to another place: the hole stays one, but nobody could know.
        it.run(create_memslot, VMM, 1, home(1, 1))
        assert it.touch([SLOT, SLOT], ACCESS_READ) == 0
        assert counted() == (2, 2, 3)
        # All roots go with a deletion, their MMIO entries too.
        it.run(delete_memslot, VMM, 1)
        assert it.touch([SLOT], ACCESS_WRITE) == 0
        assert counted() == (3, 3, 3)
        assert it.count(at.N_MMIO_EXITS) == 6
        assert it.problems() == []


@modes
def test_an_old_entry_is_not_believed_when_the_generation_wraps(twin: bool) -> None:
    with slots_world(twin, absent_slots=1) as it:
        it.touch([SLOT])
        it.vm.words[at.SLOTS_GENERATION] = MMIO_GENERATION_MASK
        it.run(create_memslot, VMM, 1, home(1, 0))
        assert it.vm.words[at.SLOTS_GENERATION] & MMIO_GENERATION_MASK == 0
        assert it.count(at.N_ROOTS_INVALIDATED) == 1
        assert it.touch([SLOT]) == 1
        assert it.problems() == []


@modes
def test_an_mmio_entry_in_a_memslot_is_noticed(twin: bool) -> None:
    with slots_world(twin, absent_slots=1) as it:
        it.touch([SLOT])
        place = it.vm.layout.start("slots") + at.SLOT_WORDS + at.SLOT_PLACE
        it.vm.words[place] = home(1, 0) << STATE_BITS | at.SLOT_PRESENT
        assert any("MMIO entries are wrong" in each for each in it.problems())
        it.touch([SLOT])
        assert any("was emulated as a device" in each for each in it.problems())


@modes
def test_a_moved_slots_memory_is_unmapped_where_it_is_now(twin: bool) -> None:
    with slots_world(twin) as it:
        it.touch(range(PAGES))
        it.run(move_memslot, VMM, 0, home(0, 2))
        moved = range(home(0, 2), home(0, 2) + SLOT)
        assert it.touch([0, 1]) == 0
        assert it.touch(moved) == SLOT
        it.run(invalidate_range_start, HOST, 2, 5, 1)
        assert it.mapped() == set(moved) - {home(0, 2) + page for page in (2, 3, 4)}
        it.run(invalidate_range_end, HOST, 2, 5)
        assert it.problems() == []


@modes
def test_a_slot_that_goes_is_unmapped_in_every_root(twin: bool) -> None:
    with slots_world(twin, vcpus=2) as it:
        it.touch(range(4), vcpu=0)
        it.run(switch_root, 1, 1 << 3 | 4)
        it.touch(range(4), vcpu=1)
        old = [it.root_of(0), it.root_of(1)]
        it.run(delete_memslot, 2, 0)
        assert [it.mapped_below(root) for root in old] == [set(), set()]
        assert it.count(at.N_ROOTS_INVALIDATED) == 2
        assert it.touch([0, SLOT], vcpu=0) == 1
        assert it.root_of(0) not in old
        assert it.problems() == []


@modes
@pytest.mark.parametrize("remembered", [False, True])
def test_a_slot_that_is_about_to_go_is_no_hole_and_maps_nothing(
    twin: bool, remembered: bool
) -> None:
    with slots_world(twin) as it:
        # The vCPU looks first at the slot that it used last.
        it.touch([2] if remembered else [])
        mapped = it.mapped()
        it.run(vcpu_load, 0)
        it.run(vm_exit, 0)
        word = it.vm.layout.start("slots") + at.SLOT_PLACE
        it.vm.words[word] = home(0, 0) << STATE_BITS | at.SLOT_INVALID
        assert it.run(handle_page_fault, 0, 3, ACCESS_READ, 0) == RET_PF_RETRY
        assert (it.mapped(), it.count(at.N_MMIO_EXITS)) == (mapped, 0)
        it.vm.words[word] = at.SLOT_ABSENT
        assert it.run(handle_page_fault, 0, 3, ACCESS_READ, 0) == RET_PF_EMULATE
        assert (it.mapped(), it.count(at.N_MMIO_EXITS)) == (mapped, 1)


@modes
@given(st.integers(1, PAGES - 1), st.integers(2, 3), st.sampled_from([1, 2]))
def test_no_huge_page_reaches_out_of_its_slot(
    twin: bool, cut: int, backing: int, bits: int
) -> None:
    with slots_world(twin, slot_pages=(cut, PAGES - cut), backing_level=backing, bits=bits) as it:
        assert it.touch(range(PAGES)) == PAGES
        leafs = it.leafs()
        assert all(last < cut or first >= cut for first, last in leafs)
        # As large as slot and host allow: every aligned block inside one slot is one leaf.
        for level in range(2, backing + 1):
            pages = 1 << bits * (level - 1)
            for first in range(0, PAGES, pages):
                if first + pages <= cut or cut <= first:
                    assert any(a <= first and first + pages - 1 <= b for a, b in leafs)
        assert it.problems() == []


# --- Who waits for whom --------------------------------------------------------------------------


def change(kernel: Callable[..., Any], *arguments: int) -> Callable[[Cpu], None]:
    def body(cpu: Cpu) -> None:
        interpreted(kernel)(cpu, *arguments)

    return body


def runs_until(stepper: Stepper, actor: int, word: int, kind: int) -> bool:
    """Let the actor run; whether it had to wait for `word`."""
    while actor in stepper.pending and stepper.enabled(actor):
        stepper.step(actor)
    return actor in stepper.pending and stepper.pending[actor][:2] == (kind, word)


CHANGES = [(create_memslot, 1, home(1, 1)), (delete_memslot, 0), (move_memslot, 0, home(0, 1))]


@pytest.mark.parametrize("what", CHANGES, ids=lambda what: what[0].__name__)
def test_a_change_waits_for_the_end_of_an_invalidation(what: tuple[Any, ...]) -> None:
    with slots_world(True, absent_slots=1) as it:
        it.run(invalidate_range_start, HOST, 0, 2, 1)
        stepper = Stepper({VMM: (it.vm.cpu(VMM), change(*what))})
        places = it.vm.words[it.vm.layout.start("slots") :][: SLOTS * at.SLOT_WORDS]
        before = places[:: at.SLOT_WORDS].tolist()
        assert runs_until(stepper, VMM, at.NOTIFIERS, ACQUIRE)
        assert places[:: at.SLOT_WORDS].tolist() == before
        it.run(invalidate_range_end, HOST, 0, 2)
        assert not runs_until(stepper, VMM, at.NOTIFIERS, ACQUIRE)
        assert stepper.pending == {}
        assert places[:: at.SLOT_WORDS].tolist() != before
        assert it.problems() == []


@pytest.mark.parametrize("what", CHANGES, ids=lambda what: what[0].__name__)
def test_a_change_waits_for_exits_that_began_before(what: tuple[Any, ...]) -> None:
    with slots_world(True, absent_slots=1) as it:
        it.run(vcpu_load, 0)
        it.run(leave_guest, 0, SRCU_HELD)  # handles an exit: it may have looked the slot up
        stepper = Stepper({VMM: (it.vm.cpu(VMM), change(*what))})
        state = it.vm.layout.actor(0) + at.VCPU_STATE
        assert runs_until(stepper, VMM, state, WAIT_WHILE)
        it.run(leave_guest, 0, 0)
        assert not runs_until(stepper, VMM, state, WAIT_WHILE)
        assert stepper.pending == {}
        assert it.problems() == []


def test_two_changes_take_turns() -> None:
    with slots_world(True, absent_slots=1) as it:
        stepper = Stepper(
            {
                VMM: (it.vm.cpu(VMM), change(*CHANGES[0])),
                HOST: (it.vm.cpu(HOST), change(*CHANGES[1])),
            }
        )
        stepper.step(VMM)
        assert runs_until(stepper, HOST, at.SLOTS_LOCK, ACQUIRE)
        assert not runs_until(stepper, VMM, at.SLOTS_LOCK, ACQUIRE)
        assert not runs_until(stepper, HOST, at.SLOTS_LOCK, ACQUIRE)
        assert it.count(at.N_SLOTS_CHANGED) == 2


@given(st.data())
def test_no_access_reaches_a_slot_that_is_gone(data: st.DataObject) -> None:
    """Under any schedule: once deletion has returned, accesses are exits."""
    with slots_world(True) as it:

        def guest(cpu: Cpu) -> list[int]:
            interpreted(vcpu_load)(cpu)
            reached = [interpreted(guest_access)(cpu, gfn, ACCESS_WRITE) for gfn in (0, 1, 0)]
            interpreted(vm_exit)(cpu)
            interpreted(leave_guest)(cpu, 0)
            return reached

        stepper = Stepper(
            {0: (it.vm.cpu(0), guest), VMM: (it.vm.cpu(VMM), change(delete_memslot, 0))}
        )
        random = data.draw(st.randoms(use_true_random=False))
        while able := [actor for actor in sorted(stepper.pending) if stepper.enabled(actor)]:
            stepper.step(random.choice(able))
        assert stepper.pending == {}, "deadlock"
        reached = stepper.results[0]
        assert reached == sorted(reached, reverse=True)  # never memory again
        assert int(it.vm.frames[0] >> VALUE_SHIFT) == reached[0] + reached[2]
        assert it.touch([0, 1]) == 0
        assert it.mapped() == set()
        assert it.problems() == []
