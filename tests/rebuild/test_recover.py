"""From events to operations, with the steps that tell more and without."""

from __future__ import annotations

import pytest

from harness.rebuild.finding import read_finding
from harness.rebuild.recover import ANY_ACCESS, recover
from mmu.host.frames import MAPPED, MAPPING_RWX
from mmu.machine.layout import SLOT_ABSENT, SLOT_INVALID, SLOT_PRESENT
from mmu.memslots import STATE_BITS
from tests.rebuild.rings import EXECUTE, READ, WRITE, gfn, row, store_run, violation

LEAK = violation("leaks", "2 table pages are lost")


@pytest.fixture
def recovered(tmp_path):
    def of(rows, *violations):
        return recover(read_finding(store_run(tmp_path, rows, *(violations or (LEAK,)))))

    return of


def told(done):
    return [(each.readings, each.page, each.ended) for each in done]


def test_a_fault_that_was_sent_back_is_one_access(recovered):
    rows = [
        row(-40, "vcpu 0", "page_fault", gfn(7), WRITE, 1),
        row(-30, "vcpu 0", "page_fault", gfn(7), WRITE, 4),
        row(-20, "vcpu 0", "guest_access", gfn(7), WRITE, 9),
        row(-10, "vcpu 0", "guest_access", gfn(8), READ, 9),
    ]
    done = recovered(rows)["vcpu 0"]
    assert told(done) == [(("write",), 7, True), (("read",), 8, True)]
    assert [(each.ns, each.faulted) for each in done] == [(-40, True), (-10, False)]


def test_without_accesses_faults_tell(recovered):
    rows = [
        row(-40, "vcpu 0", "page_fault", gfn(7), WRITE, 4),
        row(-30, "vcpu 0", "page_fault", gfn(9), EXECUTE, 4),
    ]
    assert told(recovered(rows)["vcpu 0"]) == [(("write",), 7, False), (("execute",), 9, False)]


def test_a_verdict_belongs_to_the_access_that_follows(recovered):
    text = f"mapping: gfn {gfn(5):#x} was accessed in frame 0x40005, whose owner is gfn 0x3"
    rows = [
        row(-10, "vcpu 1", "guest_access", gfn(4), READ, 4),
        row(0, "vcpu 1", "VIOLATION", gfn(5), text=text),
        row(90, "vcpu 1", "guest_access", gfn(5), READ, 5),
    ]
    done = recovered(rows, violation("mapping", text, "vcpu 1"))["vcpu 1"]
    assert told(done)[-1] == (("read",), 5, True)
    assert done[-1].ns == 0
    without = recovered(rows[:2], violation("mapping", text, "vcpu 1"))["vcpu 1"]
    assert told(without)[-1] == (ANY_ACCESS, 5, False)


def test_a_fault_that_broke_a_rule_is_told_by_its_end(recovered):
    rows = [
        row(0, "vcpu 0", "VIOLATION", text="locks: a function that needs lock 1 ran"),
        row(80, "vcpu 0", "page_fault", gfn(3), WRITE, 4),
    ]
    (done,) = recovered(rows, violation("locks", "a function", "vcpu 0"))["vcpu 0"]
    assert (done.readings, done.page, done.ns, done.guessed) == (("write",), 3, 0, False)
    (guess,) = recovered(rows[:1], violation("locks", "a function", "vcpu 0"))["vcpu 0"]
    assert (guess.readings, guess.ns, guess.guessed) == (ANY_ACCESS, 0, True)


def test_a_root_that_nobody_asked_to_change(recovered):
    rows = [
        row(-90, "vcpu 0", "root_get", 4, 1),
        row(-80, "vcpu 0", "root_put", 4, 2),
        row(-70, "vcpu 0", "root_get", 9, 1),
        row(-60, "vmm", "zap_all_fast"),
        row(-50, "vcpu 0", "root_put", 9, 2),
        row(-40, "vcpu 0", "root_get", 11, 1),
        row(-30, "vcpu 0", "root_put", 11, 1),
    ]
    done = recovered(rows)["vcpu 0"]
    assert told(done) == [(("switch root",), -1, True), (("switch root",), -1, False)]
    assert [each.ns for each in done] == [-70, -30]


def test_what_the_host_did(recovered):
    mapped = MAPPED | MAPPING_RWX
    rows = [
        row(-90, "host", "invalidate_range_start", 5, 6, 1),
        row(-88, "host", "frame_free", 5, 5),
        row(-86, "host", "invalidate_range_end", 5, 6, 1),
        row(-80, "host", "invalidate_range_start", 6, 7, 1),
        row(-78, "host", "invalidate_range_end", 6, 7, 1),
        row(-70, "host", "store_release", 99, mapped, name=f"host mapping of gfn {gfn(7)}"),
        row(-68, "host", "frame_free", 7, 7),
        row(-66, "host", "invalidate_range_end", 7, 8, 1),
        row(-60, "host", "store_release", 99, MAPPED, name=f"host mapping of gfn {gfn(8)}"),
        row(-58, "host", "frame_free", 8, 8),
        row(-56, "host", "invalidate_range_end", 8, 9, 1),
        row(-50, "host", "frame_free", 3, 9),
    ]
    assert told(recovered(rows)["host"]) == [
        (("swap out", "move"), 5, True),
        (("write-protect",), 6, True),
        (("move",), 7, True),
        (("swap out",), 8, True),
        (("swap out", "move"), 9, False),
    ]


