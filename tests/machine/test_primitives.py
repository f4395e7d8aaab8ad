"""Each primitive's machine code against its Python body, on random words and operands."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import int64, njit

import mmu
import workloads
from harness.run.warm import warm
from harness.watch.recorder import Recorder
from mmu.machine import blocking, conditions, events, futex, primitives
from mmu.machine.blocking import (
    EXCLUSIVE,
    SHARED_UNIT,
    WAITING_UNIT,
    acquire_when,
    again,
    release,
    spin_while,
    wait_while,
)
from mmu.machine.conditions import warn
from mmu.machine.cpu import Cpu, cpu_type
from mmu.machine.futex import raw_add, raw_cmpxchg, raw_load
from mmu.machine.layout import LINE, SLEEPERS, VIOLATION_CONDITION, VIOLATIONS
from mmu.machine.primitives import (
    announce,
    block_point,
    cmpxchg,
    config,
    count,
    cycles,
    draw,
    emit,
    event,
    fetch_add,
    fetch_and,
    fetch_or,
    hint,
    load_acquire,
    own,
    peek,
    poke,
    probe,
    read_once,
    set_hint,
    set_own,
    stopped,
    store_release,
    tally,
    write_once,
    xchg,
)
from mmu.spte import make_leaf
from tests.command import without_scenarios

WORDS = 256
OWN = 64  # the actor's block: words 64 and up, so that offsets differ from word numbers

VALUED: list[tuple[Any, int]] = [  # those that return a number, and how many operands they take
    (read_once, 1),
    (load_acquire, 1),
    (peek, 1),
    (xchg, 2),
    (cmpxchg, 3),
    (fetch_add, 2),
    (fetch_or, 2),
    (fetch_and, 2),
    (config, 1),
    (hint, 1),
    (own, 1),
    (raw_load, 1),
    (raw_add, 2),
    (raw_cmpxchg, 3),
    (stopped, 0),
    (draw, 1),
    (probe, 1),
    (block_point, 2),
]
SILENT: list[tuple[Any, int]] = [
    (write_once, 2),
    (store_release, 2),
    (poke, 2),
    (count, 2),
    (set_hint, 2),
    (set_own, 2),
    (tally, 2),
    (event, 2),
    (emit, 4),
    (announce, 4),
    (acquire_when, 4),
    (release, 2),
    (wait_while, 2),
    (spin_while, 2),
    (again, 0),
]
# No effect, no interpreted meaning, or tests of their own below.
UNTESTED = {"pause", "yield_core", "cycles", "warn"}
UNTESTED |= {"futex_wait", "futex_wait_briefly", "futex_wake"}


def _dispatch(table: list[tuple[Any, int]], valued: bool) -> str:
    """Source of a function that calls entry `which` of a table: one compilation for all."""
    lines = ["def run(cpu, which, a, b, c, d):"]
    for number, (primitive, operands) in enumerate(table):
        call = f"{primitive.__name__}({', '.join(['cpu', *'abcd'[:operands]])})"
        lines += [f"  if which == {number}:", f"    {'return ' if valued else ''}{call}"]
    return "\n".join([*lines, "  return 0"])


def _compiled(table: list[tuple[Any, int]], valued: bool) -> Any:
    scope = {primitive.__name__: primitive for primitive, _ in table}
    exec(_dispatch(table, valued), scope)
    return njit(int64(cpu_type, *[int64] * 5), error_model="numpy")(scope["run"])


@pytest.fixture(scope="module")
def run_compiled() -> Callable[..., int]:
    valued, silent = _compiled(VALUED, True), _compiled(SILENT, False)

    def run(cpu: Cpu, primitive: Any, *operands: int) -> int:
        padded = [*operands, 0, 0, 0, 0][:4]
        for function, table in ((valued, VALUED), (silent, SILENT)):
            for number, (each, _) in enumerate(table):
                if each is primitive:
                    return int(function(cpu, number, *padded))
        raise LookupError(primitive)

    return run


def run_interpreted(cpu: Cpu, primitive: Any, *operands: int) -> int:
    return int(primitive(cpu, *operands) or 0)


values = st.one_of(
    st.integers(0, 3),
    st.integers(-(1 << 61), (1 << 61) - 1),
    st.sampled_from([1 << 60, -1, -(1 << 16), 1 << 16, 0x5A0]),
)


def _arrange(words: np.ndarray, primitive: Any, operands: list[int]) -> None:
    """Make waits need not wait and nobody sleep: here is nobody else who could act."""
    if primitive is acquire_when:
        words[operands[0]] &= 0x7FFF0001  # waiting writers hold back readers, no scheduler does so
        operands[1] &= 0x7FFF0001
        operands[2] = int(words[operands[0]]) & operands[1]
    elif primitive in (wait_while, spin_while) and int(words[operands[0]]) == operands[1]:
        operands[1] += 1
    elif primitive is release:
        words[operands[0] + SLEEPERS] = 0


def check_same(
    run: Callable[..., int], words: np.ndarray, watch: bool, stop_at: int, *call: Any
) -> None:
    images = []
    for interpreted in (False, True):
        memory = words.copy()
        recorder = Recorder(memory, capacity=8, stop_at=stop_at)
        cpu = Cpu(memory, actor=3, own=OWN)
        if watch and interpreted:
            cpu.observer = recorder.observer(3)
        elif watch:
            cpu.hook, cpu.ctx = recorder.hook, recorder.ctx
        result = (run_interpreted if interpreted else run)(cpu, *call)
        images.append((result, memory.tolist(), recorder.rows().tolist()))
    assert images[0] == images[1]


@pytest.mark.parametrize(
    ("primitive", "operand_count"),
    VALUED + SILENT,
    ids=[primitive.__name__ for primitive, _ in VALUED + SILENT],
)
@given(st.data())
def test_machine_code_does_what_the_body_says(
    run_compiled: Callable[..., int], primitive: Any, operand_count: int, data: st.DataObject
) -> None:
    words = np.array(data.draw(st.lists(values, min_size=8, max_size=8)) * (WORDS // 8), np.int64)
    operands = data.draw(st.lists(values, min_size=operand_count, max_size=operand_count))
    if operands:
        operands[0] = data.draw(st.integers(0, WORDS - OWN - LINE))
    if primitive in (cmpxchg, raw_cmpxchg) and data.draw(st.booleans()):
        operands[1] = int(words[operands[0]])
    _arrange(words, primitive, operands)
    watch, stop_at = data.draw(st.booleans()), data.draw(st.integers(0, 1))
    check_same(run_compiled, words, watch, stop_at, primitive, *operands)


def test_machine_code_that_differs_is_noticed(run_compiled: Callable[..., int]) -> None:
    def run_other(cpu: Cpu, primitive: Any, *operands: int) -> int:
        return run_compiled(cpu, fetch_and if primitive is fetch_or else primitive, *operands)

    words = np.full(WORDS, 5, np.int64)
    check_same(run_other, words, False, 0, fetch_add, 3, 2)
    with pytest.raises(AssertionError):
        check_same(run_other, words, False, 0, fetch_or, 3, 2)


def test_who_watches_tracepoints_hears_nothing_else(run_compiled: Callable[..., int]) -> None:
    for primitive, operand_count in VALUED + SILENT:
        operands = [72, *[1] * (operand_count - 1)] if operand_count else []
        words = np.zeros(WORDS, np.int64)
        _arrange(words, primitive, operands)
        images = []
        recorder = Recorder(words, capacity=8, stop_at=1)
        for hook in (0, -recorder.hook):
            memory = words.copy()
            cpu = Cpu(memory, actor=3, own=OWN, hook=hook, ctx=recorder.ctx)
            images.append((run_compiled(cpu, primitive, *operands), memory.tolist()))
        # Whatever the observer answers: STOP is for who watches steps.
        assert images[0] == images[1]
        assert recorder.count == int(primitive in (emit, announce)), primitive


@pytest.mark.parametrize("tracepoint", range(1, 64))
def test_frequent_tracepoints_are_for_who_watches_steps(
    run_compiled: Callable[..., int], tracepoint: int
) -> None:
    frequent = tracepoint in (events.GUEST_ACCESS, events.RCU_ENTER, events.RCU_LEAVE)
    words = np.zeros(WORDS, np.int64)
    for sign, heard in ((1, 1), (-1, int(not frequent))):
        recorder = Recorder(words, capacity=8)
        cpu = Cpu(words, actor=3, own=OWN, hook=sign * recorder.hook, ctx=recorder.ctx)
        run_compiled(cpu, emit, tracepoint, 11, 12, 13)
        expected = [[3, events.EMIT + tracepoint, 11, 12, 13, 0]]
        assert recorder.rows().tolist() == expected * heard


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("amount", [EXCLUSIVE, SHARED_UNIT, 2 * SHARED_UNIT])
def test_newcomers_let_writers_go_first_whoever_watches(watch: bool, amount: int) -> None:
    """The condition is the same, and it is the one that a scheduler is told."""
    attempt = njit(lambda cpu, amount: blocking._acquire_fast(cpu, 8, EXCLUSIVE, 0, amount))
    for waiting in (0, WAITING_UNIT):
        words = np.zeros(WORDS, np.int64)
        words[8] = waiting
        recorder = Recorder(words)
        hook = recorder.hook if watch else 0
        enabled = waiting == 0 or amount != SHARED_UNIT
        assert attempt(Cpu(words, hook=hook, ctx=recorder.ctx), amount) == enabled
        assert words[8] == waiting + enabled * amount
        for _, kind, addr, condition, added, _ in recorder.rows().tolist():
            assert (kind, addr, added) == (events.ACQUIRE, 8, amount)
            assert (waiting & condition & 0xFFFFFFFF == condition >> 32) == enabled
        assert recorder.count == int(watch)


def test_no_primitive_is_forgotten() -> None:
    tested = {primitive.__name__ for primitive, _ in VALUED + SILENT} | UNTESTED
    public = {
        name
        for module in (primitives, blocking, futex, conditions)
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
        and list(getattr(value, "__annotations__", {}))[:1] == ["cpu"]
        and not name.startswith("_")
        and not hasattr(value, "py_func")
    }
    assert public - {"observe"} == tested


@pytest.mark.parametrize("watch", [0, 1, -1])  # -1: of tracepoints and broken rules only
@pytest.mark.parametrize("earlier", [0, 2])
def test_warn_keeps_the_first_failure(watch: int, earlier: int) -> None:
    @njit(error_model="numpy")
    def fail(cpu: Any, failed: Any) -> None:
        warn(cpu, failed, 7, 11, 12, 13)

    images = []
    for run in (fail, fail.py_func):
        memory = np.zeros(WORDS, np.int64)
        memory[OWN + VIOLATIONS] = earlier
        recorder = Recorder(memory, capacity=8)
        cpu = Cpu(memory, own=OWN)
        if watch:
            cpu.hook, cpu.ctx = watch * recorder.hook, recorder.ctx
            cpu.observer = recorder.observer(0)
        run(cpu, False)
        assert memory[OWN + VIOLATIONS] == earlier
        run(cpu, True)
        images.append((memory.tolist(), recorder.rows().tolist()))
        assert memory[OWN + VIOLATIONS] == earlier + 1
        kept = memory[OWN + VIOLATION_CONDITION : OWN + VIOLATION_CONDITION + 4].tolist()
        assert kept == ([0] * 4 if earlier else [7, 11, 12, 13])
    assert images[0] == images[1]
    assert len(images[0][1]) == abs(watch)


def test_the_clock_is_the_observers_if_there_is_one() -> None:
    read = njit(lambda cpu: cycles(cpu))
    words = np.zeros(WORDS, np.int64)
    first = read(Cpu(words))
    assert 0 < first < read(Cpu(words))
    recorder = Recorder(words, clock=40)
    cpu = Cpu(words, hook=recorder.hook, ctx=recorder.ctx, observer=recorder.observer(0))
    assert [read(cpu), cycles(cpu), read(cpu)] == [40, 41, 42]
    recorder.restart(stop_at=1, clock=40)
    assert [read(cpu), cycles(cpu)] == [0, 0]
    assert {int(kind) for kind in recorder.rows()[:, 1]} == {events.CLOCK}


# What each must look like on x86-64; None: no locked instruction at all.
ASSEMBLY: list[tuple[str, str | None]] = [
    ("cmpxchg(cpu, 8, 1, 2)", r"lock\s+cmpxchgq"),
    ("fetch_add(cpu, 8, 2)", r"lock\s+xaddq"),
    ("xchg(cpu, 8, 2)", r"xchgq\s+%r\w+, [^%]*\("),
    ("fetch_or(cpu, 8, 2)", r"lock\s+(cmpxchgq|orq)"),
    ("fetch_and(cpu, 8, 2)", r"lock\s+(cmpxchgq|andq)"),
    ("count(cpu, 8, 2)", r"lock\s+(addq|xaddq|incq)"),
    ("acquire_when(cpu, 8, 1, 0, 1)", r"lock\s+cmpxchgq"),
    ("read_once(cpu, 8)", None),
    ("write_once(cpu, 8, 2)", None),
    ("poke(cpu, 8, 2)", None),
    ("tally(cpu, 8, 2)", None),
]


@pytest.mark.parametrize(("call", "pattern"), ASSEMBLY)
def test_the_machine_code_is_the_one_that_counts(call: str, pattern: str | None) -> None:
    scope = dict(globals())
    exec(f"def run(cpu, unused): return {call}", scope)
    compiled = njit(error_model="numpy")(scope["run"])
    compiled.compile((cpu_type, int64))
    (assembly,) = compiled.inspect_asm().values()
    if pattern is None:
        assert not re.search(r"\block\b|xchgq\s+%r\w+, [^%]*\(", assembly)
    else:
        assert re.search(pattern, assembly)


def test_every_kernel_has_one_signature_of_cpu_and_integers() -> None:
    for package in (mmu, workloads):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    kernels = without_scenarios()  # a body of theirs is compiled when it is explored
    warm(kernels=kernels)
    assert len(kernels) > 300
    offenders = {
        f"{each.py_func.__module__}.{each.py_func.__name__}": each.signatures
        for each in kernels
        if len(each.signatures) != 1 or not set(each.signatures[0]) <= {cpu_type, int64}
    }
    assert offenders == {}


def test_a_kernel_takes_bools_as_integers() -> None:
    # With a second signature per caller the model would compile many times over.
    kernel: Any = make_leaf
    assert kernel(5, 1, True, False, True) == kernel(5, 1, 1, 0, 1)
    assert len(kernel.signatures) == 1
