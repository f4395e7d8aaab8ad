"""A workload's run inside a test: the processes are real, only the command line is not."""

from __future__ import annotations

from harness.cli.main import build_parser
from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from harness.run.warm import warm
from workloads.plan import Plan
from workloads.registry import load


def plan_of(*words: str) -> Plan:
    """What `tdprace stress WORDS` would run."""
    line = ["stress", *words, "--quiet"]
    args = build_parser(line).parse_args(line)
    return load(args.workload).plan(args)


def run_workload(*words: str) -> Result:
    """Run `tdprace stress WORDS`, whatever comes of it."""
    plan = plan_of(*words)
    warm()  # kernels that came with the workload: the processes would compile them, each its own
    with SignalFlag() as flag:
        return Session(plan, Status(quiet=True)).run(flag, lambda phase, result: None)


def run_clean(*words: str) -> Result:
    """The same, of a run that must be clean."""
    result = run_workload(*words)
    assert result.outcome == "clean", (result.error, result.violations)
    return result
