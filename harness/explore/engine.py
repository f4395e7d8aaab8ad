"""The engine: actors as coroutines, one step at a time, execution after execution, compiled.

Actors run until their next step; there the hook asks `schedule` who goes on, and changes stacks
if it is somebody else.  When nobody goes on, control returns to the loop in `explore_slice`,
which accounts for the execution, lets the strategy prepare the next one, and starts over.
Actors that have not ended are dropped where they are: their memory is reset anyway.
"""

from __future__ import annotations

from harness.explore import answers, ending, owed, races
from harness.explore import block as at
from harness.explore.block import (
    A_ADDR,
    A_ANSWERED,
    A_ATTEMPT,
    A_B,
    A_BODY,
    A_C,
    A_FAILURES,
    A_KIND,
    A_LAST,
    A_OWN,
    A_PROBED,
    A_STACK,
    A_TOP,
    ALONE,
    HUB,
    R_ADDR,
    R_NEW,
    R_OLD,
    R_PREV_ACTOR,
    RUNNING,
    STARTING,
    actor_at,
    row_at,
)
from harness.explore.coroutines import (
    call,
    call_body,
    copy_words,
    entry_address,
    switch_stack,
)
from harness.explore.faults import break_off, note_fault
from harness.explore.schedule import schedule
from harness.explore.tally import count_failure
from harness.watch.words import get, put
from mmu.machine.conditions import ROOT_CHAIN
from mmu.machine.events import (
    AGAIN,
    BLOCK,
    COST,
    DRAW,
    EMIT,
    GO,
    PROBE,
    ROOT_GET,
    ROOT_PUT,
    SPTE_CHANGED,
    STEP_LAST,
    STOP,
    STOPPED,
    WARN,
)
from mmu.machine.kernel import array_kernel, inlined_array_kernel

FRAME_WORDS = 9  # six registers, the entry's address, and what keeps the stack aligned


# --- Changing stacks -----------------------------------------------------------------------------


@inlined_array_kernel
def _stack_of(ctx: int, actor: int) -> int:
    """Address of the word that keeps the stack pointer of an actor, or of the loop (HUB)."""
    return ctx + 8 * at.H_HUB if actor == HUB else actor_at(ctx, actor) + 8 * A_STACK


@inlined_array_kernel
def _leave_for(ctx: int, me: int, other: int) -> None:
    """Go on as somebody else; returns when somebody goes on as `me`."""
    switch_stack(_stack_of(ctx, me), get(_stack_of(ctx, other), 0))


@array_kernel
def _fresh_stack(ctx: int, actor: int) -> None:
    """Have the actor begin at its entry when it is switched to."""
    handle = actor_at(ctx, actor)
    frame = get(handle, A_TOP) - 8 * FRAME_WORDS
    for register in range(FRAME_WORDS):
        put(frame, register, 0)
    # In the order in which `switch_stack` takes them back: r15, r14, r13, r12, rbx, rbp, return.
    put(frame, 3, get(ctx, at.H_ENTRY))
    put(frame, 4, ctx | actor)
    put(frame, 6, entry_address())
    put(handle, A_STACK, frame)


def enter_actor(argument: int) -> int:
    """What a fresh stack runs: the actor's kernel, then whoever is next; it never returns."""
    actor = argument & 63  # blocks are aligned, so that both fit into one register
    ctx = argument - actor
    handle = actor_at(ctx, actor)
    raised = call_body(
        get(handle, A_BODY),
        get(ctx, at.H_BASE),
        actor,
        get(ctx, at.H_HOOK),
        ctx,
        get(ctx, at.H_GEOMETRY),
        get(handle, A_OWN),
    )
    put(ctx, at.H_LIVE, get(ctx, at.H_LIVE) & ~(1 << actor))
    put(handle, A_KIND, 0)
    if raised != 0:
        break_off(ctx, at.FAULT_RAISED, actor, 0, 0)
    if get(ctx, at.H_PHASE) == STARTING or raised != 0:
        _leave_for(ctx, actor, HUB)
    _leave_for(ctx, actor, schedule(ctx))
    return 0


