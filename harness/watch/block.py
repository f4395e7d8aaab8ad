"""One actor's block of the stress watch: what its hook is asked to do, and what it has done.

The blocks lie in anonymous shared memory, never inside the model's: the supervisor reads them
however their process ended.
"""

from __future__ import annotations

# What is asked, and what became of it, in W_ASKED.
ASK_RING = 1
ASK_BOUNDS = 2
ASK_DELAY = 4
ASK_STEPS = 8  # in the ring too
STOPPING = 16  # a wild step was seen: every call is answered STOP

# What may be injected.  Three of them are answers to the model's probes, in the probes' order.
RETRY, CMPXCHG, CONTENTION, DELAY = range(4)
KINDS = ("retry", "cmpxchg", "contention", "delay")

(
    W_ASKED,
    W_BASE,  # address of the model's shared words
    W_WORDS,  # how many there are: a step on a word outside is wild
    W_OWN,  # index of the actor's own block in them
    W_CONTROL,  # address of the words that all actors of the run share, see below
    W_BEGAN,  # the time stamp counter when the run began
    W_ROWS,  # address of the ring's row 0
    W_ROW_MASK,  # rows of the ring, a power of two, minus 1
    W_COUNT,  # rows written so far
    W_DELAY_TICKS,
) = range(10)
# For each kind of injection: its random state, below which 31 bits it happens, how often it was
# asked for, how often it happened, and how often in a row.
W_RANDOM, W_THRESHOLD, W_CHANCES, W_INJECTED, W_IN_A_ROW = range(12, 32, 4)
HEADER_WORDS = 32

# Words that all actors share, on a line that is written once.
CONTROL_LAST = 0  # rings take nothing that happens later than this time stamp
CONTROL_MOMENT = 1  # when the first rule was broken, 0: none was
CONTROL_WORDS = 8
NEVER = 1 << 62

# A row of a ring: half a cache line.
ROW_STAMP, ROW_A, ROW_B, ROW_C, ROW_WORDS = range(5)  # stamp: ticks << KIND_BITS | kind
KIND_BITS = 9
KIND_MASK = (1 << KIND_BITS) - 1
