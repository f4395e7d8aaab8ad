"""The engine's own memory: one block of words, never inside the model's.

Three parts: a header, a part for each actor, and one row for each step of the present execution
(its trace).  A row keeps what the step was, what else was possible there, and what the strategy
wants to remember.  `LAST` says for each shared word which row touched it last; rows of one word,
and rows of one actor, are chained through it.

Handles are addresses (of the block, an actor, a row); fields are word numbers in them.  Row
numbers that are stored are one higher, so that 0 means "none".
"""

from __future__ import annotations

from harness.watch.words import get, put
from mmu.machine.kernel import inlined_array_kernel
from workloads.scenario import ACTORS_MAX

STEPS_LIMIT = 50_000  # rows of one execution that memory is taken for at most
FAILURES_MAX = 1  # probes that an actor has answered "fail" in an execution: more never end
OUTCOMES_MAX = 1 << 12  # different outcomes that are counted
OUTCOME_WORDS_MAX = 32
STATES_MAX = 1 << 16  # different final states of a VM that are audited

(
    H_BASE,  # address of the shared words
    H_WORDS,
    H_INITIAL,  # address of what they are at the beginning
    H_ACTORS,
    H_GEOMETRY,
    H_HOOK,  # address of the engine's hook, which actors call
    H_ENTRY,  # address of what a fresh stack runs
    H_ROWS,  # address of row 0
    H_LAST,  # address of LAST
    H_HUB,  # stack pointer of the loop while an actor runs
    # The present execution.
    H_DEPTH,  # steps so far
    H_PREFIX,  # rows below are repeated as they stand
    H_FORCED,  # who (or which answer) is chosen at row H_PREFIX, -1: free
    H_LIVE,  # mask of actors that have not ended
    H_PHASE,  # STARTING, RUNNING, ALONE
    H_STATUS,
    H_STOPPING,  # every call is answered STOP
    H_STOP_AT,  # depth at which stopping begins, 0: never
    H_STAMPED,  # rows whose clocks are valid
    H_AGAINS,  # rows of kind AGAIN among them
    # What the execution broke first.
    H_FAULT,  # FAULT_*, or WARN + condition
    H_FAULT_ACTOR,
    H_FAULT_DEPTH,
    H_FAULT_A,
    H_FAULT_B,
    H_FAULT_C,
    H_IGNORED,  # a bit for each kind of fault that is nobody's concern here (`fault_bits`)
    H_IGNORED_MORE,
    # Bounds and counters.
    H_STEPS_MAX,
    H_PREEMPTIONS_MAX,  # -1: no bound
    H_BOUND_HIT,  # BOUND_* bits
    H_EXECUTIONS,
    H_COMPLETE,
    H_DEADLOCKED,
    H_BLOCKED,
    H_STEPS,
    H_DEEPEST,
    H_RESUME,  # Python was asked about the execution that has just ended
    H_ANSWERED,  # a bit for each kind of fault that it needs not be asked about again
    H_ANSWERED_MORE,
    # The scenario.
    H_PROBES,
    H_ANSWERS,  # address of recorded (actor, answer) pairs, 0: none
    H_ANSWER_COUNT,
    H_FINISH,  # address of its kernel, 0: none
    H_CHECK,
    H_CHECKED,  # what the check returned
    H_OUTCOME,  # address of the outcome words' indices
    H_OUTCOME_WORDS,
    H_OUTCOMES,  # address of the table
    H_OUTCOMES_USED,
    H_REGIONS,  # address of (first, end) pairs that make up a VM's final state
    H_REGION_COUNT,
    H_STATES,  # address of the table of hashes, 0: no audits
    H_STATES_USED,
    # How often executions fail (`harness.explore.tally`).
    H_TALLY,  # address of its words, 0: nobody counts
    H_OUTCOME_PLACE,  # where in the tables the present execution's outcome and state stand, -1:
    H_STATE_PLACE,  # ... they do not
    # The strategy.
    H_BEGIN,
    H_CHOOSE,
    H_FINISH_EXECUTION,
    H_SYSTEMATIC,  # what becomes of draws; but for RANDOM_DRAWS, clocks are kept
    H_RANDOM,
    # The VM's table pages and their records, 0 and 0 without a VM.
    H_TABLES,
    H_TABLES_END,
    H_RECORDS,
    H_RECORDS_END,
    H_STRATEGY,  # 32 words and a block address of the strategy's own
) = range(67)
STRATEGY_WORDS = 32
H_STRATEGY_BLOCK = H_STRATEGY + STRATEGY_WORDS
HEADER_WORDS = H_STRATEGY_BLOCK + 8

