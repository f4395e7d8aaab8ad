"""A scenario that breaks two rules in every execution."""

from __future__ import annotations

from mmu.machine.conditions import BALANCE_IN_PROGRESS, ROOT_VALID, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import fetch_add
from workloads.scenario import Actor, Scenario


@kernel
def break_both(cpu: Cpu) -> None:
    fetch_add(cpu, 0, 1)
    warn(cpu, 1, ROOT_VALID, 7, 0, 0)
    fetch_add(cpu, 0, 1)
    warn(cpu, 1, BALANCE_IN_PROGRESS, 0, 5, 0)
    fetch_add(cpu, 0, 1)


TWO_RULES = Scenario("two-rules", "two rules are broken", (Actor("one", break_both),), words=("x",))
