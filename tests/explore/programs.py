"""Small straight-line programs as data, and the one kernel that runs any of them.

An instruction is (operation, word, a, b).  Compiling each program would cost a second; here the
program text lies in words that the kernel reads as constants, so thousands of them share it.
"""

from __future__ import annotations

import random

from mmu.machine.blocking import (
    EXCLUSIVE,
    SHARED_MASK,
    SHARED_UNIT,
    acquire_when,
    again,
    release,
    wait_while,
)
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.primitives import (
    cmpxchg,
    config,
    count,
    fetch_add,
    read_once,
    stopped,
    write_once,
    xchg,
)
from workloads.scenario import Actor, Scenario

(
    LOAD,
    STORE,
    XCHG,
    CMPXCHG,
    FETCH_ADD,
    COUNT,
    LOCK,
    UNLOCK,
    LOCK_SHARED,
    UNLOCK_SHARED,
    WAIT_WHILE,
    SKIP_IF,  # the last value read is a: leave out the next b instructions
    STORE_LAST,  # the last value read plus a
    RETRY_UNLESS,  # the word is a: else start over from the first instruction
) = OPERATIONS = range(14)
NAMES = [
    "load",
    "store",
    "xchg",
    "cmpxchg",
    "fetch_add",
    "count",
    "lock",
    "unlock",
    "lock_shared",
    "unlock_shared",
    "wait_while",
    "skip_if",
    "store_last",
    "retry_unless",
]

Instruction = tuple[int, int, int, int]
Program = tuple[tuple[Instruction, ...], ...]  # one a actor

WORDS = 4  # plain words w[0] to w[3]
LOCKS = (8, 16)  # a lock needs a line
RESULTS = 24  # per actor: the last value that it read
TEXT = 32  # per actor: how many instructions, then four words each
TEXT_WORDS = 48
ACTORS_MAX = 4
SHARED = (0, 1, 2, 3, *LOCKS)


@inlined_kernel
def _plain(cpu: Cpu, operation: int, word: int, a: int, b: int, last: int) -> int:
    """One instruction that has nothing to do with locks; the last value read from now on."""
    if operation == LOAD:
        return read_once(cpu, word)
    if operation == STORE:
        write_once(cpu, word, a)
    elif operation == STORE_LAST:
        write_once(cpu, word, last + a)
    elif operation == XCHG:
        return xchg(cpu, word, a)
    elif operation == CMPXCHG:
        return cmpxchg(cpu, word, a, b)
    elif operation == FETCH_ADD:
        return fetch_add(cpu, word, a)
    elif operation == COUNT:
        count(cpu, word, a)
    return last


@inlined_kernel
def _waiting(cpu: Cpu, operation: int, word: int, a: int) -> None:
    if operation == LOCK:
        acquire_when(cpu, word, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)
    elif operation == UNLOCK:
        release(cpu, word, -EXCLUSIVE)
    elif operation == LOCK_SHARED:
        acquire_when(cpu, word, EXCLUSIVE, 0, SHARED_UNIT)
    elif operation == UNLOCK_SHARED:
        release(cpu, word, -SHARED_UNIT)
    elif operation == WAIT_WHILE:
        wait_while(cpu, word, a)


@kernel
def run_program(cpu: Cpu) -> None:
    text = TEXT + cpu.id * TEXT_WORDS
    length = config(cpu, text)
    position = 0
    last = 0
    while position < length and not stopped(cpu):
        place = text + 1 + 4 * position
        operation = config(cpu, place)
        word, a, b = config(cpu, place + 1), config(cpu, place + 2), config(cpu, place + 3)
        position += 1
        if operation == SKIP_IF:
            if last == a:
                position += b
        elif operation == RETRY_UNLESS:
            last = read_once(cpu, word)
            if last != a:
                again(cpu)
                position = 0
        elif operation >= LOCK and operation <= WAIT_WHILE:
            _waiting(cpu, operation, word, a)
        else:
            last = _plain(cpu, operation, word, a, b, last)
    # Nobody else touches this word: the step commutes with everything and counts for nothing.
    write_once(cpu, RESULTS + cpu.id, last)


def scenario_of(program: Program) -> Scenario:
    """The program with all its words and last values as outcome."""
    initial = {}
    for number, actor in enumerate(program):
        text = TEXT + number * TEXT_WORDS
        words = [len(actor), *(value for instruction in actor for value in instruction)]
        initial.update({f"w[{text + i}]": value for i, value in enumerate(words)})
    return Scenario(
        "program",
        "generated",
        tuple(Actor(f"actor {i}", run_program) for i in range(len(program))),
        words=(f"w[{TEXT + ACTORS_MAX * TEXT_WORDS}]",),
        initial=initial,
        outcome=tuple(f"w[{i}]" for i in (*SHARED, *range(RESULTS, RESULTS + len(program)))),
    )


def text_of(program: Program) -> str:
    """For a person."""
    lines = []
    for number, actor in enumerate(program):
        steps = [f"{NAMES[o]} w[{w}] {a} {b}" for o, w, a, b in actor]
        lines.append(f"actor {number}: " + "; ".join(steps))
    return "\n".join(lines)


LENGTHS = {2: 7, 3: 5, 4: 3}


def generate(seed: int) -> Program:
    """2 to 4 actors that get into each other's way."""
    choose = random.Random(seed)
    actors = choose.choice((2, 2, 3, 3, 4))
    return tuple(_actor(choose, choose.randint(2, LENGTHS[actors])) for _ in range(actors))


def _actor(choose: random.Random, length: int) -> tuple[Instruction, ...]:
    steps: list[Instruction] = []
    while len(steps) < length:
        if choose.random() < 0.8:
            steps.append(_instruction(choose))
        else:
            steps += _locked(choose)
    return tuple(steps)


def _instruction(choose: random.Random) -> Instruction:
    operation = choose.choices(
        (LOAD, STORE, XCHG, CMPXCHG, FETCH_ADD, COUNT, WAIT_WHILE, SKIP_IF, STORE_LAST),
        (15, 12, 6, 15, 7, 12, 8, 7, 5),
    )[0]
    word, value = choose.randrange(3), choose.randrange(3)
    if operation == CMPXCHG:
        return operation, word, value, choose.randrange(3)
    if operation == SKIP_IF:
        return operation, 0, choose.randrange(2), choose.randint(1, 2)
    if operation in (FETCH_ADD, COUNT):
        return operation, word, 1, 0
    return operation, word, 0 if operation == LOAD else value, 0


def _locked(choose: random.Random) -> list[Instruction]:
    """A critical section; sometimes it never ends, which gives deadlocks."""
    word = choose.choice((LOCKS[0], LOCKS[0], LOCKS[1]))
    shared = choose.random() < 0.5
    steps = [(LOCK_SHARED if shared else LOCK, word, 0, 0)]
    if choose.random() < 0.85:
        if choose.random() < 0.5:
            # Now and then the lock word itself: loads and counts conflict with lock steps.
            target = choose.choice((0, 0, word))
            steps.append((LOAD, target, 0, 0) if choose.random() < 0.5 else (COUNT, 0, 1, 0))
        steps.append((UNLOCK_SHARED if shared else UNLOCK, word, 0, 0))
    return steps
