"""What an execution's end means: faults of the engine, the model's assertions, outcomes, audits."""

from __future__ import annotations

from collections.abc import Collection

from harness.explore import block as at
from harness.explore.faults import SLOT_WARN
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from harness.oracles.sentences import tell
from harness.oracles.verdict import audits, reported
from mmu.machine.conditions import CONDITIONS
from mmu.machine.cpu import Words
from mmu.machine.events import WARN
from workloads.errors import RunFailed, UsageError
from workloads.scenario import FORBIDDEN, Scenario

Steps = tuple[Step, ...]

# Whose the faults of the engine itself are.
ENGINE_ORACLES = {
    at.FAULT_DEADLOCK: "progress",
    at.FAULT_LIVELOCK: "progress",
    at.FAULT_WILD: "lifetime",
    at.FAULT_RAISED: "raised",
    at.FAULT_CHECK: "check",
    at.FAULT_CHECK_STUCK: "check",
    at.FAULT_CHAIN: "transitions",
}


def grade_of(scenario: Scenario, values: tuple[int, ...]) -> tuple[str, str]:
    """(grade, sentence) of an outcome."""
    for outcome in scenario.outcomes:
        if outcome.values == values:
            return outcome.grade, outcome.sentence
    return scenario.otherwise, "not listed"


def outcome_text(scenario: Scenario, values: tuple[int, ...]) -> str:
    """`r0=0, r1=0`."""
    return ", ".join(f"{name}={v}" for name, v in zip(scenario.outcome, values, strict=True))


def outcome_finding(world: World, values: tuple[int, ...], steps: Steps) -> Finding | None:
    """A finding if the outcome is forbidden."""
    grade, sentence = grade_of(world.scenario, values)
    if grade != FORBIDDEN:
        return None
    message = f"{outcome_text(world.scenario, values)} is forbidden: {sentence}"
    return Finding("outcome", message, -1, steps)


def audit_finding(world: World, steps: Steps, oracles: Collection[str] = ()) -> Finding | None:
    """What the oracles' audits say about a VM at rest; with `oracles`, what these say."""
    vm = world.vm
    if vm is None:
        return None
    names = [actor.name for actor in world.scenario.actors]
    for violation in [*reported(vm, names), *audits(vm)]:
        if oracles and violation.oracle not in oracles:
            continue
        actor = names.index(violation.actors[0]) if violation.actors else -1
        return Finding(violation.oracle, violation.message, actor, steps)
    return None


def refuse_fault(world: World, block: Words) -> None:
    """Raise for faults that are no findings: the exploration itself cannot go on."""
    fault, a = int(block[at.H_FAULT]), int(block[at.H_FAULT_A])
    actor = world.scenario.actors[int(block[at.H_FAULT_ACTOR])].name
    where = f"scenario {world.scenario.name}"
    if fault == at.FAULT_DRAWS:
        raise UsageError(
            f"{where}: {actor} draws or probes, which optimal does not enumerate; use dpor"
        )
    if fault == at.FAULT_MEMORY:
        raise RunFailed(f"{where}: optimal needs more than {a} tree nodes or steps; use dpor")
    if fault == at.FAULT_DIVERGED:
        raise RunFailed(
            f"{where} is not deterministic: when it was repeated, step {a} of {actor} was another;"
            " an actor must see nothing but shared words and draws"
        )


def oracle_of_fault(slot: int) -> str:
    """Whose a fault is, by its slot (`faults.slot_of`)."""
    if slot >= SLOT_WARN:
        return CONDITIONS[slot - SLOT_WARN][0]
    return ENGINE_ORACLES[slot]


def fault_finding(world: World, block: Words, steps: Steps) -> Finding:
    """What the engine or the model's own assertions have noticed."""
    fault, actor = int(block[at.H_FAULT]), int(block[at.H_FAULT_ACTOR])
    a, b, c = (int(block[word]) for word in (at.H_FAULT_A, at.H_FAULT_B, at.H_FAULT_C))
    if fault >= WARN:
        oracle, sentence = tell(fault - WARN, a, b, c)
        return Finding(oracle, world.in_names(sentence), actor, steps)
    names = [each.name for each in world.scenario.actors]
    message = _engine_fault(world, fault, names, actor, a, b, c)
    return Finding(ENGINE_ORACLES[fault], message, actor, steps)


def _engine_fault(
    world: World, fault: int, names: list[str], actor: int, a: int, b: int, c: int
) -> str:
    if fault in (at.FAULT_DEADLOCK, at.FAULT_LIVELOCK):
        stuck = ", ".join(name for number, name in enumerate(names) if a >> number & 1)
        if fault == at.FAULT_DEADLOCK:
            return f"deadlock: nobody can go on: {stuck} wait for ever"
        return f"livelock: nobody can help: {stuck} would retry for ever"
    if fault == at.FAULT_WILD:
        return f"{names[actor]} was about to touch word {a}, outside the block"
    if fault == at.FAULT_RAISED:
        return f"{names[actor] if actor >= 0 else 'finish'} raised an exception"
    if fault == at.FAULT_CHECK:
        return world.scenario.check_text.format(a)
    if fault == at.FAULT_CHECK_STUCK:
        return f"the check cannot go on: it waits for {world.name_of(a)}"
    assert fault == at.FAULT_CHAIN
    return (
        f"{world.name_of(a)}: a change from {b:#x} to {c:#x} was reported, which is not what"
        " happened to it"
    )
