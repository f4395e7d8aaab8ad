"""The stress watch answers as nobody would, injects what it was asked to, and keeps rings."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from harness.watch.block import KINDS
from harness.watch.inject import IN_A_ROW_MAX, Injection, parse_injection, threshold
from harness.watch.stress import StressWatch, Watching, watch_stress
from mmu.dirty_log import enable_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.conditions import LIFETIME_OUTSIDE, LOCK_HELD, LOCK_MODE
from mmu.machine.events import (
    AGAIN,
    BLOCK,
    CLOCK,
    CMPXCHG,
    COST,
    COST_EXIT,
    DIRTY_LOG_CHANGED,
    DRAW,
    EMIT,
    FETCH_ADD,
    FREQUENT,
    GO,
    MEMSLOT_CHANGED,
    PAGE_FAULT,
    PEEK,
    POKE,
    PROBE,
    PROBE_CMPXCHG,
    PROBE_CONTEND,
    PROBE_RETRY,
    READ_ONCE,
    ROOT_GET,
    SPTE_CHANGED,
    STOP,
    STOPPED,
    TLB_FLUSH,
    WARN,
    XCHG,
)
from mmu.machine.lock import slots_unlock
from mmu.memslots import STATE_BITS
from mmu.slot_changes import delete_memslot
from mmu.spte import ACCESS_READ
from mmu.vm import GFN_BASE, Vm, VmConfig
from workloads.errors import UsageError

HOOK = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 6)
PROBES = (PROBE_RETRY, PROBE_CMPXCHG, PROBE_CONTEND)
WORD = at.HEADER_BENCH

Ask = Callable[..., int]


@pytest.fixture
def vm() -> Iterator[Vm]:
    made = Vm(VmConfig(vcpus=2, pages=64))
    yield made
    made.close()


def asker(watch: StressWatch, actor: int = 0) -> Ask:
    hook = HOOK(abs(watch.hook))
    # It holds the watch, whose memory must live as long as its hook may be called.
    return lambda kind, a=0, b=0, c=0: hook(watch.ctx(actor), actor, kind, a, b, c)


def kinds(watch: StressWatch, actor: int = 0) -> list[tuple[int, ...]]:
    return [(each.kind, each.a, each.b, each.c) for each in watch.ring(actor)]


# --- Answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "watching",
    [
        Watching(ring=8, ring_steps=True),
        Watching(bounds=True),
        Watching(inject=Injection(delay=1e-9, delay_ns=1)),
        Watching(bounds=True, inject=parse_injection("delay=1e-9:1"), ring=8, seed=3),
    ],
)
def test_questions_are_answered_as_nobody_would(vm, watching):
    ask = asker(StressWatch(vm, watching))
    assert ask(STOPPED) == ask(AGAIN) == ask(BLOCK, WORD, 3) == GO
    assert ask(DRAW, 5) == 0
    assert [ask(PROBE, which) for which in PROBES] == [0, 0, 0]
    assert ask(EMIT + ROOT_GET, 1) == ask(COST + COST_EXIT, 1) == GO
    assert [ask(kind, WORD) for kind in (READ_ONCE, CMPXCHG, PEEK, POKE)] == [GO] * 4
    first, second = ask(CLOCK), ask(CLOCK)
    assert 0 < first < second < STOP


def test_nothing_asked_for_is_no_watch():
    assert not Watching()
    assert Watching(bounds=True)
    assert Watching(ring=1)
    assert not Watching(ring_steps=True)
    assert Watching(inject=Injection(retry=0.5))


def test_a_wild_step_stops_its_actor_for_good_and_nobody_else(vm):
    watch = StressWatch(vm, Watching(bounds=True, ring=4, ring_steps=True))
    first, second = asker(watch, 0), asker(watch, 1)
    assert first(READ_ONCE, len(vm.words) - 1) == GO
    assert first(XCHG, len(vm.words)) == STOP
    assert [first(kind, WORD) for kind in (READ_ONCE, STOPPED, CLOCK, PROBE)] == [STOP] * 4
    assert second(READ_ONCE, WORD) == GO
    words = vm.actor_words(0)
    assert words[at.VIOLATIONS] == 1
    assert words[at.VIOLATION_CONDITION] == LIFETIME_OUTSIDE
    assert words[at.VIOLATION_A] == len(vm.words)
    assert kinds(watch)[-1][:3] == (WARN + LIFETIME_OUTSIDE, len(vm.words), XCHG)


# --- Injection -----------------------------------------------------------------------------------


def answers(vm: Vm, which: int, *, seed: int = 1, actor: int = 0, others: int = 0) -> list[int]:
    inject = Injection(retry=0.3, cmpxchg=0.3, contention=0.3, delay=0.5, delay_ns=1)
    ask = asker(StressWatch(vm, Watching(inject=inject, seed=seed)), actor)
    found = []
    for _ in range(200):
        for other in range(others):
            ask(PROBE, PROBES[other])
            ask(FETCH_ADD, WORD, 1)
        found.append(ask(PROBE, which))
    return found


def test_the_sequence_follows_from_seed_actor_and_kind(vm):
    expected = answers(vm, PROBE_RETRY)
    assert 30 < sum(expected) < 90
    assert answers(vm, PROBE_RETRY) == expected
    assert answers(vm, PROBE_RETRY, seed=2) != expected
    assert answers(vm, PROBE_RETRY, actor=1) != expected
    assert answers(vm, PROBE_CMPXCHG) != expected
    # What else was asked in between does not matter.
    contended = answers(vm, PROBE_CONTEND)
    assert answers(vm, PROBE_CONTEND, others=2) == contended


@pytest.mark.parametrize("number", range(3))
def test_certain_failures_stop_after_some_in_a_row(vm, number):
    inject = parse_injection(f"{KINDS[number]}=1.0")
    watch = StressWatch(vm, Watching(inject=inject))
    ask = asker(watch)
    found = [ask(PROBE, PROBES[number]) for _ in range(4 * (IN_A_ROW_MAX + 1))]
    assert found == ([1] * IN_A_ROW_MAX + [0]) * 4
    assert [ask(PROBE, which) for which in PROBES if which != PROBES[number]] == [0, 0]
    counted = {"chances": 4 * (IN_A_ROW_MAX + 1), "injected": 4 * IN_A_ROW_MAX}
    assert watch.injected() == {KINDS[number]: counted}


def test_interpreted_it_says_the_same(vm):
    inject = Injection(retry=0.3, contention=0.6)
    compiled, plain = (StressWatch(vm, Watching(inject=inject, seed=5)) for _ in range(2))
    ask = asker(compiled, 1)
    for turn in range(100):
        which = PROBES[turn % 3]
        assert ask(PROBE, which) == watch_stress(plain.ctx(1), 1, PROBE, which, 0, 0)
    assert compiled.injected() == plain.injected()


def test_a_delay_lasts_as_long_as_asked(vm):
    watch = StressWatch(vm, Watching(inject=parse_injection("delay=1:200000")))
    ask = asker(watch)
    began = time.monotonic_ns()
    for _ in range(10):
        ask(READ_ONCE, WORD)
    assert time.monotonic_ns() - began > 1_900_000
    assert watch.injected()["delay"] == {"chances": 10, "injected": 10}
    ask(PEEK, WORD)  # of memory that nobody else sees
    ask(STOPPED)
    assert watch.injected()["delay"]["chances"] == 10


def test_probabilities_between_never_and_always():
    assert threshold(0.0) == 0
    assert threshold(1e-30) == 1
    assert threshold(0.5) == 1 << 30
    assert threshold(1.0) == 1 << 31


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retry=0.5", Injection(retry=0.5)),
        ("retry=1e-3, cmpxchg=.25", Injection(retry=0.001, cmpxchg=0.25)),
        ("contention=1,delay=0.01:500", Injection(contention=1.0, delay=0.01, delay_ns=500)),
        ("cmpxchg=0", Injection()),
    ],
)
def test_what_is_written_is_what_is_injected(text, expected):
    assert parse_injection(text) == expected
    if str(expected):
        assert parse_injection(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "retry=P,cmpxchg=P,contention=P,delay=P:NS"),
        ("retry", "retry=P"),
        ("retry=0.1,", "retry=P"),
        ("often=0.1", "'often=0.1' is no injection"),
        ("retry=1.5", "a number from 0 to 1"),
        ("retry=-0.1", "a number from 0 to 1"),
        ("retry=nan", "a number from 0 to 1"),
        ("retry=0.1,retry=0.2", "retry is given twice"),
        ("delay=0.1", "delay=P:NS"),
        ("delay=0.1:fast", "delay=P:NS"),
        ("delay=0.1:0", "1 to 1000000000 ns"),
        ("delay=0.1:2000000000", "1 to 1000000000 ns"),
        ("delay=2:100", "a number from 0 to 1"),
        ("x" * 500, "..."),
    ],
)
def test_what_cannot_be_injected_is_said(text, said):
    with pytest.raises(UsageError) as caught:
        parse_injection(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


# --- Rings ---------------------------------------------------------------------------------------


def test_a_ring_keeps_the_last_events_in_order(vm):
    watch = StressWatch(vm, Watching(ring=5, ring_steps=True))
    ask = asker(watch)
    for i in range(100):
        ask(FETCH_ADD, WORD, i)
        assert len(watch.ring(0)) == min(i + 1, 5)
    assert kinds(watch) == [(FETCH_ADD, WORD, i, 0) for i in range(95, 100)]
    stamps = [each.ticks for each in watch.ring(0)]
    assert stamps == sorted(stamps)
    assert stamps[0] < stamps[-1]
    assert watch.ring(1) == []


def test_a_read_shows_what_the_word_held(vm):
    watch = StressWatch(vm, Watching(ring=5, ring_steps=True))
    vm.words[WORD] = 77
    asker(watch)(READ_ONCE, WORD)
    assert kinds(watch) == [(READ_ONCE, WORD, 77, 0)]


def test_what_says_nothing_is_left_out(vm):
    watch = StressWatch(vm, Watching(ring=20, ring_steps=True))
    ask = asker(watch)
    for kind in (STOPPED, CLOCK, DRAW, PROBE, PEEK, COST + COST_EXIT):
        ask(kind, WORD)
    assert watch.ring(0) == []
    for i in range(512):
        ask(POKE, WORD + i, 9)
    ask(POKE, WORD + 512, 8)
    ask(AGAIN)
    assert kinds(watch) == [(POKE, WORD, 9, 512), (POKE, WORD + 512, 8, 1), (AGAIN, 0, 0, 0)]


def test_an_injected_failure_is_in_the_ring(vm):
    watch = StressWatch(vm, Watching(ring=20, inject=parse_injection("cmpxchg=1")))
    ask = asker(watch)
    assert ask(PROBE, PROBE_RETRY) == 0
    assert ask(PROBE, PROBE_CMPXCHG) == 1
    assert kinds(watch) == [(PROBE, PROBE_CMPXCHG, 1, 0)]


def test_rings_stand_still_after_the_first_broken_rule(vm):
    watch = StressWatch(vm, Watching(ring=50, ring_steps=True))
    first, second = asker(watch, 0), asker(watch, 1)
    first(FETCH_ADD, WORD, 1)
    second(FETCH_ADD, WORD, 2)
    first(WARN + LOCK_HELD, 0, 1, 2)
    time.sleep(0.001)
    first(FETCH_ADD, WORD, 3)
    for i in range(100):
        second(FETCH_ADD, WORD, i)
    assert [each.kind for each in watch.events()] == [FETCH_ADD, FETCH_ADD, WARN + LOCK_HELD]
    assert watch.moment() == watch.ring(0)[-1].ticks


def test_nothing_is_taken_once_the_supervisor_says_so(vm):
    watch = StressWatch(vm, Watching(ring=50, ring_steps=True))
    ask = asker(watch)
    ask(FETCH_ADD, WORD, 1)
    watch.stand_still()
    ask(FETCH_ADD, WORD, 2)
    assert kinds(watch) == [(FETCH_ADD, WORD, 1, 0)]
    assert watch.moment() is None


@pytest.mark.parametrize(
    "watching",
    [
        Watching(ring=100),
        Watching(ring=100, bounds=True),
        Watching(ring=100, inject=parse_injection("delay=1e-9:1")),
    ],
)
def test_without_steps_a_ring_holds_what_an_actor_did(vm, watching):
    watch = StressWatch(vm, watching)
    cpu = vm.cpu(0, hook=watch.hook, ctx=watch.ctx(0))
    vcpu_load(cpu)
    before = len(watch.ring(0))
    for gfn in (GFN_BASE, GFN_BASE, GFN_BASE + 1):
        assert guest_access(cpu, gfn, ACCESS_READ)
    vcpu_put(cpu)  # whoever changes a slot waits for vCPUs that are in the guest
    enable_dirty_log(cpu, 0)
    delete_memslot(cpu, 0)
    found = [(kind - EMIT, a, b) for kind, a, b, _ in kinds(watch)[before:]]
    assert (PAGE_FAULT, GFN_BASE, ACCESS_READ) in found
    assert (PAGE_FAULT, GFN_BASE + 1, ACCESS_READ) in found
    assert (DIRTY_LOG_CHANGED, 0, 1) in found
    assert [each for each in found if each[0] == MEMSLOT_CHANGED] == [
        (MEMSLOT_CHANGED, 0, GFN_BASE << STATE_BITS | at.SLOT_INVALID),
        (MEMSLOT_CHANGED, 0, at.SLOT_ABSENT),
    ]
    assert ROOT_GET in [kind - EMIT for kind, *_ in kinds(watch)[:before]]
    # Neither steps nor what happens as often.
    assert all(1 <= event < COST - EMIT and not FREQUENT >> event & 1 for event, *_ in found)
    stamps = [each.ticks for each in watch.ring(0)]
    assert stamps == sorted(stamps)


def test_a_broken_rule_is_in_a_ring_without_steps(vm):
    watch = StressWatch(vm, Watching(ring=100))
    cpu = vm.cpu(0, hook=watch.hook, ctx=watch.ctx(0))
    slots_unlock(cpu)
    assert [each.kind - WARN for each in watch.ring(0)] == [LOCK_MODE]
    assert watch.moment() == watch.ring(0)[0].ticks
    assert vm.actor_words(0)[at.VIOLATIONS] == 1


def test_what_goes_on_in_one_piece_has_one_time(vm):
    watch = StressWatch(vm, Watching(ring=100))
    ask = asker(watch)
    for _ in range(10):
        ask(EMIT + SPTE_CHANGED, WORD, 1, 2)
        ask(EMIT + PAGE_FAULT, GFN_BASE)
    for _ in range(40):
        ask(EMIT + SPTE_CHANGED, WORD, 1, 2)
    ask(EMIT + TLB_FLUSH)
    stamps = [each.ticks for each in watch.ring(0)]
    faults, zap, flush = stamps[:20], stamps[20:60], stamps[60]
    # A fault has one time but where the clock is read anyhow, for each 16th row.
    assert len(set(faults)) in (10, 11)
    assert 3 <= len(set(zap)) <= 4
    assert flush > zap[-1]
    assert stamps == sorted(stamps)


@pytest.mark.slow
def test_a_killed_actors_ring_is_readable(vm):
    watch = StressWatch(vm, Watching(ring=1000))
    child = os.fork()
    if child == 0:
        cpu = vm.cpu(0, hook=watch.hook, ctx=watch.ctx(0))
        vcpu_load(cpu)
        for gfn in range(GFN_BASE + 64, GFN_BASE + 64 + 4096):  # no memory: each one faults
            guest_access(cpu, gfn, ACCESS_READ)
        while True:
            time.sleep(1)
    deadline = time.monotonic() + 60
    while len(watch.ring(0)) < 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    events = watch.ring(0)
    assert len(events) == 1000
    assert [each.ticks for each in events] == sorted(each.ticks for each in events)
    faults = [each.a for each in events if each.kind == EMIT + PAGE_FAULT]
    assert faults == list(range(faults[0], faults[0] + len(faults)))
    assert len(faults) >= 400
