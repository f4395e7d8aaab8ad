"""What is said of an actor that dies: what it reported before counts for more."""

import os
import signal

import pytest

from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from harness.run.warm import warm
from mmu.machine.conditions import LEAK_EXHAUSTED, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import HELD
from mmu.machine.lock import HELD_SLOTS
from mmu.machine.primitives import set_own
from mmu.vm import VmConfig
from workloads.plan import VCPU, ZAP_WORKER, Actor, Part, Phase, Plan

pytestmark = pytest.mark.slow


@kernel
def report(cpu: Cpu) -> int:
    warn(cpu, 1, LEAK_EXHAUSTED, 5, 604, 0)
    return 0


def die(actor: Actor) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def report_and_die(actor: Actor) -> None:
    report(actor.cpu)
    die(actor)


def hold_and_die(actor: Actor) -> None:
    set_own(actor.cpu, HELD, HELD_SLOTS)
    die(actor)


def run(part: Part, role: str = VCPU) -> Result:
    warm()
    plan = Plan(
        workload="deadly",
        vm=VmConfig(vcpus=1, pages=8, helpers=1),
        roles=(VCPU, ZAP_WORKER),
        phases=(Phase("only", "", {role: part}),),
        headline="only",
        counted=(),
    )
    with SignalFlag() as flag:
        return Session(plan, Status(quiet=True)).run(flag, lambda phase, result: None)


def test_a_broken_rule_that_an_actor_reported_before_it_died_is_the_verdict():
    result = run(report_and_die)
    assert result.outcome == "violation"
    (found,) = result.violations
    assert found.oracle == "leaks"
    assert "604 were handed out" in found.message


@pytest.mark.parametrize(
    ("part", "role", "said"),
    [
        (die, VCPU, "vcpu 0 (pid PID) died: killed by SIGSEGV"),
        (hold_and_die, VCPU, "vcpu 0 (pid PID) died: killed by SIGSEGV while it held slots_lock"),
        (die, ZAP_WORKER, "zap worker (pid PID) died: killed by SIGSEGV; the roots that were left"),
    ],
)
def test_who_died_of_what_holding_what(part, role, said):
    result = run(part, role)
    assert result.outcome == "failed"
    before, after = said.split("PID")
    text = str(result.error)
    assert text.startswith(before)
    assert after in text
