"""The end of an execution: counters, the scenario's own kernels, outcome, what to ask Python.

Python is slow, so it is asked only about what is new: an outcome never seen, a final state of
the VM never audited, a kind of fault never reported.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import A_KIND, A_OWN, ALONE, actor_at, lowest, word_now
from harness.explore.coroutines import call_body, call_check
from harness.explore.faults import is_among, note_fault
from harness.explore.steps import guard_holds
from harness.watch.words import get, put
from mmu.machine.events import AGAIN, GO, STOP
from mmu.machine.kernel import array_kernel

HASH_FACTOR = 0x100000001B3


@array_kernel
def alone(ctx: int, kind: int, a: int, b: int) -> int:
    """A step of the scenario's own kernels at the end: nobody else could make it possible."""
    if guard_holds(kind, word_now(ctx, a), b) != 0:
        return GO
    note_fault(ctx, at.FAULT_CHECK_STUCK, -1, a, 0, 0)
    put(ctx, at.H_STOPPING, 1)
    return STOP


@array_kernel
def conclude(ctx: int) -> int:
    """Account for the execution that is over; what to ask about it (ASK_* bits)."""
    status = get(ctx, at.H_STATUS)
    depth = get(ctx, at.H_DEPTH)
    put(ctx, at.H_STEPS, get(ctx, at.H_STEPS) + depth)
    put(ctx, at.H_DEEPEST, max(get(ctx, at.H_DEEPEST), depth))
    put(ctx, at.H_OUTCOME_PLACE, -1)
    put(ctx, at.H_STATE_PLACE, -1)
    question = 0
    if status == at.STATUS_CUT:
        put(ctx, at.H_BLOCKED, get(ctx, at.H_BLOCKED) + 1)
    else:
        put(ctx, at.H_EXECUTIONS, get(ctx, at.H_EXECUTIONS) + 1)
    if status == at.STATUS_COMPLETE:
        put(ctx, at.H_COMPLETE, get(ctx, at.H_COMPLETE) + 1)
        _run_kernels(ctx)
        question = _count_outcome(ctx, 0) | _note_state(ctx)
    elif status == at.STATUS_DEADLOCK:
        put(ctx, at.H_DEADLOCKED, get(ctx, at.H_DEADLOCKED) + 1)
        stuck = get(ctx, at.H_LIVE)
        note_fault(ctx, _kind_of_deadlock(ctx, stuck), -1, stuck, 0, 0)
        question = _count_outcome(ctx, 1)
    fault = get(ctx, at.H_FAULT)
    if fault != at.FAULT_NONE and is_among(ctx, at.H_ANSWERED, fault) == 0:
        question |= at.ASK_FAULT
    return question


@array_kernel
def _kind_of_deadlock(ctx: int, stuck: int) -> int:
    """A livelock if anybody of those who are stuck wants to try again."""
    while stuck != 0:
        if get(actor_at(ctx, lowest(stuck)), A_KIND) == AGAIN:
            return at.FAULT_LIVELOCK
        stuck &= stuck - 1
    return at.FAULT_DEADLOCK


@array_kernel
def _run_kernels(ctx: int) -> None:
    """The scenario's `finish` and `check`, alone."""
    put(ctx, at.H_PHASE, ALONE)
    base, hook, geometry = get(ctx, at.H_BASE), get(ctx, at.H_HOOK), get(ctx, at.H_GEOMETRY)
    own = get(actor_at(ctx, 0), A_OWN)
    if get(ctx, at.H_FINISH) != 0:
        raised = call_body(get(ctx, at.H_FINISH), base, 0, hook, ctx, geometry, own)
        if raised != 0:
            note_fault(ctx, at.FAULT_RAISED, -1, 0, 0, 0)
    if get(ctx, at.H_CHECK) != 0:
        returned = call_check(get(ctx, at.H_CHECK), base, hook, ctx, geometry, own)
        put(ctx, at.H_CHECKED, returned)
        if returned != 0 and get(ctx, at.H_STOPPING) == 0:
            note_fault(ctx, at.FAULT_CHECK, -1, returned, 0, 0)


@array_kernel
def _count_outcome(ctx: int, deadlocked: int) -> int:
    """Count the values of the outcome words; ASK_OUTCOME if they were never seen so far."""
    words = get(ctx, at.H_OUTCOME_WORDS)
    if words == 0:
        return 0
    indices = get(ctx, at.H_OUTCOME)
    place = deadlocked + 1
    for i in range(words):
        place = (place ^ word_now(ctx, get(indices, i))) * HASH_FACTOR
        place ^= (place >> 29) & 0x7FFFFFFFF
    entry_words = words + 2  # how often; deadlocked or not; the values
    for _ in range(at.OUTCOMES_MAX):
        place &= at.OUTCOMES_MAX - 1
        entry = get(ctx, at.H_OUTCOMES) + 8 * entry_words * place
        if get(entry, 0) == 0:
            return _new_outcome(ctx, entry, place, deadlocked)
        if _same_outcome(ctx, entry, deadlocked):
            put(entry, 0, get(entry, 0) + 1)
            put(ctx, at.H_OUTCOME_PLACE, place)
            return 0
        place += 1
    return 0


@array_kernel
def _same_outcome(ctx: int, entry: int, deadlocked: int) -> int:
    if get(entry, 1) != deadlocked:
        return 0
    for i in range(get(ctx, at.H_OUTCOME_WORDS)):
        if get(entry, 2 + i) != word_now(ctx, get(get(ctx, at.H_OUTCOME), i)):
            return 0
    return 1


@array_kernel
def _new_outcome(ctx: int, entry: int, place: int, deadlocked: int) -> int:
    if get(ctx, at.H_OUTCOMES_USED) >= at.OUTCOMES_MAX - 1:
        return 0
    put(ctx, at.H_OUTCOME_PLACE, place)
    put(ctx, at.H_OUTCOMES_USED, get(ctx, at.H_OUTCOMES_USED) + 1)
    put(entry, 0, 1)
    put(entry, 1, deadlocked)
    for i in range(get(ctx, at.H_OUTCOME_WORDS)):
        put(entry, 2 + i, word_now(ctx, get(get(ctx, at.H_OUTCOME), i)))
    return at.ASK_OUTCOME


@array_kernel
def _note_state(ctx: int) -> int:
    """ASK_STATE if a VM's final state is a new one."""
    table = get(ctx, at.H_STATES)
    if table == 0 or get(ctx, at.H_STATES_USED) >= at.STATES_MAX // 2:
        return 0
    state = 1
    for i in range(get(ctx, at.H_REGION_COUNT)):
        pair = get(ctx, at.H_REGIONS) + 16 * i
        for addr in range(get(pair, 0), get(pair, 1)):
            state = (state ^ word_now(ctx, addr)) * HASH_FACTOR
            state ^= (state >> 32) & 0xFFFFFFFF
    if state == 0:
        state = 1
    place = state & (at.STATES_MAX - 1)
    while get(table, place) != 0:
        if get(table, place) == state:
            put(ctx, at.H_STATE_PLACE, place)
            return 0
        place = (place + 1) & (at.STATES_MAX - 1)
    put(ctx, at.H_STATE_PLACE, place)
    put(table, place, state)
    put(ctx, at.H_STATES_USED, get(ctx, at.H_STATES_USED) + 1)
    return at.ASK_STATE
