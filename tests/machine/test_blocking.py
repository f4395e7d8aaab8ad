"""Locks and barriers between real processes, each beside a broken one that must fail here."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numba import njit

import mmu
from harness.bugs.tree import patched_tree
from harness.watch.recorder import ROW_A, ROW_KIND, Recorder
from mmu.entry import enter_guest
from mmu.hw.vcpu import request_all
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.dispatch import cache_root
from mmu.machine.layout import C_WORKLOAD, LINE, REQUEST, VCPU_STATE
from mmu.machine.lock import (
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
    slots_lock,
    slots_unlock,
)
from mmu.machine.primitives import (
    config,
    fetch_add,
    hint,
    pause,
    read_once,
    set_hint,
    write_once,
    xchg,
    yield_core,
)
from mmu.vm import Vm, VmConfig

Run = Callable[..., list[int | None]]

HERE = Path(__file__).parent
DEADLINE_S = 60.0
TURNS_ENOUGH = 50  # who has had so many does not starve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) < 2, reason="a race between processes needs two cores"
    ),
]

# Words of the workload's region, each on a line of its own.
READY, STOP, FIRST, SECOND, TORN = (LINE * i for i in range(5))
X, Y = FIRST, SECOND
ROUND = 5 * LINE  # one line per process
COUNT = 16 * LINE  # one line per process
LOG = 32 * LINE


@contextmanager
def shared_vm(actors: int, log_words: int = 0) -> Iterator[Vm]:
    vm = Vm(
        VmConfig(
            vcpus=actors - 1,
            pages=8,
            gfn_base=0,
            bits=1,
            levels=3,
            sample=0,
            tlb_bits=(2, 1, 1, 1),
            pml_size=2,
            workload_words=LOG + log_words,
        )
    )
    try:
        yield vm
    finally:
        # A failed assertion's traceback keeps views; the mapping goes with it.
        with suppress(BufferError):
            vm.close()


def on_core(number: int, body: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    """The body, pinned: what shares a core by chance does not race."""

    def pinned() -> object:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        return body(*arguments)

    return pinned


def word(vm: Vm, offset: int) -> int:
    return int(vm.region("workload")[offset])


def test_processes_end_at_the_deadline(run_processes: Run) -> None:
    before = psutil.Process().children()
    assert run_processes([lambda: None, lambda: 1 // 0], DEADLINE_S) == [0, 1]
    assert run_processes([lambda: time.sleep(60)], 0.5) == [None]
    assert psutil.Process().children() == before


@njit(nogil=True, error_model="numpy")
def meet(cpu: Any, everybody: Any) -> None:
    """Start together: who comes first does not work alone."""
    ready = config(cpu, C_WORKLOAD) + READY
    fetch_add(cpu, ready, 1)
    while hint(cpu, ready) < everybody:
        yield_core(cpu)


# --- (a) Mutual exclusion ------------------------------------------------------------------------

NO_LOCK, MUTEX, WRITE_LOCK = range(3)


@njit(nogil=True, error_model="numpy")
def add_slowly(cpu: Any, lock: Any, rounds: Any, everybody: Any) -> None:
    """Change two words that must stay equal, not atomically, under one lock or another."""
    first, second = config(cpu, C_WORKLOAD) + FIRST, config(cpu, C_WORKLOAD) + SECOND
    meet(cpu, everybody)
    for _ in range(rounds):
        if lock == MUTEX:
            slots_lock(cpu)
        elif lock == WRITE_LOCK:
            mmu_write_lock(cpu)
        value = hint(cpu, first)
        pause(cpu)
        set_hint(cpu, first, value + 1)
        pause(cpu)
        set_hint(cpu, second, hint(cpu, second) + 1)
        if lock == MUTEX:
            slots_unlock(cpu)
        elif lock == WRITE_LOCK:
            mmu_write_unlock(cpu)


@njit(nogil=True, error_model="numpy")
def look(cpu: Any, lock: Any, rounds: Any, everybody: Any) -> None:
    """Count how often the two words differ."""
    first, second = config(cpu, C_WORKLOAD) + FIRST, config(cpu, C_WORKLOAD) + SECOND
    meet(cpu, everybody)
    for _ in range(rounds):
        if lock == WRITE_LOCK:
            mmu_read_lock(cpu)
        value = hint(cpu, first)
        pause(cpu)
        if hint(cpu, second) != value:
            fetch_add(cpu, config(cpu, C_WORKLOAD) + TORN, 1)
        if lock == WRITE_LOCK:
            mmu_read_unlock(cpu)


def contend(run: Run, lock: int, writers: int, readers: int, rounds: int) -> tuple[int, int]:
    """Increments that got lost, and how often a reader saw half of one."""
    everybody = writers + readers
    with shared_vm(everybody) as vm:
        for function in (add_slowly, look):
            function(vm.cpu(0), lock, 0, 0)  # compile before the fork
        vm.region("workload")[READY] = 0
        bodies = [
            on_core(
                each,
                add_slowly if each < writers else look,
                *(vm.cpu(each), lock, rounds, everybody),
            )
            for each in range(everybody)
        ]
        assert run(bodies, DEADLINE_S) == [0] * everybody
        return writers * rounds - word(vm, FIRST), word(vm, TORN)


def test_a_mutex_lets_one_in(run_processes: Run) -> None:
    assert contend(run_processes, MUTEX, writers=4, readers=0, rounds=20_000) == (0, 0)


def test_writers_exclude_writers_and_readers(run_processes: Run) -> None:
    assert contend(run_processes, WRITE_LOCK, writers=3, readers=3, rounds=15_000) == (0, 0)


def test_without_the_lock_increments_are_lost(run_processes: Run) -> None:
    for _ in range(10):
        lost, torn = contend(run_processes, NO_LOCK, writers=2, readers=2, rounds=200_000)
        if lost and torn:
            return
    pytest.fail("nothing went wrong without a lock: the tests above prove nothing")


# --- (b) Wake-ups --------------------------------------------------------------------------------


def hand_off(tree: Path, rounds: int, deadline_s: float) -> float | None:
    """Seconds that the turns took over the sources in `tree`; None if they did not end in time."""
    command = [sys.executable, "-P", str(HERE / "handoff.py"), str(rounds)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], DEADLINE_S)[0], "still compiling"
            assert process.stdout.readline() == b"ready\n"
            began = time.monotonic()
            if not select.select([process.stdout], [], [], deadline_s)[0]:
                return None
            assert process.stdout.readline() == b"done\n"
            return time.monotonic() - began
        finally:
            process.kill()


def test_no_wake_up_is_lost() -> None:
    root = Path(mmu.__file__).parents[1]
    rounds = 20_000
    seconds = hand_off(root, rounds, DEADLINE_S)
    assert seconds is not None
    # Reading the event count after the last look at the word is the classic mistake.
    diff = HERE / "mutations" / "gate-read-last.diff"
    broken = patched_tree(diff, root, cache_root())
    assert hand_off(broken, rounds, max(3.0, 3 * seconds)) is None


# --- (c) Store buffers ---------------------------------------------------------------------------

BARRIER, PLAIN_VCPU, PLAIN_BOTH = range(3)


@njit(nogil=True, error_model="numpy")
def meet_at(cpu: Any, side: Any, number: Any) -> None:
    """Both sides leave this within some nanoseconds of each other."""
    rounds = config(cpu, C_WORKLOAD) + ROUND
    set_hint(cpu, rounds + LINE * side, number)
    spins = 0
    while hint(cpu, rounds + LINE * (1 - side)) < number:
        spins += 1
        if spins & 0x3FF == 0:
            yield_core(cpu)


@njit(nogil=True, error_model="numpy")
def store_then_load(cpu: Any, side: Any, variant: Any, first: Any, rounds: Any) -> None:
    """The vCPU (side 0): mode := n; read request.  The requester: request += 1; read mode.

    What each read goes to the log; round n makes both words n.
    """
    base = config(cpu, C_WORKLOAD)
    mine, other = base + (X if side == 0 else Y), base + (Y if side == 0 else X)
    for i in range(rounds):
        number = first + i + 1
        meet_at(cpu, side, number)
        for _ in range((number * 7 + side * 5) % 11):  # no fixed distance between the two
            hint(cpu, base + LOG)
        if variant == PLAIN_BOTH or (variant == PLAIN_VCPU and side == 0):
            write_once(cpu, mine, number)
        elif side == 0:
            xchg(cpu, mine, number)
        else:
            fetch_add(cpu, mine, 1)
        seen = read_once(cpu, other)
        set_hint(cpu, base + LOG + 2 * i + side, seen - number)


def both_read_old(run: Run, variant: int, batches: int, rounds: int = 100_000) -> int:
    """In how many rounds neither side saw the other; ends with the first batch that has any."""
    with shared_vm(2, log_words=2 * rounds) as vm:
        store_then_load(vm.cpu(0), 0, variant, 0, 0)  # compile before the fork
        for batch in range(batches):
            bodies = [
                on_core(
                    side,
                    store_then_load,
                    *(vm.cpu(side), side, variant, batch * rounds, rounds),
                )
                for side in range(2)
            ]
            assert run(bodies, DEADLINE_S) == [0, 0]
            seen = vm.region("workload")[LOG:].reshape(-1, 2)[:rounds]
            if found := int(np.count_nonzero((seen < 0).all(axis=1))):
                return found
        return 0


def test_an_exchange_is_the_barrier_of_guest_entry(run_processes: Run) -> None:
    assert both_read_old(run_processes, BARRIER, batches=5) == 0


@pytest.mark.parametrize("variant", [PLAIN_VCPU, PLAIN_BOTH])
def test_a_plain_store_is_not(run_processes: Run, variant: int) -> None:
    assert both_read_old(run_processes, variant, batches=60) > 0


def test_entry_and_request_are_that_pair() -> None:
    with shared_vm(2) as vm:
        recorder = Recorder(vm.words)
        vcpu, boss = (vm.cpu(i, hook=recorder.hook, ctx=recorder.ctx) for i in range(2))
        state, request = vm.layout.actor(0) + VCPU_STATE, vm.layout.actor(0) + REQUEST
        assert accesses(recorder, enter_guest, vcpu, state, request)[-2:] == [
            (events.XCHG, state),
            (events.READ_ONCE, request),
        ]
        vm.words[state] = 0
        recorder.restart()
        asked = accesses(recorder, request_all, boss, state, request)
        assert asked[0] == (events.FETCH_ADD, request)
        assert (events.READ_ONCE, state) in asked


def accesses(
    recorder: Recorder, kernel: Callable[[Cpu], None], cpu: Cpu, *words: int
) -> list[tuple[int, int]]:
    kernel(cpu)
    rows = recorder.rows()[:, [ROW_KIND, ROW_A]].tolist()
    return [(kind, addr) for kind, addr in rows if kind <= events.STEP_LAST and addr in words]


# --- (d) Nobody starves --------------------------------------------------------------------------


@njit(nogil=True, error_model="numpy")
def hammer(cpu: Any, exclusive: Any, everybody: Any) -> None:
    """Take and leave mmu_lock until told to stop; counts how often."""
    base = config(cpu, C_WORKLOAD)
    meet(cpu, everybody)
    turns = 0
    while hint(cpu, base + STOP) == 0:
        if exclusive:
            mmu_write_lock(cpu)
            pause(cpu)
            mmu_write_unlock(cpu)
        else:
            mmu_read_lock(cpu)
            pause(cpu)
            mmu_read_unlock(cpu)
        turns += 1
        set_hint(cpu, base + COUNT + LINE * cpu.id, turns)


@pytest.mark.parametrize(("writers", "readers"), [(1, 4), (2, 2), (4, 1)])
def test_neither_side_starves_the_other(run_processes: Run, writers: int, readers: int) -> None:
    everybody = writers + readers
    with shared_vm(everybody) as vm:
        stop = vm.region("workload")
        stop[STOP] = 1
        hammer(vm.cpu(0), 0, 0)  # compile before the fork
        stop[[STOP, READY]] = 0

        def turns() -> list[int]:
            return [word(vm, COUNT + LINE * each) for each in range(everybody)]

        def end_soon() -> None:
            # On a busy machine it may take long until all have begun, and have had a core.
            while stop[READY] < everybody:
                time.sleep(0.01)
            time.sleep(0.7)
            deadline = time.monotonic() + DEADLINE_S / 3
            while min(turns()) < TURNS_ENOUGH and time.monotonic() < deadline:
                time.sleep(0.01)
            stop[STOP] = 1

        bodies: list[Callable[[], object]] = [end_soon]
        bodies += [
            on_core(each, hammer, vm.cpu(each), int(each < writers), everybody)
            for each in range(everybody)
        ]
        assert run_processes(bodies, DEADLINE_S) == [0] * len(bodies)
        assert min(turns()) >= TURNS_ENOUGH, turns()
