"""All oracles of a stress run: what actors reported, and the audits at rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from harness.oracles import (
    balance,
    dirty,
    frames,
    frozen,
    leaks,
    lifetime,
    locks,
    mapping,
    memory,
    progress,
    roots,
    tlb,
    transitions,
)
from harness.oracles.sentences import tell
from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.vm import Vm

ORACLES: tuple[ModuleType, ...] = (
    mapping,
    memory,
    tlb,
    dirty,
    frames,
    lifetime,
    frozen,
    transitions,
    leaks,
    roots,
    locks,
    balance,
    progress,
)


@dataclass(frozen=True)
class Violation:
    """A broken rule: which oracle says so, what happened, who was it."""

    oracle: str
    message: str
    actors: tuple[str, ...]


def reported(vm: Vm, names: Sequence[str]) -> list[Violation]:
    """What the model's own assertions found; one violation per condition, with all its actors."""
    by_condition: dict[int, list[tuple[str, tuple[int, int, int]]]] = {}
    for actor in range(vm.config.actors):
        words = vm.actor_words(actor)
        if int(words[at.VIOLATIONS]):
            a, b, c = (
                int(words[word]) for word in (at.VIOLATION_A, at.VIOLATION_B, at.VIOLATION_C)
            )
            condition = int(words[at.VIOLATION_CONDITION])
            by_condition.setdefault(condition, []).append((names[actor], (a, b, c)))
    violations = []
    for condition, found in sorted(by_condition.items()):
        oracle, message = tell(condition, *found[0][1])
        violations.append(Violation(oracle, message, tuple(name for name, _ in found)))
    return violations


def audits(vm: Vm) -> list[Violation]:
    """What every audit finds in a VM at rest."""
    snapshot = Snapshot(vm)
    return [
        Violation(oracle.NAME, message, ())
        for oracle in ORACLES
        for message in oracle.audit(snapshot)
    ]
