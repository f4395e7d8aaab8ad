"""Every access to a shared word, one file: each primitive's meaning and its machine code.

The Python body *is* the meaning (and what the interpreted twin runs); the `_lower_*` function
below it *is* the machine code.  Each step asks the observer first, with all its operands, and
does nothing once the observer has said STOP: reads give 0, a cmpxchg reports success, so that
every loop ends.  Nobody else in the model touches shared memory.

Orderings: reads acquire, writes release, read-modify-writes are full barriers (x86-64 gives the
first two for free; relaxed ones would let LLVM reorder what the kernel's READ_ONCE keeps).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.events import STOP
from mmu.machine.lowering import (
    I32,
    I64,
    ask,
    constant,
    libc,
    lowers,
    observed,
    own_pointer,
    tell,
    word_pointer,
    zero,
)


def observe(cpu: Cpu, kind: int, a: int = 0, b: int = 0, c: int = 0) -> int:
    """Interpreted: the observer's verdict, GO when nobody watches."""
    return events.GO if cpu.observer is None else cpu.observer(kind, a, b, c)


# --- Steps: reads and writes -----------------------------------------------------------------


def read_once(cpu: Cpu, addr: int) -> int:
    """The word's value; another actor may change it right after (READ_ONCE)."""
    return _read(cpu, events.READ_ONCE, addr)


def load_acquire(cpu: Cpu, addr: int) -> int:
    """A read that later accesses stay behind (smp_load_acquire)."""
    return _read(cpu, events.LOAD_ACQUIRE, addr)


def peek(cpu: Cpu, addr: int) -> int:
    """Plain read of memory that should not be published yet."""
    return _read(cpu, events.PEEK, addr)


def write_once(cpu: Cpu, addr: int, value: int) -> None:
    """Plain store of one word (WRITE_ONCE): the caller knows that no update can get lost."""
    _write(cpu, events.WRITE_ONCE, addr, value)


def store_release(cpu: Cpu, addr: int, value: int) -> None:
    """A store that earlier accesses stay before (smp_store_release)."""
    _write(cpu, events.STORE_RELEASE, addr, value)


def poke(cpu: Cpu, addr: int, value: int) -> None:
    """Plain store to memory that should not be published yet."""
    _write(cpu, events.POKE, addr, value)


def _read(cpu: Cpu, kind: int, addr: int) -> int:
    if observe(cpu, kind, addr) == STOP:
        return 0
    return int(cpu.words[addr])


def _write(cpu: Cpu, kind: int, addr: int, value: int) -> None:
    if observe(cpu, kind, addr, value) != STOP:
        cpu.words[addr] = value


def _lower_read(kind: int) -> Any:
    def action(builder: Any, cpu: Any, operands: list[Any]) -> Any:
        pointer = word_pointer(builder, cpu.base, operands[0])
        return observed(
            builder,
            cpu,
            kind,
            operands,
            lambda: builder.load_atomic(pointer, "acquire", 8),
            constant(0),
        )

    return action


def _lower_write(kind: int) -> Any:
    def action(builder: Any, cpu: Any, operands: list[Any]) -> Any:
        pointer = word_pointer(builder, cpu.base, operands[0])

        def store() -> Any:
            builder.store_atomic(operands[1], pointer, "release", 8)
            return constant(0)

        return observed(builder, cpu, kind, operands, store, constant(0))

    return action


lowers(read_once, 1)(_lower_read(events.READ_ONCE))
lowers(load_acquire, 1)(_lower_read(events.LOAD_ACQUIRE))
lowers(peek, 1)(_lower_read(events.PEEK))
lowers(write_once, 2, returns_value=False)(_lower_write(events.WRITE_ONCE))
lowers(store_release, 2, returns_value=False)(_lower_write(events.STORE_RELEASE))
lowers(poke, 2, returns_value=False)(_lower_write(events.POKE))


# --- Steps: read-modify-write ----------------------------------------------------------------


def xchg(cpu: Cpu, addr: int, value: int) -> int:
    """Store `value`, return what it replaced."""
    if observe(cpu, events.XCHG, addr, value) == STOP:
        return 0
    old = int(cpu.words[addr])
    cpu.words[addr] = value
    return old


def cmpxchg(cpu: Cpu, addr: int, old: int, new: int) -> int:
    """Store `new` if the word is `old`; return the value seen (a failure is only a read)."""
    if observe(cpu, events.CMPXCHG, addr, old, new) == STOP:
        return old
    seen = int(cpu.words[addr])
    if seen == old:
        cpu.words[addr] = new
    return seen