@pytest.mark.parametrize("event", [True, False])
def test_logging_switched_on_and_off(recovered, event):
    def changed(ns, on):
        if event:
            return {**row(ns, "vmm", "zap_all_fast"), "do": "dirty_log_changed", "a": 1, "b": on}
        return row(ns, "vmm", "store_release", 50, on, name="slot 1: logged")

    rows = [changed(-90, 1), row(-80, "vmm", "zap_all_fast"), changed(-70, 0)]
    done = recovered(rows)["vmm"]
    assert [each.readings[0] for each in done] == ["log", "delete slot", "stop logging"]
    assert [each.slot for each in done] == [1, -1, 1]


def test_where_no_freed_frame_is_told_the_host_may_have_done_anything(recovered):
    rows = [row(-86, "host", "invalidate_range_end", 5, 6, 1)]
    (done,) = recovered(rows)["host"]
    assert done.readings == ("swap out", "move", "write-protect")


def test_what_the_monitor_did(recovered):
    def place(ns, slot, state, first):
        value = gfn(first) << STATE_BITS | state
        return row(ns, "vmm", "store_release", 50, value, name=f"slot {slot}: place")

    rows = [
        place(-90, 2, SLOT_PRESENT, 3072),
        place(-80, 2, SLOT_INVALID, 3072),
        row(-78, "vmm", "zap_all_fast"),
        row(-70, "vmm", "store_release", 50, SLOT_ABSENT, name="slot 2: place"),
        place(-60, 1, SLOT_INVALID, 2048),
        place(-50, 1, SLOT_PRESENT, 6144),
        row(-45, "vmm", "dirty_log_returned", gfn(0), 1, 0),
        row(-44, "vmm", "dirty_log_returned", gfn(62), 0, 0),
        place(-40, 1, SLOT_INVALID, 6144),
    ]
    done = recovered(rows)["vmm"]
    assert [(each.readings, each.slot, each.ended) for each in done] == [
        (("create slot",), 2, True),
        (("delete slot",), 2, True),
        (("move slot",), 1, True),
        (("harvest",), 0, True),
        (("delete slot", "move slot"), 1, False),
    ]
    # Where tracepoints tell the same, steps besides them say nothing more.
    told_too = []
    for each in rows:
        if "name" in each:
            event = {**each, "do": "memslot_changed", "a": int(each["name"][5]), "name": ""}
            told_too.append(event)
        told_too.append(each)
    assert recovered(told_too)["vmm"] == done
    without = recovered([each for each in rows if "name" not in each])["vmm"]
    assert [each.readings for each in without] == [("delete slot", "move slot"), ("harvest",)]


def test_a_rule_broken_twice_was_broken_the_first_time(recovered):
    rows = [
        row(-90, "vcpu 0", "root_get", 4, 1),
        row(-10, "vcpu 0", "root_put", 4, 2),
        row(0, "vcpu 0", "VIOLATION", text="roots: root page 4 was put with 0 references"),
        row(20, "vcpu 0", "VIOLATION", text="leaks: root page 4 was freed while entry 0 was 1"),
        row(30, "vcpu 0", "root_get", 9, 1),
    ]
    done = recovered(rows, violation("roots", "root page 4 was put", "vcpu 0"))["vcpu 0"]
    assert (done[-1].readings, done[-1].ns) == (("switch root",), 0)


def test_a_migrations_thread_is_the_monitors(recovered):
    rows = [
        row(-90, "migration", "dirty_log_changed", 0, 1),
        row(-50, "vmm", "memslot_changed", 2, SLOT_INVALID),
        row(-40, "vmm", "memslot_changed", 2, SLOT_ABSENT),
        row(-30, "migration", "dirty_log_returned", 0, 0, 1),
    ]
    done = recovered(rows)
    assert "migration" not in done
    assert [each.readings[0] for each in done["vmm"]] == ["log", "delete slot", "harvest"]


def test_threads_that_invalidate_nothing_are_the_hosts_too(recovered):
    rows = [
        row(-90, "kvm-nx-lpage-recovery", "prepare_zap", 12, 0, 1),
        row(-80, "idle scan", "spte_changed", 700, 0, 1),
        row(-70, "kvm-nx-lpage-recovery", "prepare_zap", 13, 0, 1),
    ]
    found = violation("tlb", f"gfn {gfn(5):#x} is cached", "vcpu 0")
    done = recovered([*rows, row(0, "vcpu 0", "VIOLATION", text=found["message"])], found)
    assert told(done["kvm-nx-lpage-recovery"]) == [(("recover nx",), -1, True)]
    assert told(done["idle scan"])[0][0] == ("age",)
