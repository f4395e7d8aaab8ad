"""Interpreted actors, one step at a time: order, waiting, stopping; and the model under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.oracles.snapshot import listed_roots
from harness.watch.recorder import ROW_A, ROW_ACTOR, ROW_KIND, Recorder
from harness.watch.stepper import Stepper, run_actors
from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.events import ACQUIRE, FETCH_ADD, STEP_LAST, WAIT_WHILE, WARN
from mmu.machine.lock import slots_lock, slots_unlock
from mmu.machine.primitives import fetch_add, read_once, write_once
from mmu.machine.twin import interpreted
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, MMU_PRESENT, PS
from mmu.vm import Vm, VmConfig

WORD = 0  # of the workload's region


@contextmanager
def small_vm(**options: Any) -> Iterator[Vm]:
    settings = {
        "vcpus": 2,
        "pages": 8,
        "gfn_base": 0,
        "bits": 1,
        "levels": 3,
        "sample": 0,
        "tlb_bits": (2, 1, 1, 1),
        "pml_size": 2,
        "workload_words": at.LINE,
    }
    vm = Vm(VmConfig(**{**settings, **options}))
    try:
        yield vm
    finally:
        # A failed assertion's traceback keeps views; the mapping goes with it.
        with suppress(BufferError):
            vm.close()


def add_twice(vm: Vm) -> Callable[[Cpu], str]:
    """Two increments that are not atomic, under a mutex."""
    word = vm.layout.start("workload") + WORD

    def body(cpu: Cpu) -> str:
        for _ in range(2):
            interpreted(slots_lock)(cpu)
            write_once(cpu, word, read_once(cpu, word) + 1)
            interpreted(slots_unlock)(cpu)
        return f"actor {cpu.id}"

    return body


def drive(stepper: Stepper, choose: Callable[[list[int]], int]) -> list[int]:
    """Run until nobody can go on; the schedule."""
    schedule = []
    while able := [actor for actor in sorted(stepper.pending) if stepper.enabled(actor)]:
        schedule.append(choose(able))
        stepper.step(schedule[-1])
    return schedule


@given(st.data())
def test_steps_happen_in_the_schedules_order(data: st.DataObject) -> None:
    with small_vm() as vm:
        rows = []
        start = vm.words.copy()
        recorder = Recorder(vm.words)

        def actors() -> dict[int, Any]:
            cpus = [vm.cpu(i, observer=recorder.observer(i)) for i in range(3)]
            return {cpu.id: (cpu, add_twice(vm)) for cpu in cpus}

        stepper = Stepper(actors())
        schedule = drive(stepper, lambda able: data.draw(st.sampled_from(able)))
        assert stepper.results == {i: f"actor {i}" for i in range(3)}
        assert vm.region("workload")[WORD] == 6
        rows = recorder.rows()
        assert rows[rows[:, ROW_KIND] <= STEP_LAST, ROW_ACTOR].tolist() == schedule
        # The same schedule again gives the same rows.
        vm.words[:] = start
        recorder.restart()
        assert run_actors(actors(), schedule) == stepper.results
        assert recorder.rows().tolist() == rows.tolist()


def test_who_must_wait_cannot_be_named() -> None:
    with small_vm() as vm:
        cpus = [vm.cpu(i) for i in range(2)]
        stepper = Stepper({cpu.id: (cpu, add_twice(vm)) for cpu in cpus})
        assert stepper.pending[0][0] == ACQUIRE
        stepper.step(0)
        assert not stepper.enabled(1)
        with pytest.raises(ValueError, match=rf"actor 1 cannot go on: \({ACQUIRE}, "):
            stepper.step(1)
        drive(stepper, max)
        with pytest.raises(ValueError, match="actor 1 cannot go on: ended"):
            stepper.step(1)
        with pytest.raises(ValueError, match="actor 7 cannot go on"):
            stepper.step(7)


def test_who_is_left_is_stopped() -> None:
    with small_vm() as vm:
        word = vm.layout.start("workload") + WORD

        def spin(cpu: Cpu) -> int:
            while fetch_add(cpu, word, 1) >= 0:
                if cpu.observer is not None and cpu.observer(FETCH_ADD, word, 0, 0):
                    return -1
            return 0

        done = {0: (vm.cpu(0), lambda cpu: read_once(cpu, word)), 1: (vm.cpu(1), spin)}
        assert run_actors(done, [1, 0, 1]) == {0: 1}
        assert vm.region("workload")[WORD] == 1


def test_an_actors_exception_comes_out() -> None:
    with small_vm() as vm:

        def fail(cpu: Cpu) -> None:
            read_once(cpu, 0)
            raise KeyError("own mistake")

        with pytest.raises(KeyError, match="own mistake"):
            run_actors({0: (vm.cpu(0), fail)}, [0])


# --- The model under random schedules ------------------------------------------------------------

accesses = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from([ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE])),
    min_size=1,
    max_size=3,
)


def guest(script: list[tuple[int, int]]) -> Callable[[Cpu], int]:
    def body(cpu: Cpu) -> int:
        interpreted(vcpu_load)(cpu)
        reached = sum(interpreted(guest_access)(cpu, gfn, access) for gfn, access in script)
        interpreted(vcpu_put)(cpu)
        return int(reached)

    return body


def vmm(cpu: Cpu) -> int:
    interpreted(enable_dirty_log)(cpu, 0)
    return interpreted(get_dirty_log)(cpu, 0)


def leafs(vm: Vm) -> list[int]:
    """How many leafs of each level the tables below the only root hold, level 1 first."""
    counts = [0] * vm.config.levels
    (root,) = listed_roots(vm)

    def visit(page: int, level: int) -> None:
        for value in vm.tables[page].tolist():
            if value & MMU_PRESENT and (level == 1 or value & PS):
                counts[level - 1] += 1
            elif value & MMU_PRESENT:
                visit(value >> 12, level - 1)

    visit(root.page, root.level)
    return counts


@given(
    st.data(),
    st.sampled_from(["zap", "fault", "eager"]),
    st.integers(1, 2),
    st.booleans(),
    accesses,
    accesses,
)
def test_the_models_own_assertions_hold(
    data: st.DataObject,
    huge_split: str,
    backing_level: int,
    pml: bool,
    first: list[tuple[int, int]],
    second: list[tuple[int, int]],
) -> None:
    with small_vm(huge_split=huge_split, backing_level=backing_level, pml=pml) as vm:
        recorder = Recorder(vm.words)
        cpus = [vm.cpu(i, observer=recorder.observer(i)) for i in range(3)]
        bodies = [guest(first), guest(second), vmm]
        stepper = Stepper(dict(enumerate(zip(cpus, bodies, strict=True))))
        random = data.draw(st.randoms(use_true_random=False))
        drive(stepper, random.choice)
        assert stepper.pending == {}, "deadlock"
        assert [stepper.results[0], stepper.results[1]] == [len(first), len(second)]
        rows = recorder.rows()
        assert rows[rows[:, ROW_KIND] >= WARN].tolist() == []
        assert recorder.wild == 0
        statistics = [int(vm.words[at.STAT_PAGES_4K + at.LINE * i]) for i in range(3)]
        assert leafs(vm) == statistics
        waits = np.isin(rows[:, ROW_KIND], (ACQUIRE, WAIT_WHILE))
        assert (rows[waits, ROW_A] > 0).all()