def fetch_add(cpu: Cpu, addr: int, amount: int) -> int:
    """Add, return the value before."""
    if observe(cpu, events.FETCH_ADD, addr, amount) == STOP:
        return 0
    old = int(cpu.words[addr])
    cpu.words[addr] = old + amount
    return old


def fetch_or(cpu: Cpu, addr: int, bits: int) -> int:
    """Set bits, return the value before."""
    if observe(cpu, events.FETCH_OR, addr, bits) == STOP:
        return 0
    old = int(cpu.words[addr])
    cpu.words[addr] = old | bits
    return old


def fetch_and(cpu: Cpu, addr: int, mask: int) -> int:
    """Keep the bits of `mask`, return the value before."""
    if observe(cpu, events.FETCH_AND, addr, mask) == STOP:
        return 0
    old = int(cpu.words[addr])
    cpu.words[addr] = old & mask
    return old


def count(cpu: Cpu, addr: int, amount: int) -> None:
    """An atomic add whose result nobody uses (a statistic): two of them commute."""
    if observe(cpu, events.COUNT, addr, amount) != STOP:
        cpu.words[addr] += amount


def _lower_rmw(kind: int, operation: str) -> Any:
    def action(builder: Any, cpu: Any, operands: list[Any]) -> Any:
        pointer = word_pointer(builder, cpu.base, operands[0])
        return observed(
            builder,
            cpu,
            kind,
            operands,
            lambda: builder.atomic_rmw(operation, pointer, operands[1], "seq_cst"),
            constant(0),
        )

    return action


