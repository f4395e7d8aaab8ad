"""From operations to programs: who, in which order, on which pages."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice

import pytest

from harness.explore.world import World
from harness.rebuild.candidates import candidates
from harness.rebuild.finding import read_finding
from harness.rebuild.geometry import Small
from harness.rebuild.recover import recover
from mmu.machine.layout import SLOT_ABSENT, SLOT_INVALID, SLOT_PRESENT
from mmu.memslots import STATE_BITS
from tests.rebuild.rings import READ, VM, WRITE, gfn, row, store_run, violation
from workloads.scenarios.generated import read_program

STALE = f"gfn {gfn(700):#x} was accessed in frame 0x402bc, whose owner is gfn 0x3"


def programs(tmp_path, rows, *violations, **changes):
    finding = read_finding(store_run(tmp_path, rows, *violations, **changes))
    return [each.program for each in candidates(finding, recover(finding))]


def stale_access(*more):
    """vCPU 1 writes a page that the host has moved; others do other things later."""
    return [
        row(-900, "host", "frame_free", 5, 700),
        row(-890, "host", "invalidate_range_end", 700, 701, 1),
        row(-300, "host", "invalidate_range_end", 9, 10, 1),
        row(-200, "vcpu 0", "page_fault", gfn(701), READ, 4),
        row(-100, "vcpu 1", "page_fault", gfn(3), READ, 4),
        *more,
        row(0, "vcpu 1", "VIOLATION", gfn(700), text=f"mapping: {STALE}"),
        row(50, "vcpu 1", "guest_access", gfn(700), WRITE, 5),
    ]


def test_the_likeliest_come_first(tmp_path):
    made = programs(tmp_path, stale_access(), violation("mapping", STALE, "vcpu 1"))
    first = made[0]
    assert [(part.name, part.operations) for part in first.parts] == [("vcpu 0", (("write", 1),))]
    assert first.before == (("vcpu 0", ("write", 1)),)
    pairs = [p for p in made if [part.name for part in p.parts] == ["vcpu 0", "host"]]
    # The host's operation on that page, though a later one was on another.
    assert pairs[0].parts[1].operations == (("swap out", 1),)
    assert pairs[1].parts[1].operations == (("move", 1),)
    sizes = [max(len(part.operations) for part in each.parts) for each in made]
    assert sizes == sorted(sizes)


def test_every_one_can_be_stored_and_set_up(tmp_path):
    made = programs(tmp_path, stale_access(), violation("mapping", STALE, "vcpu 1"))
    assert len(made) > 20
    documents = [each.document() for each in made]
    assert all(one not in documents[:number] for number, one in enumerate(documents))
    for program in made:
        assert read_program(program.document(), "x").document() == program.document()


def test_a_worker_where_roots_are_left_to_one(tmp_path):
    slot = [
        row(ns, "vmm", "store_release", 50, gfn(3072) << STATE_BITS | state, name="slot 2: place")
        for ns, state in ((-700, SLOT_PRESENT), (-600, SLOT_INVALID))
    ]
    slot.append(row(-500, "vmm", "store_release", 50, SLOT_ABSENT, name="slot 2: place"))
    found = violation("mapping", STALE, "vcpu 1")
    made = programs(tmp_path, stale_access(*slot), found)
    changing = [p for p in made if any(part.name == "vmm" for part in p.parts)]
    assert changing
    for program in changing:
        assert program.parts[-1].operations == (("serve",),)
        assert program.options["slots"] == 2
    deleted = [p for p in changing if ("delete slot", 1) in p.parts[-2].operations]
    assert deleted
    assert all(p.options["absent_slots"] == 0 for p in deleted[:4])
    # A longer one begins with the creation: the memslot is nowhere before.
    created = [p for p in changing if any(("create slot", 1, 4) in x.operations for x in p.parts)]
    assert created
    assert all(p.options["absent_slots"] == 1 for p in created)


def test_memslots_are_changed_only_as_kvm_allows(tmp_path):
    def place(ns, slot, state):
        word = gfn(3072) << STATE_BITS | state
        return row(ns, "vmm", "store_release", 50, word, name=f"slot {slot}: place")

    slot = []
    for ns, number in ((-900, 2), (-800, 1), (-700, 2)):
        slot += [place(ns, number, SLOT_INVALID), place(ns + 20, number, SLOT_ABSENT)]
        slot.append(place(ns + 50, number, SLOT_PRESENT))
    slot += [place(-640, 1, SLOT_INVALID), place(-630, 1, SLOT_PRESENT)]
    rows = sorted(stale_access(*slot), key=lambda each: each["ns"])
    seen = set()
    levels = set()
    for program in programs(tmp_path, rows, violation("mapping", STALE, "vcpu 1")):
        slots = program.options["slots"]
        there = [number < slots - program.options["absent_slots"] for number in range(slots)]
        for part in program.parts:
            for what, *operands in part.operations:
                if what == "move slot":
                    levels.add(program.options["levels"])
                if what in ("create slot", "delete slot", "move slot"):
                    assert there[operands[0]] == (what != "create slot"), program
                    there[operands[0]] = what != "delete slot"
                    seen.add(what)
    assert seen == {"create slot", "delete slot", "move slot"}
    assert levels == {4}


def test_a_zap_worker_that_noticed_is_there(tmp_path):
    text = f"gfn {gfn(700):#x}: frame 0x5 was marked dirty or accessed"
    rows = [
        *stale_access()[:-2],
        row(-400, "vmm", "zap_all_fast"),
        row(0, "zap worker", "VIOLATION", text=f"frames: {text}"),
    ]
    for program in programs(tmp_path, rows, violation("frames", text, "zap worker")):
        assert program.parts[-1].name == "zap worker"


def test_an_audit_names_nobody(tmp_path):
    rows = stale_access()[:-2]
    made = programs(tmp_path, rows, violation("leaks", "2 table pages are lost"))
    casts = {tuple(part.name for part in each.parts) for each in made if each.parts[0].operations}
    assert ("vcpu 0", "vcpu 1") in casts
    assert ("vcpu 0", "vcpu 1", "host") in casts
    # They may have met on one page, which their last operations do not show.
    pairs = [p.parts for p in made if [part.name for part in p.parts] == ["vcpu 0", "vcpu 1"]]
    assert any(one.operations == other.operations for one, other in pairs)
    assert any(one.operations != other.operations for one, other in pairs)


def test_the_runs_policies(tmp_path):
    changes = {"vm": {**asdict(VM), "root_life": "owned", "zap_by": "caller", "backing_level": 3}}
    found = violation("mapping", STALE, "vcpu 1")
    for program in programs(tmp_path, stale_access(), found, **changes):
        assert program.options["root_life"] == "owned"
        assert program.options["backing_level"] == 2
        assert program.parts[-1].name != "zap worker"


@pytest.fixture
def memory(tmp_path):
    return read_finding(store_run(tmp_path, stale_access(), violation("mapping", STALE))).memory


def test_pages_keep_their_relations(memory):
    # The same table, another table, another memslot.
    small = Small(memory, [700, 701, 1500, 3000], [])
    assert small.slots == 2
    assert small.page(700) >> 1 == small.page(701) >> 1
    assert small.page(1500) >> 1 != small.page(700) >> 1
    assert small.page(3000) >= small.base(small.slot(2))
    assert len({small.page(page) for page in (700, 701, 1500, 3000)}) == 4


def test_the_first_of_a_huge_page_stays_one(memory):
    assert Small(memory, [512], []).page(512) % 2 == 0
    assert Small(memory, [513], []).page(513) % 2 == 1
    small = Small(memory, [1024, 1025], [])
    assert (small.page(1024) % 2, small.page(1025)) == (0, small.page(1024) + 1)


def test_more_pages_than_there_are(memory):
    pages = list(range(0, 2048, 64))
    small = Small(memory, pages, [0, 1, 2])
    assert {small.page(page) for page in pages} == {0, 1, 2, 3}


def test_all_on_one_page(memory):
    small = Small(memory, [700, 5, 1500], [], together=True)
    assert len({small.page(page) for page in (700, 5, 1500)}) == 1


def test_the_first_hundred_are_few_operations(tmp_path):
    made = programs(tmp_path, stale_access(), violation("mapping", STALE, "vcpu 1"))
    for program in islice(made, 10):
        assert sum(len(part.operations) for part in program.parts) <= 4


# --- What torture's runs look like ---------------------------------------------------------------


def test_every_thread_of_the_host_is_one_of_its_actors(tmp_path):
    message = "-1 invalidations are in progress"
    rows = [
        row(-300, "host", "frame_free", 5, 700),
        row(-290, "host", "invalidate_range_end", 700, 701, 1),
        row(-90, "ksm", "invalidate_range_start", 3, 4, 1),
        row(0, "ksm", "VIOLATION", text=f"balance: {message}"),
    ]
    found = violation("balance", message, "ksm")
    made = programs(tmp_path, rows, found)
    assert [part.name for part in made[0].parts] == ["vcpu 0", "host"]
    assert made[0].parts[1].operations[0][0] in ("write-protect", "swap out")
    both = [p for p in made if [part.name for part in p.parts] == ["vcpu 0", "host 0", "host 1"]]
    assert {part.operations[0][0] for part in both[0].parts[1:]} == {"swap out"}
    for program in both[:5]:
        assert read_program(program.document(), "x").document() == program.document()
        World(program.scenario()).close()


def test_the_page_that_is_named_first_matters_most(tmp_path):
    """The frame's new owner has been taken away later, which is not why the access was wrong."""
    message = f"gfn {gfn(700):#x} was accessed in frame 0x402bc, whose owner is gfn {gfn(9):#x}"
    rows = [
        row(-900, "host", "frame_free", 5, 700),
        row(-890, "host", "invalidate_range_end", 700, 701, 1),
        row(-310, "host", "frame_free", 5, 9),
        row(-300, "host", "invalidate_range_end", 9, 10, 1),
        row(0, "vcpu 1", "VIOLATION", gfn(700), text=f"mapping: {message}"),
        row(50, "vcpu 1", "guest_access", gfn(700), WRITE, 5),
    ]
    made = programs(tmp_path, rows, violation("mapping", message, "vcpu 1"))
    pairs = [p for p in made if [part.name for part in p.parts] == ["vcpu 0", "host"]]
    write = next(part.operations for part in pairs[0].parts if part.name == "vcpu 0")
    assert pairs[0].parts[1].operations == (("swap out", write[0][1]),)


def test_what_broke_later_is_not_what_is_looked_for(tmp_path):
    dropped = "host page 0x2bc was dropped as clean while it held 0x2 and its copy on disk 0x0"
    rows = [
        row(0, "vcpu 0", "VIOLATION", text="roots: root page 29 was put with 0 references"),
        row(9, "host", "VIOLATION", text=f"dirty: {dropped}"),
    ]
    violations = (
        violation("roots", "root page 29 was put with 0 references", "vcpu 0"),
        violation("dirty", dropped, "host"),
    )
    finding = read_finding(store_run(tmp_path, rows, *violations))
    assert finding.message.startswith("root page 29")
    assert finding.pages == ()
