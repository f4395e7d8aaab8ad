"""What an exploration found: said, stored as reproducers, listed in the run's document."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from harness.cli.speaker import Speaker
from harness.explore import reproducer
from harness.explore.trace import Finding
from harness.explore.world import World
from harness.report import store
from mmu.machine.kernel import MODEL_HASH
from workloads.scenario import Scenario


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
    program: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The document's `violations`."""
    if not findings:
        return []
    world = World(scenario)
    violations = []
    for number, found in enumerate(findings):
        name = reproducer.FILE if number == 0 else f"{number + 1}-{reproducer.FILE}"
        content = reproducer.Reproducer.of(
            world,
            found,
            reference=reference,
            model=MODEL_HASH,
            patch=patch,
            strategy=strategy,
            seed=seed,
            program=program,
        )
        folder.write_text(name, content.dump())
        again = f"tdprace replay {shlex.quote(str(folder.path / name))}"
        names = [scenario.actors[found.actor].name] if found.actor >= 0 else []
        who = f" ({names[0]})" if names else ""
        say(f"\nVIOLATION {found.oracle}: {found.message}{who}, after {len(found.steps)} steps")
        say(f"  again:  {again}")
        say(f"  story:  {again} --explain")
        violations.append(
            {
                "oracle": found.oracle,
                "message": found.message,
                "actors": names,
                "steps": len(found.steps),
                "reproducer": again,
            }
        )
    world.close()
    return violations