@lowers(cmpxchg, 3)
def _lower_cmpxchg(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = word_pointer(builder, cpu.base, operands[0])

    def swap() -> Any:
        pair = builder.cmpxchg(pointer, operands[1], operands[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return observed(builder, cpu, events.CMPXCHG, operands, swap, operands[1])


lowers(xchg, 2)(_lower_rmw(events.XCHG, "xchg"))
lowers(fetch_add, 2)(_lower_rmw(events.FETCH_ADD, "add"))
lowers(fetch_or, 2)(_lower_rmw(events.FETCH_OR, "or"))
lowers(fetch_and, 2)(_lower_rmw(events.FETCH_AND, "and"))
lowers(count, 2, returns_value=False)(_lower_rmw(events.COUNT, "add"))


# --- No steps: constants and the actor's own words -------------------------------------------


def config(cpu: Cpu, index: int) -> int:
    """A header word that never changes after set-up (the compiler may keep it)."""
    return int(cpu.words[index])


def hint(cpu: Cpu, addr: int) -> int:
    """A shared word read for advice only (is somebody waiting?): nothing correct depends on it."""
    return int(cpu.words[addr])


def set_hint(cpu: Cpu, addr: int, value: int) -> None:
    """Leave such advice: a lost or late update only makes it weaker."""
    cpu.words[addr] = value


def own(cpu: Cpu, offset: int) -> int:
    """A word of the actor's own block that no other actor writes."""
    return int(cpu.words[cpu.own + offset])


def set_own(cpu: Cpu, offset: int, value: int) -> None:
    """Plain store to such a word; the supervisor may read it at any time, torn values cannot be."""
    cpu.words[cpu.own + offset] = value


def tally(cpu: Cpu, offset: int, amount: int) -> None:
    """Add to one of the actor's own counters."""
    cpu.words[cpu.own + offset] += amount


@lowers(config, 1)
def _lower_config(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    value = builder.load(word_pointer(builder, cpu.base, operands[0]), align=8)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


@lowers(hint, 1)
def _lower_hint(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    return builder.load_atomic(word_pointer(builder, cpu.base, operands[0]), "monotonic", 8)


@lowers(set_hint, 2, returns_value=False)
def _lower_set_hint(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = word_pointer(builder, cpu.base, operands[0])
    builder.store_atomic(operands[1], pointer, "monotonic", 8)


@lowers(own, 1)
def _lower_own(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    return builder.load(own_pointer(builder, cpu, operands[0]), align=8)


@lowers(set_own, 2, returns_value=False)
def _lower_set_own(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    builder.store(operands[1], own_pointer(builder, cpu, operands[0]), align=8)


@lowers(tally, 2, returns_value=False)
def _lower_tally(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = own_pointer(builder, cpu, operands[0])
    builder.store(builder.add(builder.load(pointer, align=8), operands[1]), pointer, align=8)


# --- No steps: questions and announcements ---------------------------------------------------


def stopped(cpu: Cpu) -> int:
    """1 once the observer has said STOP: every loop asks this and ends."""
    return int(observe(cpu, events.STOPPED) == STOP)


def draw(cpu: Cpu, alternatives: int) -> int:
    """A number below `alternatives`, the observer's choice; 0 without one."""
    answer = observe(cpu, events.DRAW, alternatives)
    return 0 if answer == STOP else answer


def probe(cpu: Cpu, which: int) -> int:
    """1 if the observer wants the failure `PROBE_*` here; 0 without one."""
    answer = observe(cpu, events.PROBE, which)
    return 0 if answer == STOP else answer


def event(cpu: Cpu, cost: int, amount: int) -> None:
    """A cost without a step (`COST_*`), for virtual time and tallies."""
    observe(cpu, events.COST + cost, amount)


def emit(cpu: Cpu, tracepoint: int, a: int, b: int, c: int) -> None:
    """One of the model's tracepoints; nothing at all when nobody watches."""
    observe(cpu, events.EMIT + tracepoint, a, b, c)


def announce(cpu: Cpu, kind: int, a: int, b: int, c: int) -> None:
    """Tell the observer something that is no step, as a tracepoint."""
    observe(cpu, kind, a, b, c)


def block_point(cpu: Cpu, addr: int, gate: int) -> int:
    """1 if the observer stops an actor that is about to sleep for `addr`."""
    return int(observe(cpu, events.BLOCK, addr, gate) == STOP)


def cycles(cpu: Cpu) -> int:
    """Time stamp counter; when somebody watches, time is what the observer says (0 at first)."""
    answer = observe(cpu, events.CLOCK)
    return 0 if answer == STOP else answer


def pause(cpu: Cpu) -> None:
    """One spin-wait hint (about 20 ns)."""


def yield_core(cpu: Cpu) -> None:
    """Give up the core (sched_yield)."""


def lower_stop_question(kind: int, position: int) -> Any:
    """Machine code of a question whose answer is only whether the observer says STOP."""

    def action(builder: Any, cpu: Any, operands: list[Any]) -> Any:
        answer = ask(builder, cpu, constant(kind), operands[:position], zero)
        return builder.zext(builder.icmp_signed("==", answer, constant(STOP)), I64)

    return action


def _lower_number_question(kind: int) -> Any:
    def action(builder: Any, cpu: Any, operands: list[Any]) -> Any:
        answer = ask(builder, cpu, constant(kind), operands, zero)
        return builder.select(
            builder.icmp_signed("==", answer, constant(STOP)), constant(0), answer
        )

    return action


@lowers(emit, 4, returns_value=False)
def _lower_emit(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    tracepoint = operands[0]
    # Callers name the tracepoint, so LLVM works this out.
    place = builder.and_(tracepoint, constant(63))
    shifted = builder.lshr(constant(events.FREQUENT), place)
    frequent = builder.trunc(shifted, ir.IntType(1))
    tell(builder, cpu, builder.add(tracepoint, constant(events.EMIT)), operands[1:], frequent)


@lowers(announce, 4, returns_value=False)
def _lower_announce(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    tell(builder, cpu, operands[0], operands[1:], ir.Constant(ir.IntType(1), 0))


@lowers(event, 2, returns_value=False)
def _lower_event(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    ask(builder, cpu, builder.add(operands[0], constant(events.COST)), operands[1:], zero)


lowers(stopped, 0)(lower_stop_question(events.STOPPED, 0))
lowers(block_point, 2)(lower_stop_question(events.BLOCK, 2))
lowers(draw, 1)(_lower_number_question(events.DRAW))
lowers(probe, 1)(_lower_number_question(events.PROBE))


@lowers(cycles, 0)
def _lower_cycles(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    counter = builder.module.declare_intrinsic(
        "llvm.readcyclecounter", (), ir.FunctionType(I64, [])
    )

    def read_counter() -> Any:
        return builder.call(counter, [])

    answer = ask(builder, cpu, constant(events.CLOCK), [], read_counter)
    return builder.select(builder.icmp_signed("==", answer, constant(STOP)), constant(0), answer)


@lowers(pause, 0, returns_value=False)
def _lower_pause(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    prototype = ir.FunctionType(ir.VoidType(), [])
    builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), prototype), [])


@lowers(yield_core, 0, returns_value=False)
def _lower_yield_core(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    libc(builder, "sched_yield", I32, [])