STARTING, RUNNING, ALONE = range(3)
RANDOM_DRAWS, ALL_DRAWS, NO_DRAWS = range(3)  # H_SYSTEMATIC
HUB = -1  # nobody goes on: the execution is over

(
    STATUS_RUNNING,
    STATUS_COMPLETE,
    STATUS_DEADLOCK,
    STATUS_CUT,  # every runnable actor sleeps, or a bound on preemptions forbids it
    STATUS_BOUNDED,  # too many steps
    STATUS_BROKEN,  # wild, raised, diverged: it cannot go on
) = range(6)

(
    FAULT_NONE,
    FAULT_DEADLOCK,
    FAULT_LIVELOCK,
    FAULT_WILD,
    FAULT_RAISED,
    FAULT_DIVERGED,
    FAULT_CHECK,
    FAULT_CHECK_STUCK,
    FAULT_CHAIN,
    FAULT_DRAWS,
    FAULT_MEMORY,
) = range(11)

BOUND_STEPS = 1
BOUND_PREEMPTIONS = 2

ASK_OUTCOME = 1
ASK_STATE = 2
ASK_FAULT = 4

# An actor.
(
    A_STACK,  # its stack pointer while it does not run
    A_TOP,  # where its stack begins
    A_BODY,
    A_OWN,
    A_KIND,  # its pending step, as its hook call said
    A_ADDR,
    A_B,
    A_C,
    A_LAST,  # its last row
    A_ATTEMPT,  # depth at which its present attempt began
    A_ANSWERED,  # recorded answers that were looked at
    A_FAILURES,  # probes that were answered "fail" in this execution
    A_PROBED,  # ... and whether one was in the present attempt
    A_STRATEGY,  # four words of the strategy's own
) = range(14)
ACTOR_WORDS = 20

# A row.
(
    R_ACTOR,
    R_KIND,
    R_ADDR,  # -1: no word (a draw, a probe, AGAIN)
    R_CLASS,  # of harness.explore.steps
    R_OLD,  # draws: how many alternatives
    R_NEW,  # draws: the answer
    R_B,
    R_C,
    R_PREV_WORD,
    R_PREV_ACTOR,
    R_ENABLED,  # mask of who could go on here
    R_PREEMPTIONS,  # up to and with this step
    R_SLEEP,
    R_BACKTRACK,
    R_DONE,
    R_ATTEMPT,  # AGAIN: where the attempt began
    R_RACES,  # how many entries R_RACE has
) = range(17)
R_PENDING = 17  # per actor: what it was about to do (see `steps.summary`)
R_CLOCK = R_PENDING + ACTORS_MAX  # per actor: its last row that happens before or at this one
# Races of the row with earlier ones: an earlier row, and which others have to come later with it.
R_RACE = R_CLOCK + ACTORS_MAX
RACES_MAX = 32
ROW_WORDS = R_RACE + 2 * RACES_MAX


@inlined_array_kernel
def actor_at(ctx: int, actor: int) -> int:
    """Handle of an actor."""
    return ctx + 8 * (HEADER_WORDS + actor * ACTOR_WORDS)


@inlined_array_kernel
def row_at(ctx: int, depth: int) -> int:
    """Handle of a row."""
    return get(ctx, H_ROWS) + 8 * ROW_WORDS * depth


@inlined_array_kernel
def word_now(ctx: int, addr: int) -> int:
    """What a shared word holds: only one actor runs at a time."""
    return get(get(ctx, H_BASE), addr)


@inlined_array_kernel
def random_word(ctx: int) -> int:
    """31 random bits (xorshift64)."""
    x = get(ctx, H_RANDOM)
    x ^= x << 13
    x ^= (x >> 7) & ((1 << 57) - 1)
    x ^= x << 17
    put(ctx, H_RANDOM, x)
    return (x >> 20) & 0x7FFFFFFF


@inlined_array_kernel
def random_below(ctx: int, limit: int) -> int:
    """Uniform in 0 .. limit - 1 (limit far below 2**31); no division, which costs 40 cycles."""
    return random_word(ctx) * limit >> 31


@inlined_array_kernel
def lowest(mask: int) -> int:
    """Number of the lowest bit that is set."""
    number = 0
    while mask & 1 == 0:
        mask >>= 1
        number += 1
    return number


@inlined_array_kernel
def members(mask: int) -> int:
    """How many bits are set."""
    count = 0
    while mask != 0:
        mask &= mask - 1
        count += 1
    return count


@inlined_array_kernel
def nth_member(mask: int, n: int) -> int:
    """Number of the n-th bit that is set, from 0."""
    for _ in range(n):
        mask &= mask - 1
    return lowest(mask)
