"""Waiting for a word: spin a little, then sleep on an event count.

Every word that anybody waits for is the first of a line: the word, `GATE` (event count),
`SLEEPERS`, and for locks `PHASES` (finished exclusive phases).

A lock word: bit 0 exclusive holder, bits 1 to 15 exclusive waiters, 16 to 31 shared holders.

No lost wake-up.  Sleeper: SLEEPERS += 1; read GATE; look at the word again; sleep while GATE is
what was read.  Waker: change the word; if SLEEPERS: GATE += 1, wake all.  All of these are
read-modify-writes or lie between two, so either the waker sees the sleeper, or the sleeper's
second look sees the change; and a GATE read before the waker's increment makes the sleep return
at once.  Reading GATE after the second look loses wake-ups (a test shows it).

A few words have no line of their own to sleep on (an entry, an RCU section): `spin_while`.

Fairness.  A newcomer lets waiting writers go first, but only for one exclusive phase; whoever
already runs may barge past sleepers.  Strict queueing would cost a context switch per
acquisition as soon as there are more processes than cores.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload

from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.events import STOP
from mmu.machine.futex import (
    futex_wait,
    futex_wait_briefly,
    futex_wake,
    raw_add,
    raw_cmpxchg,
    raw_load,
)
from mmu.machine.histogram import record_latency
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    GATE,
    H_BLOCK,
    MMU_LOCK,
    N_LOCK_READ_CONTENDED,
    N_LOCK_READ_WAIT,
    N_LOCK_READ_WAIT_MAX,
    PHASES,
    SLEEPERS,
    WAITING_FOR,
)
from mmu.machine.lowering import I64, constant, lowers, observed, word_pointer
from mmu.machine.primitives import (
    block_point,
    cycles,
    lower_stop_question,
    observe,
    own,
    pause,
    set_own,
    tally,
    yield_core,
)

SPINS_MAX = 50  # about 1.1 us; 500 make a writer at 96 processes wait 10 times longer
EXCLUSIVE = 1
WAITING_UNIT = 2
WAITING_MASK = 0xFFFE
SHARED_UNIT = 1 << 16
SHARED_MASK = 0xFFFF0000


# --- Slow paths ----------------------------------------------------------------------------------


@kernel
def _sleep(cpu: Cpu, line: int, gate: int) -> None:
    """Sleep until somebody wakes `line`, unless its event count is no longer `gate`."""
    set_own(cpu, WAITING_FOR, line)
    futex_wait(cpu, line + GATE, gate)
    set_own(cpu, WAITING_FOR, 0)


@kernel
def wake(cpu: Cpu, line: int) -> None:
    """Wake whoever sleeps for `line`; costs one load when nobody does."""
    if raw_load(cpu, line + SLEEPERS) != 0:
        raw_add(cpu, line + GATE, 1)
        futex_wake(cpu, line + GATE)


@kernel
def _try_exclusive(cpu: Cpu, line: int, mask: int, value: int, waiting: int) -> int:
    """Take over from `waiting` (0 or one unit) to holding, if nobody holds it."""
    seen = raw_load(cpu, line)
    while seen & mask == value:
        got = raw_cmpxchg(cpu, line, seen, seen - waiting + EXCLUSIVE)
        if got == seen:
            return 1
        seen = got
    return 0


@kernel
def _try_shared(cpu: Cpu, line: int, mask: int, value: int, amount: int, courtesy: int) -> int:
    """Add `amount` if the word allows it; bits in `courtesy` hold a newcomer back."""
    seen = raw_load(cpu, line)
    while seen & mask == value and seen & courtesy == 0:
        got = raw_cmpxchg(cpu, line, seen, seen + amount)
        if got == seen:
            return 1
        seen = got
    return 0


@kernel
def _attempt(cpu: Cpu, line: int, mask: int, value: int, amount: int, phase: int) -> int:
    """One attempt of whoever waits since exclusive phase `phase`."""
    if amount == EXCLUSIVE:
        return _try_exclusive(cpu, line, mask, value, WAITING_UNIT)
    courtesy = 0
    if amount == SHARED_UNIT and raw_load(cpu, line + PHASES) == phase:
        courtesy = WAITING_MASK
    return _try_shared(cpu, line, mask, value, amount, courtesy)


@kernel
def _count_wait(cpu: Cpu, line: int, amount: int, ticks: int) -> None:
    """Book a contended acquisition: how long the actor was blocked, and for mmu_lock by mode."""
    record_latency(cpu, H_BLOCK, ticks)
    if line == MMU_LOCK:
        mode = int(amount == EXCLUSIVE)
        tally(cpu, N_LOCK_READ_CONTENDED + mode, 1)
        tally(cpu, N_LOCK_READ_WAIT + mode, ticks)
        longest = N_LOCK_READ_WAIT_MAX + mode
        set_own(cpu, longest, max(own(cpu, longest), ticks))


@kernel
def _acquire_slow(cpu: Cpu, line: int, mask: int, value: int, amount: int) -> None:
    """Spin, then sleep, until the acquisition succeeds."""
    began = cycles(cpu)
    phase = raw_load(cpu, line + PHASES)
    if amount == EXCLUSIVE:
        raw_add(cpu, line, WAITING_UNIT)
    while True:
        for _ in range(SPINS_MAX):
            if _attempt(cpu, line, mask, value, amount, phase):
                _count_wait(cpu, line, amount, cycles(cpu) - began)
                return
            pause(cpu)
        raw_add(cpu, line + SLEEPERS, 1)
        gate = raw_load(cpu, line + GATE)
        end = block_point(cpu, line, gate)
        got = _attempt(cpu, line, mask, value, amount, phase)
        if got == 0 and end == 0 and block_point(cpu, line, gate) == 0:
            _sleep(cpu, line, gate)
        raw_add(cpu, line + SLEEPERS, -1)
        if got or end:
            _count_wait(cpu, line, amount, cycles(cpu) - began)
            return


@kernel
def _wait_slow(cpu: Cpu, line: int, value: int) -> None:
    """Spin, then sleep, while the word is `value`."""
    for _ in range(SPINS_MAX):
        if raw_load(cpu, line) != value:
            return
        pause(cpu)
    while raw_load(cpu, line) == value:
        raw_add(cpu, line + SLEEPERS, 1)
        gate = raw_load(cpu, line + GATE)
        end = block_point(cpu, line, gate)
        if raw_load(cpu, line) == value and end == 0:
            _sleep(cpu, line, gate)
        raw_add(cpu, line + SLEEPERS, -1)
        if end:
            return


@kernel
def _spin_slow(cpu: Cpu, addr: int, value: int) -> None:
    """Spin, then give up the core again and again, while the word is `value`."""
    set_own(cpu, WAITING_FOR, addr)
    while raw_load(cpu, addr) == value:
        for _ in range(SPINS_MAX):
            if raw_load(cpu, addr) != value:
                break
            pause(cpu)
        else:
            yield_core(cpu)
    set_own(cpu, WAITING_FOR, 0)


@kernel
def wait_briefly(cpu: Cpu, line: int, value: int) -> int:
    """The supervisor's wait: sleep while the word is `value`, at most 50 ms; the word.

    It returns to Python again and again, where signals and dead children are noticed; the event
    count makes sure that the time-out hides no lost wake-up.
    """
    if raw_load(cpu, line) == value:
        raw_add(cpu, line + SLEEPERS, 1)
        gate = raw_load(cpu, line + GATE)
        if raw_load(cpu, line) == value:
            futex_wait_briefly(cpu, line + GATE, gate)
        raw_add(cpu, line + SLEEPERS, -1)
    return raw_load(cpu, line)


@kernel
def add_and_wake(cpu: Cpu, line: int, amount: int) -> int:
    """Add to a word that somebody may wait for; the new value."""
    value = raw_add(cpu, line, amount) + amount
    wake(cpu, line)
    return value


# --- The primitives ------------------------------------------------------------------------------


def acquire_when(cpu: Cpu, addr: int, mask: int, value: int, amount: int) -> None:
    """One step, when it succeeds: enabled while `word & mask == value`, then adds `amount`.

    Every lock is made of it.  In stress the word is a lock word (see above) and the actor sleeps;
    a scheduler runs the actor only when the step is enabled.  A newcomer to shared mode is not
    while a writer waits; where steps are scheduled nobody ever waits in line.
    """
    if amount == SHARED_UNIT:
        mask |= WAITING_MASK
    if observe(cpu, events.ACQUIRE, addr, mask | value << 32, amount) == STOP:
        return
    word = int(cpu.words[addr])
    if word & mask != value:
        raise RuntimeError(f"acquire_when on word {addr} ran while it was not enabled")
    cpu.words[addr] = word + amount


def release(cpu: Cpu, addr: int, amount: int) -> None:
    """One step: adds `amount` (negative of what was acquired), then wakes who can go on now."""
    if observe(cpu, events.RELEASE, addr, 0, amount) == STOP:
        return
    cpu.words[addr] += amount
    if amount == -EXCLUSIVE:
        cpu.words[addr + PHASES] += 1


def wait_while(cpu: Cpu, addr: int, value: int) -> None:
    """One step, when it succeeds: enabled while the word is not `value`."""
    if observe(cpu, events.WAIT_WHILE, addr, value) == STOP:
        return
    if int(cpu.words[addr]) == value:
        raise RuntimeError(f"wait_while on word {addr} ran while it was not enabled")


def spin_while(cpu: Cpu, addr: int, value: int) -> None:
    """`wait_while` for a word whose writers wake nobody: a short time, on a word without a line.

    The same step for whoever watches; in stress the actor does not sleep.
    """
    wait_while(cpu, addr, value)


def _acquire_fast(cpu: Cpu, addr: int, mask: int, value: int, amount: int) -> int:
    raise NotImplementedError("only compiled: the first attempt of acquire_when")


def _release_fast(cpu: Cpu, addr: int, amount: int) -> int:
    raise NotImplementedError("only compiled: the step of release")


def _wait_fast(cpu: Cpu, addr: int, value: int) -> int:
    raise NotImplementedError("only compiled: the first look of wait_while")


@lowers(_acquire_fast, 4)
def _lower_acquire_fast(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    addr, mask, value, amount = operands
    pointer = word_pointer(builder, cpu.base, addr)
    # Newcomers let waiting writers go first, whoever watches: the condition that is announced is
    # the one that is tried, so that what a scheduler finds enabled succeeds.
    shared = builder.icmp_signed("==", amount, constant(SHARED_UNIT))
    courtesy = builder.select(shared, constant(WAITING_MASK), constant(0))
    mask = builder.or_(mask, courtesy)

    def attempt() -> Any:
        seen = builder.load_atomic(pointer, "acquire", 8)
        enabled = builder.icmp_signed("==", builder.and_(seen, mask), value)
        # A compare-and-swap that must fail stands in for "not enabled": no second branch.
        wrong = builder.xor(seen, constant(1 << 62))
        expected = builder.select(enabled, seen, wrong)
        pair = builder.cmpxchg(pointer, expected, builder.add(seen, amount), "seq_cst", "seq_cst")
        return builder.zext(builder.extract_value(pair, 1), I64)

    packed = builder.or_(mask, builder.shl(value, constant(32)))
    return observed(builder, cpu, events.ACQUIRE, [addr, packed, amount], attempt, constant(1))


@lowers(_release_fast, 2)
def _lower_release_fast(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    addr, amount = operands
    pointer = word_pointer(builder, cpu.base, addr)

    def add() -> Any:
        exclusive = builder.icmp_signed("==", amount, constant(-EXCLUSIVE))
        with builder.if_then(exclusive, likely=False):
            phases = word_pointer(builder, cpu.base, builder.add(addr, constant(PHASES)))
            # Only the exclusive holder writes it, and before it lets go.
            builder.store_atomic(
                builder.add(builder.load_atomic(phases, "acquire", 8), constant(1)),
                phases,
                "release",
                8,
            )
        return builder.add(builder.atomic_rmw("add", pointer, amount, "seq_cst"), amount)

    operands = [addr, constant(0), amount]
    return observed(builder, cpu, events.RELEASE, operands, add, constant(SHARED_UNIT))


@lowers(_wait_fast, 2)
def _lower_wait_fast(builder: Any, cpu: Any, operands: list[Any]) -> Any:
    pointer = word_pointer(builder, cpu.base, operands[0])

    def look() -> Any:
        seen = builder.load_atomic(pointer, "acquire", 8)
        return builder.zext(builder.icmp_signed("!=", seen, operands[1]), I64)

    return observed(builder, cpu, events.WAIT_WHILE, operands, look, constant(1))


@overload(acquire_when, inline="never")
def _compiled_acquire_when(cpu: Any, addr: Any, mask: Any, value: Any, amount: Any) -> Any:
    def implementation(cpu: Any, addr: Any, mask: Any, value: Any, amount: Any) -> None:
        if _acquire_fast(cpu, addr, mask, value, amount) == 0:
            _acquire_slow(cpu, addr, mask, value, amount)

    return implementation


@overload(release, inline="never")
def _compiled_release(cpu: Any, addr: Any, amount: Any) -> Any:
    def implementation(cpu: Any, addr: Any, amount: Any) -> None:
        # With readers left nobody can go on: no thundering herd.
        if _release_fast(cpu, addr, amount) < SHARED_UNIT:
            wake(cpu, addr)

    return implementation


@overload(wait_while, inline="never")
def _compiled_wait_while(cpu: Any, addr: Any, value: Any) -> Any:
    def implementation(cpu: Any, addr: Any, value: Any) -> None:
        if _wait_fast(cpu, addr, value) == 0:
            _wait_slow(cpu, addr, value)

    return implementation


@overload(spin_while, inline="never")
def _compiled_spin_while(cpu: Any, addr: Any, value: Any) -> Any:
    def implementation(cpu: Any, addr: Any, value: Any) -> None:
        if _wait_fast(cpu, addr, value) == 0:
            _spin_slow(cpu, addr, value)

    return implementation


def again(cpu: Cpu) -> None:
    """End an attempt that must be repeated (RET_PF_RETRY).

    A scheduler runs the actor again only when a word that the attempt read was written; in
    stress a pause and a yield let whoever was faster finish.
    """
    observe(cpu, events.AGAIN)


def _announce_again(cpu: Cpu) -> int:
    raise NotImplementedError("only compiled: the question of again")


lowers(_announce_again, 0)(lower_stop_question(events.AGAIN, 0))


@overload(again, inline="never")
def _compiled_again(cpu: Any) -> Any:
    def implementation(cpu: Any) -> None:
        if _announce_again(cpu) == 0:
            pause(cpu)
            yield_core(cpu)

    return implementation
