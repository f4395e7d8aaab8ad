"""What slow paths are made of: accesses that are no steps, and the futex calls.

The accesses only repeat what a step has announced already (or belong to the supervisor), so no
observer sees them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from mmu.machine.cpu import Cpu
from mmu.machine.lowering import I64, constant, libc, lowers, word_pointer

SYS_FUTEX = 202
FUTEX_WAIT = 0
FUTEX_WAKE = 1
BRIEFLY_NS = 50_000_000


def raw_load(cpu: Cpu, addr: int) -> int:
    """A read that only repeats what a step announced (and what set-up code needs)."""
    return int(cpu.words[addr])


def raw_cmpxchg(cpu: Cpu, addr: int, old: int, new: int) -> int:
    """Compare and swap; the value seen."""
    seen = int(cpu.words[addr])
    if seen == old:
        cpu.words[addr] = new
    return seen


def raw_add(cpu: Cpu, addr: int, amount: int) -> int:
    """Add; the value before."""
    old = int(cpu.words[addr])
    cpu.words[addr] = old + amount
    return old


def futex_wait(cpu: Cpu, addr: int, value: int) -> None:
    """Sleep while the word's low half is `value`."""
    raise RuntimeError("an interpreted actor cannot sleep: its scheduler runs it when it can go on")


def futex_wait_briefly(cpu: Cpu, addr: int, value: int) -> None:
    """The same, but at most `BRIEFLY_NS`."""
    raise RuntimeError("an interpreted actor cannot sleep")


def futex_wake(cpu: Cpu, addr: int) -> None:
    """Wake everybody who sleeps on the word."""
    raise RuntimeError("interpreted actors do not sleep")


@lowers(raw_load, 1)
def _lower_raw_load(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    return builder.load_atomic(word_pointer(builder, cpu.base, operands[0]), "acquire", 8)


@lowers(raw_cmpxchg, 3)
def _lower_raw_cmpxchg(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = word_pointer(builder, cpu.base, operands[0])
    pair = builder.cmpxchg(pointer, operands[1], operands[2], "seq_cst", "seq_cst")
    return builder.extract_value(pair, 0)


@lowers(raw_add, 2)
def _lower_raw_add(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = word_pointer(builder, cpu.base, operands[0])
    return builder.atomic_rmw("add", pointer, operands[1], "seq_cst")


def _futex_call(
    builder: Any, cpu: Any, addr: Any, operation: int, value: Any, timeout: Any
) -> None:
    # Futex words have 32 bits: the low half of ours, which comes first on x86-64.  No
    # FUTEX_PRIVATE: waiter and waker are different processes.
    pointer = builder.ptrtoint(word_pointer(builder, cpu.base, addr), I64)
    arguments = [constant(SYS_FUTEX), pointer, constant(operation), value, timeout]
    libc(builder, "syscall", I64, [*arguments, constant(0), constant(0)])


@lowers(futex_wait, 2, returns_value=False)
def _lower_futex_wait(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    low = builder.and_(operands[1], constant(0xFFFFFFFF))
    _futex_call(builder, cpu, operands[0], FUTEX_WAIT, low, constant(0))


@lowers(futex_wait_briefly, 2, returns_value=False)
def _lower_futex_wait_briefly(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    timeout = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
    builder.store(ir.Constant(ir.ArrayType(I64, 2), [0, BRIEFLY_NS]), timeout)
    low = builder.and_(operands[1], constant(0xFFFFFFFF))
    _futex_call(builder, cpu, operands[0], FUTEX_WAIT, low, builder.ptrtoint(timeout, I64))


@lowers(futex_wake, 1, returns_value=False)
def _lower_futex_wake(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    _futex_call(builder, cpu, operands[0], FUTEX_WAKE, constant(0x7FFFFFFF), constant(0))
