"""The stepper: interpreted actors in one thread, one step at a time, in a given order.

Each actor runs in a greenlet and parks before each step; whoever drives decides who goes on.
What an actor does between two steps, and what it asks that is no step, belongs to its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from greenlet import getcurrent, greenlet

from mmu.machine.cpu import Cpu, Observer
from mmu.machine.events import ACQUIRE, GO, STEP_LAST, STOP, WAIT_WHILE

Step = tuple[int, int, int, int]  # kind, a, b, c, as the hook gets them
NOTHING: Step = (0, 0, 0, 0)
Actors = Mapping[int, tuple[Cpu, Callable[[Cpu], Any]]]  # body(cpu) runs interpreted kernels


class Stepper:
    """Actors by number: `pending` step of each that lives, `results` of each that has ended.

    A `cpu`'s own observer, if it has one, is asked in the actor's turn, just before the step.
    """

    def __init__(self, actors: Actors) -> None:
        self.pending: dict[int, Step] = {}
        self.results: dict[int, Any] = {}
        self._words = {number: cpu.words for number, (cpu, _) in actors.items()}
        self._stopped = False
        self._greenlets = {number: greenlet(body) for number, (_, body) in actors.items()}
        for number, (cpu, _) in actors.items():
            cpu.observer = self._parking(getcurrent(), cpu.observer)
            self._run(number, cpu)

    def _parking(self, hub: greenlet, inner: Observer | None) -> Observer:
        def observe(kind: int, a: int, b: int, c: int) -> int:
            if kind <= STEP_LAST and not self._stopped:
                hub.switch((kind, a, b, c))
            if self._stopped:
                return STOP
            return GO if inner is None else inner(kind, a, b, c)

        return observe

    def _run(self, number: int, *first: Cpu) -> None:
        self.pending.pop(number, None)
        outcome = self._greenlets[number].switch(*first)
        (self.results if self._greenlets[number].dead else self.pending)[number] = outcome

    def enabled(self, number: int) -> bool:
        """Whether the actor has a step that it could do now."""
        kind, addr, operand, _ = self.pending.get(number, NOTHING)
        if kind == ACQUIRE:
            return int(self._words[number][addr]) & operand & 0xFFFFFFFF == operand >> 32
        if kind == WAIT_WHILE:
            return int(self._words[number][addr]) != operand
        return kind > 0

    def step(self, number: int) -> None:
        """Let one actor do its pending step; ValueError if it has none or must wait."""
        if not self.enabled(number):
            raise ValueError(f"actor {number} cannot go on: {self.pending.get(number, 'ended')}")
        self._run(number)

    def stop(self) -> None:
        """Answer STOP from now on, and let every actor run to its end."""
        self._stopped = True
        while self.pending:
            self._run(min(self.pending))


def run_actors(actors: Actors, schedule: Iterable[int]) -> dict[int, Any]:
    """Follow `schedule`, stop who is left; the results of who ended before.  See `step`."""
    stepper = Stepper(actors)
    try:
        for number in schedule:
            stepper.step(number)
        return dict(stepper.results)
    finally:
        stepper.stop()
