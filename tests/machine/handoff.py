"""Two processes hand a lock back and forth; run as a script, also over a patched tree.

    python -P tests/machine/handoff.py ROUNDS

Each waits for its own lock word and then releases the other's, so that every turn needs a
wake-up, and one lost wake-up leaves both asleep for ever.  A hook at BLOCK widens the windows
between looking at the word and going to sleep; without it a broken event count passes 200,000
turns.  Prints `ready` when everything is compiled and `done` at the end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from numba import cfunc, int64, njit

from harness.watch.recorder import load_word, store_word
from mmu.machine.blocking import EXCLUSIVE, SHARED_MASK, acquire_when, release
from mmu.machine.cpu import Cpu
from mmu.machine.events import BLOCK, GO
from mmu.machine.layout import LINE
from mmu.machine.memory import SharedBlock
from mmu.machine.primitives import pause

# Lines of a small block: two locks, and for each process its own words and its hook's.
LOCKS = (32 * LINE, 40 * LINE)
OWN = (64 * LINE, 128 * LINE)
RANDOM = (48 * LINE, 56 * LINE)
WORDS = 256 * LINE
DELAY_MASK = (1 << 17) - 1
PAUSES = 200  # a waiter spins 50 before it looks around

PR_SET_PDEATHSIG = 1


@cfunc(int64(*[int64] * 6))
def delay(ctx, actor, kind, a, b, c):
    """Wait up to 0.1 ms, longer than a wake-up takes, where an actor is about to sleep."""
    if kind == BLOCK:
        state = (load_word(ctx, 0) * 1103515245 + 12345) & 0x7FFFFFFF
        store_word(ctx, 0, state)
        for i in range((state >> 8) & DELAY_MASK):
            store_word(ctx, 1, i)
    return GO


@njit(nogil=True, error_model="numpy")
def play(cpu, mine, other, rounds, seed):
    """Take `mine`, keep it for a moment, give `other`; how often."""
    state = seed
    for _ in range(rounds):
        acquire_when(cpu, mine, EXCLUSIVE | SHARED_MASK, 0, EXCLUSIVE)
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        for _ in range((state >> 8) % PAUSES):
            pause(cpu)
        release(cpu, other, -EXCLUSIVE)
    return rounds


def main(rounds: int) -> None:
    words = SharedBlock(WORDS).words
    base = words.ctypes.data
    cpus = [
        Cpu(words, actor=i, own=OWN[i], hook=delay.address, ctx=base + 8 * RANDOM[i])
        for i in range(2)
    ]
    words[RANDOM[0]], words[RANDOM[1]] = 1, 2
    play(cpus[0], LOCKS[0], LOCKS[1], 0, 1)
    words[LOCKS[1]] = EXCLUSIVE
    print("ready", flush=True)
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        play(cpus[1], LOCKS[1], LOCKS[0], rounds, 2)
        os._exit(0)
    play(cpus[0], LOCKS[0], LOCKS[1], rounds, 1)
    os.waitpid(child, 0)
    print("done", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
