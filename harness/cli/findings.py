"""What an exploration found: said, stored as reproducers, listed in the run's document."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.cli.speaker import Speaker
from harness.explore import reproducer
from harness.explore.shrink.case import Case
from harness.explore.shrink.shrinker import Look, Shrunk, shrink
from harness.explore.trace import Finding
from harness.explore.world import World
from harness.report import store
from mmu.machine.kernel import MODEL_HASH
from workloads.scenario import Scenario

if TYPE_CHECKING:  # what is imported is compiled
    from workloads.scenarios.generated import Program


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
    shrinks: bool = True,
    look: Look = lambda text: True,
) -> list[dict[str, Any]]:
    """The document's `violations`; with `shrinks`, of reproducers that were made small."""
    violations = []
    for number, original in enumerate(findings):
        case = Case(program=program) if program is not None else Case(base=scenario)
        shrunk = shrink(case, original, look) if shrinks else None
        found = original if shrunk is None else shrunk.finding
        case = case if shrunk is None else shrunk.case
        world = World(case.scenario())
        name = reproducer.FILE if number == 0 else f"{number + 1}-{reproducer.FILE}"
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
        say(f"\nVIOLATION {found.oracle}: {found.message}{who}, after {len(found.steps)} steps")
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
                "steps": len(found.steps),
                "steps_found": len(original.steps),
                "shrinking": [] if shrunk is None else [asdict(each) for each in shrunk.passes],
                "reproducer": again,
            }
        )
    return violations


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
