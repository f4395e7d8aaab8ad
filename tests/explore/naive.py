"""A naive enumerator of programs: every order of steps, one by one, in plain Python.

It shares no code with what it checks; of `programs` it takes the operations' numbers only.  Two
orders are the same *trace* if steps that do not commute come in the same order.  That is kept as
a canonical form: per word, the groups of steps between which the order matters.  Prefixes with
equal forms lead to equal futures, so each is followed once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tests.explore import programs as p

Form = tuple[tuple[int, tuple[tuple[str, frozenset[tuple[int, int]]], ...]], ...]
LOCK_BITS = 0xFFFF_0001
SHARED_UNIT = 1 << 16


@dataclass(frozen=True)
class State:
    memory: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]
    lasts: tuple[int, ...]
    done: tuple[int, ...]  # steps of each actor
    form: Form


@dataclass
class Traces:
    """Final values (shared words, then last values) of each trace."""

    complete: dict[Form, tuple[int, ...]] = field(default_factory=dict)
    deadlocked: dict[Form, tuple[int, ...]] = field(default_factory=dict)

    def outcomes(self) -> Counter:
        return Counter(self.complete.values())

    def deadlocks(self) -> Counter:
        return Counter(self.deadlocked.values())


def extended(form: Form, word: int, kind: str, step: tuple[int, int]) -> Form:
    """`form` after one more step on a word; kind is r(ead), w(rite), c(ount) or s(hared lock)."""
    words = dict(form)
    groups = words.get(word, ())
    if groups and groups[-1][0] == kind != "w":
        groups = (*groups[:-1], (kind, groups[-1][1] | {step}))
    else:
        groups = (*groups, (kind, frozenset([step])))
    words[word] = groups
    return tuple(sorted(words.items()))


def enumerate_traces(program: p.Program, limit: int = 60_000) -> Traces | None:
    """All traces, or None if there are more than `limit` prefixes."""
    count = len(program)
    zeros = (0,) * count
    start = State((), tuple(_skipped(actor, 0, 0) for actor in program), zeros, zeros, ())
    traces, seen, rest = Traces(), {start.form}, [start]
    followed = 0
    while rest:
        state = rest.pop()
        followed += 1
        if followed > limit:
            return None
        following = [_step(program, state, actor) for actor in range(count)]
        moved = [each for each in following if each is not None]
        if not moved:
            ended = all(at >= len(a) for at, a in zip(state.positions, program, strict=True))
            (traces.complete if ended else traces.deadlocked)[state.form] = _values(state, program)
        for each in moved:
            if each.form not in seen:
                seen.add(each.form)
                rest.append(each)
    return traces


def _values(state: State, program: p.Program) -> tuple[int, ...]:
    memory = dict(state.memory)
    # An actor's last value is stored at its end only.
    lasts = [
        last if at >= len(actor) else 0
        for last, at, actor in zip(state.lasts, state.positions, program, strict=True)
    ]
    return (*(memory.get(word, 0) for word in p.SHARED), *lasts)


def _skipped(actor: Sequence[p.Instruction], position: int, last: int) -> int:
    """The next position that holds a step."""
    while position < len(actor) and actor[position][0] == p.SKIP_IF:
        _, _, wanted, distance = actor[position]
        position += 1 + (distance if last == wanted else 0)
    return position


def _step(program: p.Program, state: State, actor: int) -> State | None:
    """The state after the actor's next step, None if it has none or cannot do it."""
    steps, position = program[actor], state.positions[actor]
    if position >= len(steps):
        return None
    operation, word, a, b = steps[position]
    memory = dict(state.memory)
    value, last = memory.get(word, 0), state.lasts[actor]
    effect = _effect(operation, value, a, b, last)
    if effect is None:
        return None
    kind, after, last = effect
    memory[word] = after
    form = extended(state.form, word, kind, (actor, state.done[actor]))
    return State(
        tuple(sorted(memory.items())),
        _with(state.positions, actor, _skipped(steps, position + 1, last)),
        _with(state.lasts, actor, last),
        _with(state.done, actor, state.done[actor] + 1),
        form,
    )


