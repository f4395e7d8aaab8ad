"""Which scenarios execute which kernels and lines of the clean model: who could notice a mutant.

Each scenario runs interpreted, under some random schedules, with Python's own line tracing.  What
a rare schedule alone reaches may be missing; so the map chooses by function, and lines only say
which scenarios come first.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from harness.bugs.mutants.catalogue import Mutant
from harness.explore.world import World
from harness.report.store import replace_text
from harness.watch.stepper import Stepper
from mmu.machine import events
from mmu.machine.cpu import Cpu
from mmu.machine.dispatch import SOURCE_ROOT, cache_root
from mmu.machine.kernel import MODEL_HASH
from mmu.machine.twin import interpreted
from workloads.scenario import Scenario
from workloads.scenarios.registry import SCENARIOS, load

SCHEDULES = 24
STEPS_MAX = 3000
FAILURES = 0.2  # how often a probe that the scenario asks for fails
LEAVING = (0.03, 0.1, 0.3, 1.0)  # how often an actor that could go on is left, by schedule


@dataclass(frozen=True)
class Reached:
    """What one scenario executes: dotted names of kernels; `path:line`s and by how many schedules.

    `steps` are those of its longest run.
    """

    functions: frozenset[str]
    lines: Mapping[str, int]
    steps: int


ReachMap = Mapping[str, Reached]


def scenarios_for(
    mutant: Mutant, reach: ReachMap, kills: Mapping[str, int]
) -> list[tuple[str, bool]]:
    """(name, whether it executes a changed line) of those that execute a changed function.

    Those that execute a changed line come first; among these who has killed more, whose schedules
    execute the line more often, and who is shorter.
    """
    lines = {f"{mutant.path}:{line}" for line in mutant.lines}

    def order(name: str) -> tuple[bool, int, int, int]:
        hits = max(reach[name].lines.get(line, 0) for line in lines)
        return (hits == 0, -kills.get(name, 0), -hits, reach[name].steps)

    found = [name for name, one in reach.items() if one.functions & set(mutant.functions)]
    return [(name, not order(name)[0]) for name in sorted(found, key=order)]


def reach_map(progress: Callable[[int, int], None]) -> ReachMap:
    """The map of the clean model and its scenarios; made once, then kept beside compiled code."""
    file = cache_root() / f"reach-{_digest()}.json"
    if file.is_file():
        document = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: Reached(frozenset(one["functions"]), one["lines"], one["steps"])
            for name, one in document.items()
        }
    reach = {}
    for number, name in enumerate(SCENARIOS):
        progress(number, len(SCENARIOS))
        reach[name] = reached_by(load(name))
    document = {
        name: {"functions": sorted(one.functions), "lines": one.lines, "steps": one.steps}
        for name, one in reach.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps(document) + "\n")
    return reach


def _digest() -> str:
    """Of all that the map depends on: the model, its scenarios, and how they are run here."""
    digest = hashlib.sha256(repr((MODEL_HASH, list(SCENARIOS))).encode())
    folder = SOURCE_ROOT / "workloads" / "scenarios"
    for path in (*sorted(folder.glob("*.py")), Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def reached_by(scenario: Scenario, schedules: int = SCHEDULES) -> Reached:
    """Run one scenario under so many schedules and note what it executes."""
    trace = _Trace()
    before = sys.gettrace()
    world = World(scenario)
    hits: Counter[str] = Counter()
    steps = 0
    try:
        for seed in range(schedules):
            trace.lines = set()
            steps = max(steps, _run(world, seed, trace))
            hits.update(trace.lines)
    finally:
        world.close()
        sys.settrace(before)
    return Reached(frozenset(trace.functions), dict(hits), steps)


class _Trace:
    """Notes kernels of the model, machine apart, as they are called, and their lines."""

    def __init__(self) -> None:
        self.functions: set[str] = set()
        self.lines: set[str] = set()
        self._paths: dict[CodeType, str] = {}

    def watch(self, kernel: Callable[..., Any], cpu: Cpu) -> Any:
        """Call the kernel's twin; a greenlet has a tracer of its own, so it is set here."""
        sys.settrace(self._on_call)
        try:
            return interpreted(kernel)(cpu)
        finally:
            # Not the one before: that may be another actor's, which set it and is not done yet.
            sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        path = self._paths.get(code)
        if path is None:
            path = self._paths[code] = _path(code.co_filename)
        if not path:
            return None
        self.functions.add(f"{path.removesuffix('.py').replace('/', '.')}.{code.co_name}")
        return partial(self._on_line, path)

    def _on_line(self, path: str, frame: FrameType, event: str, argument: object) -> Any:
        self.lines.add(f"{path}:{frame.f_lineno}")
        return partial(self._on_line, path)


def _path(file: str) -> str:
    """Path of a module of the model, "" of all others."""
    try:
        path = Path(file).relative_to(SOURCE_ROOT)
    except ValueError:
        return ""
    return path.as_posix() if path.parts[0] == "mmu" and path.parts[1] != "machine" else ""


def _run(world: World, seed: int, trace: _Trace) -> int:
    """One schedule, and the scenario's check at its end; how many steps it took."""
    world.reset()
    draw = random.Random(seed)
    leaving = LEAVING[seed % len(LEAVING)]
    waiting: set[int] = set()  # whose attempt failed: somebody else goes on first
    scenario = world.scenario

    def answer(actor: int, kind: int, a: int, b: int, c: int) -> int:
        if kind == events.AGAIN:
            waiting.add(actor)
        if kind == events.PROBE:
            return int(scenario.probes >> a & 1 and draw.random() < FAILURES)
        return events.GO

    stepper = Stepper(
        {
            number: (
                world.cpu(number, observer=partial(answer, number)),
                partial(trace.watch, actor.body),
            )
            for number, actor in enumerate(scenario.actors)
        }
    )
    steps, current = 0, -1
    while stepper.pending and steps < STEPS_MAX:
        able = [each for each in sorted(stepper.pending) if stepper.enabled(each)]
        able = [each for each in able if each not in waiting] or able
        if not able:
            break
        if current not in able or draw.random() < leaving:
            current = draw.choice(able)
        waiting -= {each for each in waiting if each != current}
        stepper.step(current)
        steps += 1
    ended = not stepper.pending
    stepper.stop()
    for kernel in (scenario.finish, scenario.check):
        if ended and kernel is not None:
            trace.watch(kernel, world.cpu(0))
    return steps
