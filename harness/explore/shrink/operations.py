"""Pass: operations that go, or of which only the part that matters stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.explore.shrink.case import Case

ABOUT = "operations dropped"


def candidates(case: Case) -> Iterator[Case]:
    """Each with one operation less, or with a shorter one."""
    yield from _of_scenario(case) if case.base is not None else _of_program(case)


def _of_scenario(case: Case) -> Iterator[Case]:
    """An actor's kernel is one piece; for guests' accesses shorter ones are known."""
    assert case.base is not None
    if case.base.vm is None:
        return
    # Only here: what is imported is compiled, and a scenario of plain words does not need it.
    from workloads.scenarios.shorter import SETUPS, SHORTER

    # A check may be about what the set-up has done; oracles are about everything.
    for name, setup in SETUPS.items() if case.base.check is None else ():
        if case.base.setup is setup or case.reduction.setup == name:
            break
        yield case.prepared(name)
    for actor in case.base.actors:
        shorter = SHORTER.get(actor.body, ())
        names = [each.name for each in shorter]
        now = case.reduction.actors.get(actor.name)
        if now is None or now in names:
            for name in names[: names.index(now) if now else None]:
                yield case.doing(actor.name, name)


def _of_program(case: Case) -> Iterator[Case]:
    program = case.program
    for number in reversed(range(len(program.before))):
        less = (*program.before[:number], *program.before[number + 1 :])
        yield replace(case, program=replace(program, before=less))
    for number, part in enumerate(program.parts):
        if len(part.operations) == 1:
            continue  # an actor less: another pass'
        for place in reversed(range(len(part.operations))):
            operations = (*part.operations[:place], *part.operations[place + 1 :])
            shorter = replace(part, operations=operations)
            parts = (*program.parts[:number], shorter, *program.parts[number + 1 :])
            yield replace(case, program=replace(program, parts=parts))