def _with(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _effect(operation: int, value: int, a: int, b: int, last: int) -> tuple[str, int, int] | None:
    """(kind of access, value after it, last value read), None while it has to wait."""
    if operation == p.LOAD:
        return "r", value, value
    if operation == p.STORE:
        return "w", a, last
    if operation == p.STORE_LAST:
        return "w", last + a, last
    if operation == p.XCHG:
        return "w", a, value
    if operation == p.CMPXCHG:
        return ("w", b, value) if value == a else ("r", value, value)
    if operation == p.FETCH_ADD:
        return "w", value + a, value
    if operation == p.COUNT:
        return "c", value + a, last
    if operation == p.WAIT_WHILE:
        return None if value == a else ("r", value, last)
    return _lock_effect(operation, value, last)


def _lock_effect(operation: int, value: int, last: int) -> tuple[str, int, int] | None:
    if operation == p.LOCK:
        return None if value & LOCK_BITS else ("w", value + 1, last)
    if operation == p.LOCK_SHARED:
        return None if value & 1 else ("s", value + SHARED_UNIT, last)
    if operation == p.UNLOCK:
        return "w", value - 1, last
    assert operation == p.UNLOCK_SHARED
    return "s", value - SHARED_UNIT, last


# --- Preemptions -----------------------------------------------------------------------------


@dataclass
class Fewest:
    """The fewest preemptions with which an end is reached: by final values, and for a deadlock."""

    complete: dict[tuple[int, ...], int] = field(default_factory=dict)
    deadlocked: int | None = None


def fewest_preemptions(program: p.Program) -> Fewest:
    """By Dijkstra's algorithm over states and who was running; edges cost 0 or 1.

    After its last instruction an actor has one more step, in which it stores its last value.
    """
    count = len(program)
    zeros = (0,) * count
    begin = State((), tuple(_skipped(actor, 0, 0) for actor in program), zeros, zeros, ())
    found, seen = Fewest(), set()
    rest: deque[tuple[State, int, int, int]] = deque([(begin, 0, -1, 0)])
    while rest:
        state, ended, running, cost = rest.popleft()
        if (state, ended, running) in seen:
            continue
        seen.add((state, ended, running))
        moves = _moves(program, state, ended)
        if not moves and ended == (1 << count) - 1:
            found.complete.setdefault(_values(state, program), cost)
        elif not moves and found.deadlocked is None:
            found.deadlocked = cost
        for actor, (after, ended_after) in moves.items():
            if running in moves and actor != running:
                rest.append((after, ended_after, actor, cost + 1))
            else:
                rest.appendleft((after, ended_after, actor, cost))
    return found


def _moves(program: p.Program, state: State, ended: int) -> dict[int, tuple[State, int]]:
    """What each actor that can go on makes of a state, whatever came before it."""
    moves = {}
    for actor, instructions in enumerate(program):
        if state.positions[actor] >= len(instructions):
            if not ended >> actor & 1:
                moves[actor] = (state, ended | 1 << actor)
            continue
        after = _step(program, state, actor)
        if after is not None:
            moves[actor] = (replace(after, done=(0,) * len(program), form=()), ended)
    return moves


# --- Forms of recorded executions ------------------------------------------------------------

KINDS = {
    "READ_ONCE": "r",
    "WRITE_ONCE": "w",
    "XCHG": "w",
    "CMPXCHG": "w",
    "FETCH_ADD": "w",
    "COUNT": "c",
    "WAIT_WHILE": "r",
}


def form_of(steps: Iterable[tuple[int, str, int, int, int, int]]) -> Form:
    """Canonical form of recorded (actor, operation, word, old, b, c); private words left out."""
    form: Form = ()
    done: Counter = Counter()
    for actor, operation, word, old, b, c in steps:
        if word >= p.RESULTS:
            continue
        kind = KINDS.get(operation)
        if operation == "CMPXCHG" and old != b:
            kind = "r"
        if kind is None:
            kind = "s" if c % SHARED_UNIT == 0 else "w"
        form = extended(form, word, kind, (actor, done[actor]))
        done[actor] += 1
    return form
