"""The engine: actors as coroutines, one step at a time, execution after execution, compiled.

Actors run until their next step; there the hook asks `schedule` who goes on, and changes stacks
if it is somebody else.  When nobody goes on, control returns to the loop in `explore_slice`,
which accounts for the execution, lets the strategy prepare the next one, and starts over.
Actors that have not ended are dropped where they are: their memory is reset anyway.
"""

from __future__ import annotations

from harness.explore import attempts, ending, races
from harness.explore import block as at
from harness.explore.block import (
    A_ADDR,
    A_ANSWERED,
    A_ATTEMPT,
    A_B,
    A_BODY,
    A_C,
    A_KIND,
    A_LAST,
    A_OWN,
    A_STACK,
    A_TOP,
    ALONE,
    HUB,
    R_ACTOR,
    R_ADDR,
    R_ATTEMPT,
    R_B,
    R_C,
    R_CLASS,
    R_DONE,
    R_ENABLED,
    R_KIND,
    R_NEW,
    R_OLD,
    R_PENDING,
    R_PREEMPTIONS,
    R_PREV_ACTOR,
    R_PREV_WORD,
    R_SLEEP,
    RUNNING,
    STARTING,
    actor_at,
    lowest,
    random_below,
    row_at,
    word_now,
)
from harness.explore.coroutines import (
    call,
    call_body,
    copy_words,
    entry_address,
    switch_stack,
)
from harness.explore.faults import break_off, note_fault
from harness.explore.sleep import inherited_sleep
from harness.explore.steps import (
    NO_WORD,
    READ,
    class_of,
    guard_holds,
    summary,
    value_after,
)
from harness.watch.words import get, put
from mmu.machine.events import (
    AGAIN,
    BLOCK,
    DRAW,
    EMIT,
    GO,
    PROBE,
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
        return _answer(ctx, actor, kind, a)
    if kind == PROBE:
        wanted = (get(ctx, at.H_PROBES) >> a) & 1
        return _answer(ctx, actor, kind, 2) if wanted else 0
    if kind >= WARN:
        note_fault(ctx, kind, actor, a, b, c)
    elif kind == EMIT + SPTE_CHANGED and get(ctx, at.H_PHASE) == RUNNING:
        _check_chain(ctx, actor, a, b, c)
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
    if races.is_surely_helped(ctx, actor) == 0:
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
def _answer(ctx: int, actor: int, kind: int, alternatives: int) -> int:
    """A draw or a probe: a row of its own, within the actor's turn."""
    if get(ctx, at.H_STOPPING) != 0 or get(ctx, at.H_PHASE) == ALONE or alternatives < 1:
        return 0
    if get(ctx, at.H_SYSTEMATIC) == at.NO_DRAWS:
        break_off(ctx, at.FAULT_DRAWS, actor, alternatives, 0)
        _leave_for(ctx, actor, HUB)
    depth = get(ctx, at.H_DEPTH)
    if depth >= get(ctx, at.H_STEPS_MAX):
        return 0
    row = row_at(ctx, depth)
    if depth < get(ctx, at.H_PREFIX):
        put(ctx, at.H_DEPTH, depth + 1)
        return get(row, R_NEW)
    answer = 0
    if get(ctx, at.H_FORCED) >= 0 and depth == get(ctx, at.H_PREFIX):
        answer = get(ctx, at.H_FORCED)
        put(ctx, at.H_FORCED, -1)
    elif get(ctx, at.H_ANSWERS) != 0:
        answer = min(_recorded_answer(ctx, actor), alternatives - 1)
    elif get(ctx, at.H_SYSTEMATIC) == at.RANDOM_DRAWS:
        answer = random_below(ctx, alternatives)
    handle = actor_at(ctx, actor)
    put(row, R_ACTOR, actor)
    put(row, R_KIND, kind)
    put(row, R_ADDR, -1)
    put(row, R_CLASS, NO_WORD)
    put(row, R_OLD, alternatives)
    put(row, R_NEW, answer)
    put(row, R_PREV_WORD, 0)
    put(row, R_PREV_ACTOR, get(handle, A_LAST))
    put(row, R_PREEMPTIONS, _preemptions_before(ctx, depth))
    put(row, R_SLEEP, inherited_sleep(ctx, depth) if get(ctx, at.H_SYSTEMATIC) != 0 else 0)
    put(row, R_DONE, 0)
    put(handle, A_LAST, depth + 1)
    put(ctx, at.H_DEPTH, depth + 1)
    return answer


@array_kernel
def _recorded_answer(ctx: int, actor: int) -> int:
    """The actor's next answer in the recording that is followed; 0 behind its end."""
    handle = actor_at(ctx, actor)
    for i in range(get(handle, A_ANSWERED), get(ctx, at.H_ANSWER_COUNT)):
        pair = get(ctx, at.H_ANSWERS) + 16 * i
        if get(pair, 0) == actor:
            put(handle, A_ANSWERED, i + 1)
            return get(pair, 1)
    return 0


@array_kernel
def _check_chain(ctx: int, actor: int, sptep: int, old: int, new: int) -> None:
    """Oracle `transitions`: a change reports the value that it really replaced."""
    last = get(actor_at(ctx, actor), A_LAST)
    # Repeated prefix rows lie above the present depth.
    while last > get(ctx, at.H_DEPTH):
        last = get(row_at(ctx, last - 1), R_PREV_ACTOR)
    if last == 0:
        return
    row = row_at(ctx, last - 1)
    same = get(row, R_ADDR) == sptep and get(row, R_OLD) == old and get(row, R_NEW) == new
    if not same:
        note_fault(ctx, at.FAULT_CHAIN, actor, sptep, old, new)


# --- Who goes on ---------------------------------------------------------------------------------


@array_kernel
def schedule(ctx: int) -> int:
    """Write the next row; who does that step, or HUB if the execution is over."""
    depth = get(ctx, at.H_DEPTH)
    if depth < get(ctx, at.H_PREFIX):
        row = row_at(ctx, depth)
        actor = get(row, R_ACTOR)
        handle = actor_at(ctx, actor)
        if get(handle, A_KIND) != get(row, R_KIND) or get(handle, A_ADDR) != get(row, R_ADDR):
            break_off(ctx, at.FAULT_DIVERGED, actor, depth, get(handle, A_ADDR))
            return HUB
        put(ctx, at.H_DEPTH, depth + 1)
        return actor
    return _schedule_new(ctx, depth)


@array_kernel
def _schedule_new(ctx: int, depth: int) -> int:
    """The trace's next row is not known yet: see what is possible, ask the strategy."""
    live = get(ctx, at.H_LIVE)
    if live == 0:
        put(ctx, at.H_STATUS, at.STATUS_COMPLETE)
        return HUB
    runnable = survey(ctx, depth, live)
    if get(ctx, at.H_STOP_AT) != 0 and (runnable == 0 or depth >= get(ctx, at.H_STOP_AT)):
        put(ctx, at.H_STOPPING, 1)
    if get(ctx, at.H_STOPPING) != 0:
        return lowest(live)
    if runnable == 0:
        put(ctx, at.H_STATUS, at.STATUS_DEADLOCK)
        return HUB
    if depth >= get(ctx, at.H_STEPS_MAX):
        put(ctx, at.H_STATUS, at.STATUS_BOUNDED)
        put(ctx, at.H_BOUND_HIT, get(ctx, at.H_BOUND_HIT) | at.BOUND_STEPS)
        return HUB
    put(row_at(ctx, depth), R_ENABLED, runnable)
    if get(ctx, at.H_FORCED) >= 0 and depth == get(ctx, at.H_PREFIX):
        actor = get(ctx, at.H_FORCED)
        put(ctx, at.H_FORCED, -1)
        if (runnable >> actor) & 1 == 0:
            break_off(ctx, at.FAULT_DIVERGED, actor, depth, -1)
            return HUB
    else:
        actor = call(get(ctx, at.H_CHOOSE), ctx, runnable)
    if actor < 0:
        if get(ctx, at.H_STATUS) == at.STATUS_RUNNING:
            put(ctx, at.H_STATUS, at.STATUS_CUT)
        return HUB
    _take(ctx, depth, actor)
    return actor


@array_kernel
def survey(ctx: int, depth: int, live: int) -> int:
    """Note what each live actor is about to do; the mask of those who can."""
    row = row_at(ctx, depth)
    runnable = 0
    rest = live
    while rest != 0:
        actor = lowest(rest)
        rest &= rest - 1
        handle = actor_at(ctx, actor)
        kind, addr, b = get(handle, A_KIND), get(handle, A_ADDR), get(handle, A_B)
        if kind == AGAIN:
            enabled = attempts.is_helped(ctx, actor)
            access = READ
        else:
            word = word_now(ctx, addr)
            enabled = guard_holds(kind, word, b)
            access = class_of(kind, word, b, get(handle, A_C))
        put(row, R_PENDING + actor, summary(addr, kind, access, enabled))
        runnable |= enabled << actor
    return runnable


@inlined_array_kernel
def _take(ctx: int, depth: int, actor: int) -> None:
    """Write the row of the step that `actor` does next."""
    row, handle = row_at(ctx, depth), actor_at(ctx, actor)
    kind, addr = get(handle, A_KIND), get(handle, A_ADDR)
    b, c = get(handle, A_B), get(handle, A_C)
    put(row, R_PREEMPTIONS, _preemptions_before(ctx, depth) + is_preemption(ctx, depth, actor))
    put(row, R_ACTOR, actor)
    put(row, R_KIND, kind)
    put(row, R_ADDR, addr)
    put(row, R_B, b)
    put(row, R_C, c)
    put(row, R_PREV_ACTOR, get(handle, A_LAST))
    put(handle, A_LAST, depth + 1)
    if kind == AGAIN:
        put(row, R_CLASS, NO_WORD)
        put(row, R_PREV_WORD, 0)
        put(row, R_ATTEMPT, get(handle, A_ATTEMPT))
        put(ctx, at.H_AGAINS, get(ctx, at.H_AGAINS) + 1)
    else:
        word = word_now(ctx, addr)
        put(row, R_OLD, word)
        put(row, R_NEW, value_after(kind, word, b, c))
        put(row, R_CLASS, class_of(kind, word, b, c))
        last = get(ctx, at.H_LAST)
        put(row, R_PREV_WORD, get(last, addr))
        put(last, addr, depth + 1)
    put(ctx, at.H_DEPTH, depth + 1)


@inlined_array_kernel
def _preemptions_before(ctx: int, depth: int) -> int:
    """Preemptions in the rows below."""
    return get(row_at(ctx, depth - 1), R_PREEMPTIONS) if depth > 0 else 0


@inlined_array_kernel
def is_preemption(ctx: int, depth: int, actor: int) -> int:
    """Whether going on with `actor` leaves somebody who could go on."""
    if depth == 0:
        return 0
    before = get(row_at(ctx, depth - 1), R_ACTOR)
    return int(before != actor and (get(row_at(ctx, depth), R_ENABLED) >> before) & 1 != 0)


@array_kernel
def drop_row(ctx: int, depth: int) -> None:
    """Take back the last row of the trace."""
    row = row_at(ctx, depth)
    addr = get(row, R_ADDR)
    if addr >= 0:
        put(get(ctx, at.H_LAST), addr, get(row, R_PREV_WORD))
    elif get(row, R_KIND) == AGAIN:
        put(ctx, at.H_AGAINS, get(ctx, at.H_AGAINS) - 1)
    put(actor_at(ctx, get(row, R_ACTOR)), A_LAST, get(row, R_PREV_ACTOR))


@array_kernel
def drop_rows(ctx: int) -> int:
    """Forget the whole trace: the next execution is free from its first step."""
    depth = get(ctx, at.H_DEPTH)
    while depth > 0:
        depth -= 1
        drop_row(ctx, depth)
    put(ctx, at.H_PREFIX, 0)
    put(ctx, at.H_FORCED, -1)
    put(ctx, at.H_STAMPED, 0)
    return 1


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
        if call(get(ctx, at.H_FINISH_EXECUTION), ctx, 0) == 0:
            return 1
    return 0
