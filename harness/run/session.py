"""Run a plan: one process per actor, phases between barriers, and an end that leaves nothing.

The supervisor never sits in an unbounded wait: it sleeps at most 50 ms, then looks at children,
messages, violations, the watchdog and Ctrl-C.  Whatever ends a run, its measured phases are kept
in shared memory until they have been read; then everybody is asked to stop, and after a second
whoever has not is killed (a dead worker may hold a lock that others wait for).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import multiprocess
from multiprocess.connection import wait as wait_for_any

from harness.oracles import progress
from harness.oracles.sentences import held_text
from harness.oracles.verdict import Violation, audits, reported
from harness.report.ring_text import RingText, ring_text
from harness.run.actor import END, ActorProcess, actor_main
from harness.run.measure import actor_matrix, counters, difference, latencies, proportional_bytes
from harness.run.status import Status
from harness.run.watchdog import Watchdog
from harness.watch.stress import StressWatch, Watching
from mmu.machine import layout as at
from mmu.machine.blocking import add_and_wake, wait_briefly, wake
from mmu.machine.clock import ticks_per_ns
from mmu.machine.futex import raw_load
from mmu.vm import Vm
from workloads.errors import MachineError, RunFailed, TdpraceError, UsageError
from workloads.plan import VCPU, ZAP_WORKER, Phase, Plan

STOP_GRACE_S = 1.0
FAILURE_GRACE_S = 0.5
UNWATCHED = Watching()
AUDIT_TABLES_MAX = 2048  # more are audited at the end only, not after every phase
# What follows from the end of a process, where that is not plain.
_DEATH_MEANS = {
    ZAP_WORKER: "the roots that were left to it stay mapped, and whoever deletes a memslot or"
    " destroys the VM would wait for them for ever",
}


@dataclass(frozen=True)
class PhaseResult:
    """A finished phase: wall time from release to the last actor, and what was counted in it."""

    name: str
    seconds: float
    counters: dict[str, int]


@dataclass
class Result:
    """What a run gave, complete or not."""

    outcome: str = "interrupted"
    phases: list[PhaseResult] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    latency_ns: dict[str, dict[str, int]] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    injected: dict[str, dict[str, int]] = field(default_factory=dict)
    ring: RingText | None = None
    error: TdpraceError | None = None


class Interrupted(Exception):  # noqa: N818 - no error: the user's wish
    """Ctrl-C or SIGTERM."""


class ViolationFound(Exception):  # noqa: N818 - no error of the run: what it looks for
    """A rule is broken; the run's result says which."""


class SignalFlag:
    """Ctrl-C as a flag that the supervisor's loop looks at; the previous handlers come back."""

    def __init__(self) -> None:
        self.raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True


def actor_names(plan: Plan) -> list[str]:
    """`vcpu 0`, `vcpu 1`, ..., `vmm`."""
    first: dict[str, int] = {}
    names = []
    for number, role in enumerate(plan.roles):
        index = number - first.setdefault(role, number)
        names.append(f"{role} {index}" if role == VCPU else role)
    return names


