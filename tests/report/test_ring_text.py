"""The last events in words."""

import json

import pytest

from harness.report.ring_text import SHOWN_AFTER, SHOWN_BEFORE, ring_text
from harness.watch.ring import Event
from mmu.machine import layout as at
from mmu.machine.blocking import EXCLUSIVE, SHARED_MASK, SHARED_UNIT
from mmu.machine.conditions import LOCK_HELD
from mmu.machine.events import (
    ACQUIRE,
    AGAIN,
    BLOCK,
    CMPXCHG,
    DIRTY_LOG_CHANGED,
    EMIT,
    FETCH_ADD,
    MEMSLOT_CHANGED,
    POKE,
    PROBE,
    PROBE_CMPXCHG,
    READ_ONCE,
    RELEASE,
    SPTE_CHANGED,
    WARN,
)
from mmu.memslots import STATE_BITS
from mmu.spte import FROZEN
from mmu.vm import Vm, VmConfig

NAMES = ["vcpu 0", "host"]


@pytest.fixture
def vm():
    made = Vm(VmConfig(vcpus=1, pages=64, helpers=1))
    yield made
    made.close()


def entry(vm: Vm) -> int:
    return vm.layout.start("tables") + 3 * 512 + 5


@pytest.mark.parametrize(
    ("kind", "b", "c", "said"),
    [
        (READ_ONCE, 0, 0, "read            table 3 entry 5: holds empty"),
        (CMPXCHG, 0, FROZEN, "cmpxchg         table 3 entry 5: empty -> frozen"),
        (POKE, 0, 1, "poke            table 3 entry 5: becomes empty"),
        (POKE, 0, 512, "table 3 entry 5: becomes empty, and the 511 words behind it"),
        (EMIT + SPTE_CHANGED, 0, FROZEN, "spte_changed    table 3 entry 5: empty -> frozen"),
    ],
)
def test_what_happens_to_an_entry(vm, kind, b, c, said):
    text = ring_text(vm, NAMES, [Event(100, 0, kind, entry(vm), b, c)], None, 2.0)
    (line,) = text.shown()
    assert line.endswith(said)
    assert "+0 ns  vcpu 0" in line


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ((ACQUIRE, at.MMU_LOCK, EXCLUSIVE, SHARED_UNIT), "acquire         mmu_lock: shared"),
        ((ACQUIRE, at.MMU_LOCK, SHARED_MASK, EXCLUSIVE), "acquire         mmu_lock: exclusive"),
        ((RELEASE, at.MMU_LOCK, 0, -EXCLUSIVE), "release         mmu_lock: exclusive"),
        ((FETCH_ADD, at.STAT_TABLES, -1, 0), "fetch_add       tables: -1"),
        ((AGAIN, 0, 0, 0), "again"),
        (
            (EMIT + MEMSLOT_CHANGED, 2, 300 << STATE_BITS | at.SLOT_PRESENT, 0),
            "memslot_changed  slot 2: gfn 300, present",
        ),
        ((EMIT + DIRTY_LOG_CHANGED, 2, 1, 0), "dirty_log_changed  2 1 0"),
        ((BLOCK, at.SLOTS_LOCK, 3, 0), "sleep           slots_lock"),
        ((PROBE, PROBE_CMPXCHG, 1, 0), "probe           cmpxchg is made to fail"),
        ((WARN + LOCK_HELD, 0, 1, 0), "VIOLATION       locks: an actor came to rest"),
        ((READ_ONCE, 1 << 60, 0, 0), f"read            word {1 << 60}, outside the block"),
        ((READ_ONCE, -5, 0, 0), "read            word -5, outside the block"),
    ],
)
def test_what_else_happens(vm, event, said):
    (line,) = ring_text(vm, NAMES, [Event(1, 1, *event)], None, 2.0).shown()
    assert said in line
    assert "host" in line


def test_all_are_stored_by_time_and_what_is_near_is_shown(vm):
    events = [Event(2 * i, 0, FETCH_ADD, at.STAT_TABLES, i, 0) for i in range(100)]
    events.insert(0, Event(0, 1, AGAIN, 0, 0, 0))
    text = ring_text(vm, NAMES, events, 120, 2.0)
    records = [json.loads(line) for line in text.json_lines().splitlines()]
    assert [record["ns"] for record in records[:3]] == [-60, -60, -59]
    assert len(records) == 101
    assert records[61]["ns"] == 0
    assert records[61]["name"] == "tables"
    *shown, heading, other = text.shown()
    assert len(shown) == SHOWN_BEFORE + SHOWN_AFTER
    assert "+60" in shown[SHOWN_BEFORE - 1]
    # Who did nothing at that moment.
    assert heading == "and the last of host:"
    assert other.endswith("again")


def test_no_events_no_text(vm):
    assert ring_text(vm, NAMES, [], None, 2.0) is None
