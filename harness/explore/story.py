"""Re-execute a schedule in the interpreted twin and note what happens, step by step.

The same functions run as plain Python, each actor in a greenlet that parks before its next step;
the recording says whose turn it is.  Every value told is the one seen now, never the recorded
one; where they differ, the story ends there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from greenlet import getcurrent, greenlet

from harness.explore.decode import value_text
from harness.explore.owed import Found, Watcher, was_replaced
from harness.explore.reproducer import OPERATIONS
from harness.explore.trace import Step
from harness.explore.world import World
from harness.oracles.sentences import held_text, tell
from harness.oracles.verdict import audits, reported
from mmu.machine import events
from mmu.machine import layout as at
from mmu.machine.conditions import ROOT_CHAIN
from mmu.machine.events import GO, STEP_LAST, STOP
from mmu.machine.twin import interpreted
from workloads.errors import RunFailed
from workloads.scenario import FORBIDDEN

NEW_STEPS_MAX = 64
# A step's place is the function that wanted it, not the machine's own helpers.
MACHINE = f"{Path(events.__file__).parent}{os.sep}"


@dataclass(frozen=True)
class Told:
    """One step of the story."""

    number: int
    actor: int
    function: str
    place: str  # file:line
    do: str
    word: int  # -1: none
    before: str
    after: str
    held: str  # locks and sections after it


@dataclass
class Story:
    """The whole story; `oracle` is empty if nothing was broken."""

    told: list[Told] = field(default_factory=list)
    oracle: str = ""
    message: str = ""
    actor: int = -1
    new_steps: int = 0
    trace: list[Step] = field(default_factory=list)


class _Broken(Exception):  # noqa: N818 - no error: what the story is about
    """A rule was broken: oracle, message, actor."""


class Teller:
    """Follows one recording in one world, once; with `oracles`, to what these say."""

    def __init__(self, world: World, oracles: Collection[str] = ()) -> None:
        self._world = world
        self._oracles = oracles
        world.reset()
        self.story = Story()
        self._pending: dict[int, tuple[int, int, int, int]] = {}
        self._frames: dict[int, tuple[str, str]] = {}
        self._waiting: set[int] = set()  # whose last attempt failed
        self._answers: dict[int, list[int]] = {}
        self._stopping = False
        self._last: dict[int, Step] = {}
        self._hub: Any = getcurrent()
        self._greenlets: dict[int, Any] = {}
        self._owed = Watcher(world)

    def tell(self, script: Sequence[Step], *, compare: bool) -> Story:
        """Follow `script`; with `compare`, values that differ from the recording end it.

        Raises RunFailed where the recording cannot be followed, saying at which step.
        """
        for step in script:
            if step.kind > STEP_LAST:
                self._answers.setdefault(step.actor, []).append(step.new)
        try:
            self._start()
            for number, step in enumerate(script, start=1):
                if step.kind <= STEP_LAST:
                    self._follow(number, step, compare)
            self._go_on()
            self._judge_end()
        except _Broken as broken:
            self.story.oracle, self.story.message, self.story.actor = broken.args
        finally:
            self._stop()
        return self.story

    # --- Actors ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._hub = getcurrent()
        for number, actor in enumerate(self._world.scenario.actors):
            cpu = self._world.cpu(number)
            cpu.observer = self._observer(number)
            self._greenlets[number] = greenlet(interpreted(actor.body))
            self._run(number, cpu)

    def _run(self, number: int, *first: Any) -> None:
        """Let an actor go on to its next step or its end."""
        self._pending.pop(number, None)
        try:
            parked = self._greenlets[number].switch(*first)
        except _Broken:
            raise
        except Exception as error:
            name = self._world.scenario.actors[number].name
            raise _Broken("raised", f"{name} raised an exception", number) from error
        if not self._greenlets[number].dead:
            self._pending[number] = parked
            self._owed.park(number, *parked[:2])

    def _observer(self, number: int) -> Any:
        def observe(kind: int, a: int = 0, b: int = 0, c: int = 0) -> int:
            if self._stopping:
                return STOP
            if kind <= STEP_LAST:
                self._frames[number] = _model_place()
                self._hub.switch((kind, a, b, c))
                if not self._stopping:
                    self._break_if(self._owed.step(number, kind, a, b), number)
                return STOP if self._stopping else GO
            return self._other(number, kind, a, b, c)

        return observe

    def _other(self, number: int, kind: int, a: int, b: int, c: int) -> int:
        """What is no step."""
        if kind == events.AGAIN:
            self._waiting.add(number)
        elif kind == events.DRAW:
            return min(self._answer(number), a - 1)
        elif kind == events.PROBE:
            return self._answer(number) if self._world.scenario.probes >> a & 1 else 0
        elif kind >= events.WARN:
            self._break(*tell(kind - events.WARN, a, b, c), number)
        elif kind == events.EMIT + events.SPTE_CHANGED:
            last = self._last.get(number)
            here = last is None or (last.word, last.new) == (a, c)
            if not here or (last is not None and not was_replaced(last.old, b)):
                text = (
                    f"{self._world.name_of(a)}: a change from {b:#x} to {c:#x} was reported,"
                    " which is not what happened to it"
                )
                self._break("transitions", text, number)
            self._break_if(self._owed.changed(number, a, b, c), number)
        elif events.EMIT <= kind < events.COST:
            reference = kind - events.EMIT in (events.ROOT_GET, events.ROOT_PUT)
            last = self._last.get(number)
            if reference and b > 0 and last is not None and last.old != b:
                self._break_if((ROOT_CHAIN, a, b, last.old), number)
            self._break_if(self._owed.event(number, kind - events.EMIT, a, b), number)
        return GO

    def _break_if(self, found: Found | None, number: int) -> None:
        if found is not None:
            self._break(*tell(*found), number)

    def _answer(self, number: int) -> int:
        left = self._answers.get(number, [])
        return left.pop(0) if left else 0

    def _break(self, oracle: str, message: str, number: int) -> None:
        """End the story: the exception crosses from the actor's greenlet to ours."""
        if not self._is_wanted(oracle):
            return
        self._stopping = True
        self._hub.throw(_Broken(oracle, self._world.in_names(message), number))

    def _is_wanted(self, oracle: str) -> bool:
        return not self._oracles or oracle in self._oracles

    def _stop(self) -> None:
        """Drop everybody where they are: a loop that does not ask `stopped` would never end."""
        self._stopping = True
        for each in self._greenlets.values():
            if not each.dead:
                each.throw()

    # --- Steps -----------------------------------------------------------------------------------

    def _enabled(self, number: int) -> bool:
        kind, addr, b, _ = self._pending[number]
        if not 0 <= addr < len(self._world.words):
            return True
        return _guard_holds(kind, int(self._world.words[addr]), b)

    def _follow(self, number: int, step: Step, compare: bool) -> None:
        """Do a recorded step, after new ones of the same actor if the model has some now."""
        name = self._world.scenario.actors[step.actor].name
        what = f"{name} was to {OPERATIONS[step.kind]} {self._world.name_of(step.word)}"
        while True:
            if step.actor not in self._pending:
                raise RunFailed(f"diverged at step {number}: {what}, but has ended")
            if not self._enabled(step.actor):
                raise RunFailed(f"diverged at step {number}: {what}, but has to wait")
            kind, addr, _, _ = self._pending[step.actor]
            if (kind, addr) == (step.kind, step.word):
                break
            self.story.new_steps += 1
            if self.story.new_steps > NEW_STEPS_MAX or compare:
                now = f"{OPERATIONS[kind]} {self._world.name_of(addr)}"
                raise RunFailed(f"diverged at step {number}: {what}, but is about to {now}")
            self._do(step.actor)
        done = self._do(step.actor)
        if compare and (done.old, done.new) != (step.old, step.new):
            texts = [value_text(self._world, step.word, v) for v in (step.old, step.new)]
            seen = [value_text(self._world, step.word, v) for v in (done.old, done.new)]
            raise RunFailed(
                f"diverged at step {number}: {what}; recorded: {texts[0]} -> {texts[1]}"
                f" ({step.old:#x} -> {step.new:#x}), seen now: {seen[0]} -> {seen[1]}"
                f" ({done.old:#x} -> {done.new:#x})"
            )

    def _do(self, number: int) -> Step:
        """One step of an actor, with everything up to its next one."""
        kind, addr, b, c = self._pending[number]
        world = self._world
        if not 0 <= addr < len(world.words):
            name = world.scenario.actors[number].name
            text = f"{name} was about to touch word {addr}, outside the block"
            raise _Broken("lifetime", text, number)
        self._waiting.discard(number)
        old = int(world.words[addr])
        new = _value_after(kind, old, b, c)
        step = Step(number, kind, addr, old, new, b, c)
        self._last[number] = step
        self.story.trace.append(step)
        function, place = self._frames[number]
        before, after = value_text(world, addr, old), value_text(world, addr, new)
        index = len(self.story.told)
        told = Told(index + 1, number, function, place, OPERATIONS[kind], addr, before, after, "")
        self.story.told.append(told)
        try:
            self._run(number)
        finally:
            held = held_text(int(world.words[world.own(number) + at.HELD]))
            held = "" if held == "nothing" or world.vm is None else held
            self.story.told[index] = Told(**{**vars(told), "held": held})
        return step

    def _go_on(self) -> None:
        """Behind the recording: whoever can go on does, until all have ended or nobody can."""
        current = self.story.trace[-1].actor if self.story.trace else 0
        while self._pending:
            able = [n for n in sorted(self._pending) if self._enabled(n) and n not in self._waiting]
            if not able:
                self._nobody_goes_on()
            current = current if current in able else able[0]
            wrote = self._do(current)
            if wrote.old != wrote.new:
                self._waiting &= {current}  # its own writes are nobody's help

    def _nobody_goes_on(self) -> None:
        stuck = ", ".join(self._world.scenario.actors[n].name for n in sorted(self._pending))
        if self._waiting:
            raise _Broken(
                "progress", f"livelock: nobody can help: {stuck} would retry for ever", -1
            )
        raise _Broken("progress", f"deadlock: nobody can go on: {stuck} wait for ever", -1)

    # --- The end ---------------------------------------------------------------------------------

    def _judge_end(self) -> None:
        """The scenario's own kernels, outcomes, audits."""
        world, scenario = self._world, self._world.scenario
        cpu = world.cpu(0, observer=self._alone)
        if scenario.finish is not None:
            interpreted(scenario.finish)(cpu)
        if scenario.check is not None:
            returned = int(interpreted(scenario.check)(cpu))
            if returned:
                raise _Broken("check", scenario.check_text.format(returned), -1)
        self._judge_outcome()
        if world.vm is not None:
            names = [actor.name for actor in scenario.actors]
            for violation in [*reported(world.vm, names), *audits(world.vm)]:
                if self._is_wanted(violation.oracle):
                    raise _Broken(violation.oracle, violation.message, -1)

    def _alone(self, kind: int, a: int, b: int, c: int) -> int:
        """What `finish` and `check` do: nobody else could make a step of theirs possible."""
        if kind <= STEP_LAST:
            if not 0 <= a < len(self._world.words):
                name = self._world.scenario.actors[0].name
                text = f"{name} was about to touch word {a}, outside the block"
                raise _Broken("lifetime", text, 0)
            if not _guard_holds(kind, int(self._world.words[a]), b):
                text = f"the check cannot go on: it waits for {self._world.name_of(a)}"
                raise _Broken("check", text, -1)
        elif kind >= events.WARN:
            oracle, sentence = tell(kind - events.WARN, a, b, c)
            if self._is_wanted(oracle):
                raise _Broken(oracle, sentence, 0)
        return GO

    def _judge_outcome(self) -> None:
        from harness.explore.judge import grade_of, outcome_text

        words = self._world.words
        values = tuple(int(words[i]) for i in self._world.outcome_words())
        grade, sentence = grade_of(self._world.scenario, values)
        if values and grade == FORBIDDEN:
            text = outcome_text(self._world.scenario, values)
            raise _Broken("outcome", f"{text} is forbidden: {sentence}", -1)


def _guard_holds(kind: int, word: int, b: int) -> bool:
    """Whether the step could be done if its word held `word`."""
    if kind == events.ACQUIRE:
        return word & b & 0xFFFFFFFF == b >> 32
    return kind != events.WAIT_WHILE or word != b


def _value_after(kind: int, old: int, b: int, c: int) -> int:
    """What the word holds after the step."""
    if kind in (events.WRITE_ONCE, events.STORE_RELEASE, events.POKE, events.XCHG):
        return b
    if kind == events.CMPXCHG:
        return c if old == b else old
    if kind in (events.FETCH_ADD, events.COUNT):
        return old + b
    if kind == events.FETCH_OR:
        return old | b
    if kind == events.FETCH_AND:
        return old & b
    return old + c if kind in (events.ACQUIRE, events.RELEASE) else old


def _model_place() -> tuple[str, str]:
    """Function and file:line of the innermost frame above the machine's own helpers."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(MACHINE):
        frame = frame.f_back
    if frame is None:
        return "?", "?"
    return frame.f_code.co_name, f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