class Session:
    """One run of one plan."""

    def __init__(
        self,
        plan: Plan,
        status: Status,
        *,
        watchdog_s: float = 30.0,
        watching: Watching = UNWATCHED,
    ) -> None:
        self._plan = plan
        self._status = status
        self._names = actor_names(plan)
        self._watchdog_s = watchdog_s
        self._result = Result()
        self._processes: list[Any] = []
        self._messages = b""
        self._own_counters: dict[str, int] = {}
        self._finished = 0
        self._dead = -1  # who died
        try:
            self._vm = Vm(plan.vm)
        except (OSError, MemoryError, OverflowError) as error:
            raise MachineError(
                f"shared memory for {plan.vm.pages} guest pages cannot be mapped: {error};"
                " give less memory"
            ) from error
        self._watch = StressWatch(self._vm, watching) if watching else None

    def run(self, flag: SignalFlag, on_phase: Callable[[Phase, Result], None]) -> Result:
        """Fork the actors and play every phase; `on_phase` is called after each."""
        result = self._result
        try:
            self._fork()
            for number, phase in enumerate(self._plan.phases, start=1):
                self._play(number, phase, flag)
                on_phase(phase, result)
            self._audit()
            result.outcome = "clean"
        except Interrupted:
            result.outcome = "interrupted"
        except ViolationFound:
            result.outcome = "violation"
        except TdpraceError as error:
            result.outcome, result.error = "failed", error
        finally:
            if self._watch is not None and result.outcome != "clean":
                self._watch.stand_still()
            self._measure()
            self._end(FAILURE_GRACE_S if result.outcome == "failed" else STOP_GRACE_S)
        return result

    # --- processes ------------------------------------------------------------------------------

    def _fork(self) -> None:
        _allow_descriptors(len(self._plan.roles))
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        self._pipe = read_end
        context = multiprocess.get_context("fork")
        parent = os.getpid()
        first: dict[str, int] = {}
        # Children share the parent's objects as long as nobody's collector touches them.
        gc.freeze()
        for number, role in enumerate(self._plan.roles):
            index = number - first.setdefault(role, number)
            watch = self._watch
            hook, ctx = (watch.hook, watch.ctx(number)) if watch is not None else (0, 0)
            actor = ActorProcess(self._vm, number, index, write_end, hook, ctx)
            core = self._plan.pins[number] if number < len(self._plan.pins) else None
            arguments = (actor, role, self._plan, core, parent)
            process = context.Process(target=actor_main, args=arguments, daemon=True)
            try:
                process.start()
            except OSError as error:
                raise MachineError(
                    f"process {number + 1} of {len(self._plan.roles)} cannot be started:"
                    f" {error.strerror}; give fewer vCPUs or raise ulimit -u"
                ) from error
            self._processes.append(process)
        os.close(write_end)
        gc.unfreeze()
        self._watchdog = Watchdog(self._vm, self._names, self._watchdog_s)
        self._status.watch(self._names, [process.pid for process in self._processes])

    def _end(self, grace_s: float) -> None:
        """Ask everybody to stop, then kill; nothing outlives this call."""
        cpu = self._vm.cpu(0)
        self._vm.words[at.STOP_WORD] = 1
        for actor in range(len(self._processes)):
            line = self._vm.layout.actor(actor) + at.ACTOR_COMMAND
            self._vm.words[line] = END
            wake(cpu, line)
        deadline = time.monotonic() + grace_s
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            if process.is_alive():
                process.kill()
        for process in self._processes:
            process.join()
            process.close()
        self._processes = []
        self._read_watch()
        if hasattr(self, "_pipe"):
            os.close(self._pipe)
        self._vm.close()

    # --- phases ---------------------------------------------------------------------------------

    def _play(self, number: int, phase: Phase, flag: SignalFlag) -> None:
        vm, cpu = self._vm, self._vm.cpu(0)
        actors = [i for i, role in enumerate(self._plan.roles) if role in phase.parts]
        before = counters(vm)
        for actor in range(vm.config.actors):
            words = vm.actor_words(actor)
            words[at.WORK_DONE] = words[at.PHASE_WORK] = 0
        self._status.phase(f"{self._plan.workload}: {phase.name}")
        self._watchdog.restart()
        self._finished += len(actors)
        released_ns = time.monotonic_ns()
        for actor in actors:
            line = vm.layout.actor(actor) + at.ACTOR_COMMAND
            add_and_wake(cpu, line, number - int(vm.words[line]))
        while (finished := raw_load(cpu, at.FINISHED)) < self._finished:
            wait_briefly(cpu, at.FINISHED, finished)
            self._look(number, actors, flag)
        self._settle(number, actors, flag)
        ended_ns = max(int(vm.actor_words(actor)[at.PHASE_FINISHED_NS]) for actor in actors)
        self._read_messages()
        self._check_violations()
        seconds = (ended_ns - released_ns) / 1e9
        now = counters(vm)
        self._result.counters = {**now, **self._own_counters}
        counted = difference(now, before)
        self._result.phases.append(PhaseResult(phase.name, seconds, counted))
        if vm.words[at.STAT_TABLES] <= AUDIT_TABLES_MAX:
            self._audit()

    def _settle(self, number: int, actors: list[int], flag: SignalFlag) -> None:
        """Until the zap worker has nothing to do: only then is the VM at rest."""
        vm = self._vm
        while (
            ZAP_WORKER in self._plan.services
            and vm.words[at.ZAP_FINISHED] < vm.words[at.ZAP_QUEUED]
        ):
            wait_briefly(vm.cpu(0), at.ZAP_FINISHED, raw_load(vm.cpu(0), at.ZAP_FINISHED))
            self._look(number, actors, flag)

    def _look(self, number: int, actors: list[int], flag: SignalFlag) -> None:
        """Everything that may end a phase early."""
        if flag.raised:
            raise Interrupted
        self._read_messages()
        self._check_children()
        self._check_violations()
        vm = self._vm
        unfinished = [a for a in actors if vm.actor_words(a)[at.PHASE_FINISHED] != number]
        stuck = self._watchdog.stuck(unfinished)
        if stuck:
            more = f" (and {len(stuck) - 3} more)" if len(stuck) > 3 else ""
            raise RunFailed("nothing moves: " + "; ".join(stuck[:3]) + more)
        self._status.tick(vm)

    def _check_children(self) -> None:
        for sentinel in wait_for_any([p.sentinel for p in self._processes], timeout=0):
            for number, name in enumerate(self._names):
                process = self._processes[number]
                if process.sentinel == sentinel:
                    self._read_messages()
                    # It may have died of a broken rule that it reported: that says more.
                    self._check_violations()
                    process.join()
                    self._dead = number
                    raise RunFailed(f"{name} (pid {process.pid}) died: {self._death(number)}")

    def _death(self, number: int) -> str:
        """How an actor's process ended, what it held then, and what that means for the others."""
        text = _ending(self._processes[number].exitcode)
        held = int(self._vm.actor_words(number)[at.HELD])
        if held:
            text += f" while it held {held_text(held)}"
        meaning = _DEATH_MEANS.get(self._plan.roles[number])
        return text if meaning is None else f"{text}; {meaning}"

    def _read_messages(self) -> None:
        """Counters and errors that actors sent; an error ends the run with its own status."""
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            self._messages += data
        *whole, self._messages = self._messages.split(b"\n")
        for text in whole:
            message = json.loads(text)
            if message["kind"] == "count":
                self._own_counters[message["name"]] = message["value"]
            elif message["status"] == UsageError.status:
                raise UsageError(message["text"])
            else:
                raise RunFailed(f"{self._names[message['actor']]} failed: {message['text']}")

    # --- verdicts and figures -------------------------------------------------------------------

    def _check_violations(self) -> None:
        """The first broken rule ends the run: what follows it means nothing."""
        if actor_matrix(self._vm)[:, at.VIOLATIONS].any():
            self._result.violations = reported(self._vm, self._names)
            raise ViolationFound
        found = progress.exceeded(self._vm)
        if found:
            # Who does the same for ever never comes to rest, where audits are.
            self._result.violations = [
                Violation(progress.NAME, message, (self._names[actor],)) for message, actor in found
            ]
            raise ViolationFound

    def _read_watch(self) -> None:
        """What was injected; and after a bad end the last events, which nobody changes any more."""
        watch, result = self._watch, self._result
        if watch is None:
            return
        result.injected = watch.injected()
        if result.outcome not in ("violation", "failed"):
            return
        moment = watch.moment()
        last = watch.ring(self._dead) if self._dead >= 0 else []
        if moment is None and last:
            moment = last[-1].ticks
        result.ring = ring_text(self._vm, self._names, watch.events(), moment, ticks_per_ns())

    def _audit(self) -> None:
        found = audits(self._vm)
        if found:
            self._result.violations = found
            raise ViolationFound

    def _measure(self) -> None:
        result, vm = self._result, self._vm
        result.counters = {**counters(vm), **self._own_counters}
        result.latency_ns = latencies(vm)
        pids = [process.pid for process in self._processes if process.is_alive()]
        result.memory = {
            "shared_bytes": vm.block.bytes_backed(),
            "pss_bytes": proportional_bytes([os.getpid(), *pids]),
            "processes": len(self._processes),
        }


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"


def _allow_descriptors(actors: int) -> None:
    """A sentinel per process: raise the soft limit on descriptors where it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = actors + 64
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise MachineError(
                f"{actors} processes need {needed} file descriptors, the limit is {hard}:"
                " raise it with ulimit -n"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