# --- The hook ------------------------------------------------------------------------------------


def on_call(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """What every actor calls before each step, and for everything else that it announces."""
    if kind <= STEP_LAST:
        return _on_step(ctx, actor, kind, a, b, c)
    if kind in (STOPPED, BLOCK):
        return STOP if get(ctx, at.H_STOPPING) != 0 else GO
    if kind == AGAIN:
        return _on_again(ctx, actor)
    if kind == DRAW:
        return answers.answer(ctx, actor, kind, a)
    if kind == PROBE:
        wanted = (get(ctx, at.H_PROBES) >> a) & 1
        return answers.answer(ctx, actor, kind, 2) if wanted else 0
    if kind >= WARN:
        note_fault(ctx, kind, actor, a, b, c)
    elif kind == EMIT + SPTE_CHANGED and get(ctx, at.H_PHASE) == RUNNING:
        _check_chain(ctx, actor, a, b, c)
        if owed.is_table_word(ctx, a):
            owed.check_populated(ctx, actor, a, b, c)
    elif kind >= EMIT and kind < COST and get(ctx, at.H_STOPPING) == 0:
        if kind in (EMIT + ROOT_GET, EMIT + ROOT_PUT) and get(ctx, at.H_PHASE) == RUNNING:
            _check_reference(ctx, actor, a, b)
        owed.check_freed(ctx, actor, kind - EMIT, a, b)
    return 0


@inlined_array_kernel
def _on_step(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """Wait for one's turn: GO when it has come."""
    if get(ctx, at.H_STOPPING) != 0:
        return STOP
    handle = actor_at(ctx, actor)
    put(handle, A_KIND, kind)
    put(handle, A_ADDR, a)
    put(handle, A_B, b)
    put(handle, A_C, c)
    if a < 0 or a >= get(ctx, at.H_WORDS):
        return _wild(ctx, actor, kind, a)
    if get(ctx, at.H_PHASE) == RUNNING:
        chosen = schedule(ctx)
        if chosen != actor:
            _leave_for(ctx, actor, chosen)
    elif get(ctx, at.H_PHASE) == STARTING:
        _leave_for(ctx, actor, HUB)
    else:
        return ending.alone(ctx, kind, a, b)
    if owed.is_table_word(ctx, a):
        owed.check_touched(ctx, actor, kind, a, b)
    elif owed.is_record_word(ctx, a):
        owed.check_record(ctx, actor, kind, a)
    return STOP if get(ctx, at.H_STOPPING) != 0 else GO


@array_kernel
def _wild(ctx: int, actor: int, kind: int, a: int) -> int:
    """A step outside the block: the execution is over."""
    break_off(ctx, at.FAULT_WILD, actor, a, kind)
    if get(ctx, at.H_PHASE) != ALONE:
        _leave_for(ctx, actor, HUB)
    put(ctx, at.H_STOPPING, 1)
    return STOP


@array_kernel
def _on_again(ctx: int, actor: int) -> int:
    """An attempt failed: run again when it may end differently."""
    if get(ctx, at.H_STOPPING) != 0 or get(ctx, at.H_PHASE) == ALONE:
        put(ctx, at.H_STOPPING, 1)
        return STOP
    handle = actor_at(ctx, actor)
    # A failure that an observer made up needs nobody's help.
    probed = get(handle, A_PROBED)
    put(handle, A_PROBED, 0)
    if probed == 0 and races.is_surely_helped(ctx, actor) == 0:
        put(handle, A_KIND, AGAIN)
        put(handle, A_ADDR, -1)
        if get(ctx, at.H_PHASE) == STARTING:
            _leave_for(ctx, actor, HUB)
        else:
            chosen = schedule(ctx)
            if chosen != actor:
                _leave_for(ctx, actor, chosen)
    put(handle, A_ATTEMPT, get(ctx, at.H_DEPTH))
    return STOP if get(ctx, at.H_STOPPING) != 0 else GO


@array_kernel
def _last_row(ctx: int, actor: int) -> int:
    """What the actor did last, one higher; 0: nothing."""
    last = get(actor_at(ctx, actor), A_LAST)
    # Repeated prefix rows lie above the present depth.
    while last > get(ctx, at.H_DEPTH):
        last = get(row_at(ctx, last - 1), R_PREV_ACTOR)
    return last


@array_kernel
def _check_reference(ctx: int, actor: int, page: int, before: int) -> None:
    """Oracle `roots`: who takes or puts a reference reports how many there really were.

    One that is the first (`before` 0) comes with the root.
    """
    last = _last_row(ctx, actor)
    if last != 0 and before > 0 and get(row_at(ctx, last - 1), R_OLD) != before:
        found = get(row_at(ctx, last - 1), R_OLD)
        note_fault(ctx, WARN + ROOT_CHAIN, actor, page, before, found)


@array_kernel
def _check_chain(ctx: int, actor: int, sptep: int, old: int, new: int) -> None:
    """Oracle `transitions`: a change reports the value that it really replaced."""
    last = _last_row(ctx, actor)
    if last == 0:
        return
    row = row_at(ctx, last - 1)
    here = get(row, R_ADDR) == sptep and get(row, R_NEW) == new
    if not here or not owed.was_replaced(get(row, R_OLD), old):
        note_fault(ctx, at.FAULT_CHAIN, actor, sptep, old, new)


# --- The loop ------------------------------------------------------------------------------------


@array_kernel
def _execute(ctx: int) -> None:
    """One execution, from the initial memory until nobody goes on."""
    copy_words(get(ctx, at.H_BASE), get(ctx, at.H_INITIAL), get(ctx, at.H_WORDS))
    actors = get(ctx, at.H_ACTORS)
    put(ctx, at.H_DEPTH, 0)
    put(ctx, at.H_STATUS, at.STATUS_RUNNING)
    put(ctx, at.H_STOPPING, 0)
    put(ctx, at.H_FAULT, at.FAULT_NONE)
    put(ctx, at.H_LIVE, (1 << actors) - 1)
    put(ctx, at.H_PHASE, STARTING)
    call(get(ctx, at.H_BEGIN), ctx, 0)
    for actor in range(actors):
        put(actor_at(ctx, actor), A_ATTEMPT, 0)
        put(actor_at(ctx, actor), A_ANSWERED, 0)
        put(actor_at(ctx, actor), A_FAILURES, 0)
        put(actor_at(ctx, actor), A_PROBED, 0)
        _fresh_stack(ctx, actor)
        _leave_for(ctx, HUB, actor)
        if get(ctx, at.H_STATUS) != at.STATUS_RUNNING:
            return
    put(ctx, at.H_PHASE, RUNNING)
    chosen = schedule(ctx)
    if chosen != HUB:
        _leave_for(ctx, HUB, chosen)


@array_kernel
def explore_slice(ctx: int, limit: int) -> int:
    """Up to `limit` executions; 0: slice over, 1: all done, else what to ask (ASK_* bits).

    After a question the present trace stands as it is until the next call.
    """
    for _ in range(limit):
        if get(ctx, at.H_RESUME) == 0:
            _execute(ctx)
            question = ending.conclude(ctx)
            if question != 0:
                put(ctx, at.H_RESUME, 1)
                return question << 1
        put(ctx, at.H_RESUME, 0)
        if get(ctx, at.H_TALLY) != 0:
            count_failure(ctx)
        if call(get(ctx, at.H_FINISH_EXECUTION), ctx, 0) == 0:
            return 1
    return 0
