"""One process of a run: waits for its phases, plays its part, reports, ends.

Results live in shared memory, so that the supervisor has them even if this process is killed;
only the workload's own counters and error messages go through a pipe.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.run.lifeline import die_with_parent
from mmu.machine.blocking import add_and_wake, wait_briefly
from mmu.machine.futex import raw_load
from mmu.machine.layout import (
    ACTOR_COMMAND,
    FINISHED,
    PHASE_FINISHED,
    PHASE_FINISHED_NS,
    STOP_WORD,
    WAITING_FOR,
)
from mmu.vm import Vm
from workloads.errors import TdpraceError
from workloads.plan import Phase, Plan

BATCH_ACCESSES = 1 << 14  # at 300 ns an access about 5 ms: how long Python may not hear anything
END = -1  # command: no more phases


class ActorProcess:
    """What a part sees of its process (`workloads.plan.Actor`)."""

    def __init__(self, vm: Vm, number: int, index: int, pipe: int, hook: int, ctx: int) -> None:
        self.vm = vm
        self.cpu = vm.cpu(number, hook=hook, ctx=ctx)
        self.index = index
        self.number = number
        self._pipe = pipe

    def stopping(self) -> bool:
        """Whether the run is to end."""
        return raw_load(self.cpu, STOP_WORD) != 0

    def run(self, batch: Callable[..., int], *arguments: int) -> None:
        """Call a kernel in bounded batches until it has nothing left or the run stops."""
        while batch(self.cpu, *arguments, BATCH_ACCESSES) > 0 and not self.stopping():
            pass

    def run_for(self, seconds: float, turn: Callable[..., int], *arguments: int) -> None:
        """Call a kernel again and again for so long, or until the run stops."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stopping():
            turn(self.cpu, *arguments)

    def wait_until(self, ready: Callable[[], bool], line: int) -> bool:
        """Sleep for word `line` until `ready()`; False if the run stops first."""
        while True:
            # The word is read before the question, so a change in between ends the sleep.
            seen = raw_load(self.cpu, line)
            if ready():
                return True
            if self.stopping():
                return False
            wait_briefly(self.cpu, line, seen)

    def report(self, name: str, value: int) -> None:
        """A counter of the workload's own."""
        self._send({"kind": "count", "name": name, "value": value})

    def fail(self, error: Exception) -> None:
        """Tell the supervisor why this process gives up."""
        status = error.status if isinstance(error, TdpraceError) else 4
        text = str(error) if isinstance(error, TdpraceError) else repr(error)
        # Short enough for one atomic write: a killed process leaves no half message.
        message = {"kind": "error", "actor": self.number, "status": status, "text": text[:2000]}
        self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        os.write(self._pipe, json.dumps(message).encode() + b"\n")

    def play(self, role: str, phases: Sequence[Phase]) -> None:
        """Play this role's parts as the supervisor calls for them."""
        command = self.cpu.own + ACTOR_COMMAND
        done = 0
        while True:
            now = wait_briefly(self.cpu, command, done)
            if now == END or (now == done and self.stopping()):
                return
            if now == done:
                continue
            phases[now - 1].parts[role](self)
            done = now
            self.cpu.words[self.cpu.own + WAITING_FOR] = 0
            self.cpu.words[self.cpu.own + PHASE_FINISHED_NS] = time.monotonic_ns()
            self.cpu.words[self.cpu.own + PHASE_FINISHED] = now
            add_and_wake(self.cpu, FINISHED, 1)


def actor_main(
    actor: ActorProcess, role: str, plan: Plan, core: int | None, parent_pid: int
) -> None:
    """Body of the process; `core` is the one that it is pinned to."""
    die_with_parent(parent_pid)
    # Ctrl-C goes to the whole foreground group; the supervisor alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        if role in plan.services:
            plan.services[role](actor)
        else:
            actor.play(role, plan.phases)
    except Exception as error:
        actor.fail(error)
        os._exit(4)
    os._exit(0)
