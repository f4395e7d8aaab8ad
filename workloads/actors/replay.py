"""Trace records from a reader process to the vCPUs that replay them, through a ring of chunks.

In the workload's own words of the block: a line with the number of chunks published, a line with
the number of times that a vCPU was done with one (both event counts), a line per vCPU with the
chunks that it has consumed, then `RING_CHUNKS` chunks of a length word and up to
`CHUNK_ACCESSES` accesses, each `page << 2 | kind`.
"""

from __future__ import annotations

import numpy as np

from mmu.guest import QUIET_ACCESSES, guest_access, quiet_due, quiet_point, should_stop
from mmu.machine.blocking import add_and_wake
from mmu.machine.cpu import Cpu, Words
from mmu.machine.futex import raw_load
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_GFN_BASE, C_WORKLOAD, LINE, WORK_DONE
from mmu.machine.primitives import config, own, set_own
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE

RING_CHUNKS = 8
CHUNK_ACCESSES = 1 << 15
CHUNK_WORDS = CHUNK_ACCESSES + LINE
DEAL_ACCESSES = 1 << 10  # with `split`, vCPUs take turns after so many accesses
END_OF_TRACE = -1


def ring_words(vcpus: int) -> int:
    """Words that the ring needs."""
    return (2 + vcpus) * LINE + RING_CHUNKS * CHUNK_WORDS


@kernel
def consumed_line(cpu: Cpu, vcpu: int) -> int:
    """Word index of the number of chunks that a vCPU has consumed."""
    return config(cpu, C_WORKLOAD) + (2 + vcpu) * LINE


@kernel
def chunk_word(cpu: Cpu, vcpus: int, number: int) -> int:
    """Word index of a chunk's length; its accesses follow a line later."""
    return config(cpu, C_WORKLOAD) + (2 + vcpus) * LINE + (number % RING_CHUNKS) * CHUNK_WORDS


@kernel
def published_line(cpu: Cpu) -> int:
    """Word index of the number of chunks published."""
    return config(cpu, C_WORKLOAD)


@kernel
def freed_line(cpu: Cpu) -> int:
    """Word index of the count that the reader sleeps for when the ring is full."""
    return config(cpu, C_WORKLOAD) + LINE


def publish(cpu: Cpu, vcpus: int, number: int, accesses: Words | None) -> None:
    """The reader: fill chunk `number` (its place is free) and tell the vCPUs; None: the end."""
    start = chunk_word(cpu, vcpus, number)
    if accesses is None:
        cpu.words[start] = END_OF_TRACE
    else:
        cpu.words[start + LINE : start + LINE + len(accesses)] = accesses
        cpu.words[start] = len(accesses)
    add_and_wake(cpu, published_line(cpu), 1)


def consume(cpu: Cpu, vcpu: int, number: int) -> None:
    """A vCPU: chunk `number` is done with."""
    cpu.words[consumed_line(cpu, vcpu)] = number + 1
    add_and_wake(cpu, freed_line(cpu), 1)


def slowest(cpu: Cpu, vcpus: int) -> int:
    """Chunks that every vCPU has consumed."""
    first = consumed_line(cpu, 0)
    return int(np.min(cpu.words[first : first + vcpus * LINE : LINE]))


@kernel
def _access_of(kind: int) -> int:
    """ACCESS_* of a record's kind: 0 read, 1 write, 2 execute."""
    if kind == 0:
        return ACCESS_READ
    return ACCESS_WRITE if kind == 1 else ACCESS_EXECUTE


@kernel
def replay_batch(cpu: Cpu, chunk: int, dealt: int, turn: int, turns: int, limit: int) -> int:
    """Go on with the chunk at word `chunk`; how many accesses of it are left.

    Access i of the trace belongs to this vCPU if `(i // DEAL_ACCESSES) % turns == turn`; `dealt` is
    the number of the chunk's first access.
    """
    length = raw_load(cpu, chunk)
    base = config(cpu, C_GFN_BASE)
    done = own(cpu, WORK_DONE)
    end = min(length, done + limit)
    while done < end and not should_stop(cpu):
        batch = min(end, done + QUIET_ACCESSES)
        while done < batch:
            if turns == 1 or ((dealt + done) // DEAL_ACCESSES) % turns == turn:
                record = raw_load(cpu, chunk + LINE + done)
                guest_access(cpu, base + (record >> 2), _access_of(record & 3))
            done += 1
        if quiet_due(cpu):
            quiet_point(cpu)
    set_own(cpu, WORK_DONE, done)
    return length - done
