"""What an exploration found: said, stored as reproducers, listed in the run's document."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore import reproducer
from harness.explore.shrink.case import Case
from harness.explore.shrink.shrinker import Shrunk, shrink
from harness.explore.shrink.turns import real
from harness.explore.trace import Finding
from harness.explore.world import World
from harness.report import store
from harness.run.session import SignalFlag
from mmu.machine.kernel import MODEL_HASH
from workloads.scenario import Scenario

if TYPE_CHECKING:  # what is imported is compiled
    from workloads.scenarios.generated import Program

PLAIN_LINE_S = 5.0


def store_findings(
    scenario: Scenario,
    findings: Sequence[Finding],
    folder: store.RunFolder,
    say: Speaker,
    *,
    reference: str,
    patch: reproducer.Patch | None,
    strategy: str,
    seed: int,
    program: Program | None = None,
    shrinks: bool,
    quiet: bool,
    first: int = 1,
) -> list[dict[str, Any]]:
    """The document's `violations`; with `shrinks`, of reproducers that were made small.

    The files of a run are numbered; `first` is the number of the first of these.
    """
    violations = []
    for number, original in enumerate(findings, start=first):
        case = Case(program=program) if program is not None else Case(base=scenario)
        shrunk = _shrunk(case, original, quiet) if shrinks else None
        found = original if shrunk is None else shrunk.finding
        case = case if shrunk is None else shrunk.case
        world = World(case.scenario())
        name = reproducer.FILE if number == 1 else f"{number}-{reproducer.FILE}"
        content = reproducer.Reproducer.of(
            world,
            found,
            reference=reference,
            model=MODEL_HASH,
            patch=patch,
            strategy=strategy,
            seed=seed,
            program=None if case.program is None else case.program.document(),
            reduction=case.reduction.document() if case.reduction else None,
        )
        world.close()
        folder.write_text(name, content.dump())
        again = f"tdprace replay {shlex.quote(str(folder.path / name))}"
        names = [scenario.actors[found.actor].name] if found.actor >= 0 else []
        who = f" ({names[0]})" if names else ""
        steps = len(real(found.steps))
        say(f"\nVIOLATION {found.oracle}: {found.message}{who}, after {steps} steps")
        if shrunk is not None:
            for text in _shrunk_texts(shrunk):
                say(f"  {text}")
        say(f"  again:  {again}")
        say(f"  story:  {again} --explain")
        say(f"  test:   {again} --as-test")
        violations.append(
            {
                "oracle": found.oracle,
                "message": found.message,
                "actors": names,
                "steps": steps,
                "steps_found": len(real(original.steps)),
                "shrinking": [] if shrunk is None else [asdict(each) for each in shrunk.passes],
                "reproducer": again,
            }
        )
    return violations


def _shrunk(case: Case, finding: Finding, quiet: bool) -> Shrunk | None:
    """Made small; after Ctrl-C as far as it has come: the finding itself is never lost."""
    line = LiveLine(quiet, plain_s=PLAIN_LINE_S)
    with SignalFlag() as flag:

        def look(about: str) -> bool:
            line.show(lambda: f"shrinking the reproducer: {about}")
            return not flag.raised

        try:
            return shrink(case, finding, look)
        finally:
            line.close()


def _shrunk_texts(shrunk: Shrunk) -> list[str]:
    """What each pass has done."""
    schedule = shrunk.schedule
    texts = [
        f"shrunk from {shrunk.steps_before} steps and {shrunk.preemptions_before} preemptions"
        f" to {schedule.length} and {schedule.preemptions}"
        + (" (interrupted)" if shrunk.interrupted else "")
    ]
    texts += [
        f"  {each.about}: {each.taken} of {each.tried} tries, {-each.steps:+d} steps,"
        f" {-each.preemptions:+d} preemptions"
        for each in shrunk.passes
        if each.taken
    ]
    return texts
