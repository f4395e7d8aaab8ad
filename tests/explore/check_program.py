"""One program under one strategy against the naive enumerator."""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.explorer import Explorer
from mmu.machine import events
from tests.explore.naive import Form, Traces, form_of
from tests.explore.programs import Program, scenario_of, text_of

OPERATION = {
    getattr(events, name): name
    for name in (
        [
            "READ_ONCE",
            "WRITE_ONCE",
            "XCHG",
            "CMPXCHG",
            "FETCH_ADD",
            "COUNT",
            "ACQUIRE",
            "RELEASE",
            "WAIT_WHILE",
        ]
    )
}
# Where forms of all executions are compared one by one, in Python.
FORMS_MAX = 400


class StepwiseExplorer(Explorer):
    """Runs one execution at a time and keeps the form of each."""

    def run_stepwise(self) -> dict[str, list[Form]]:
        forms: dict[str, list[Form]] = {"complete": [], "deadlocked": []}
        self._slice = 1
        engine_run = self.engine.run

        def run_one(executions: int) -> int:
            code = engine_run(1)
            block = self.engine.block
            # Questions stop before the execution is taken back: it is looked at once only.
            if not block[at.H_RESUME]:
                status = int(block[at.H_STATUS])
                steps = self.engine.steps(int(block[at.H_DEPTH]))
                form = form_of((s.actor, OPERATION[s.kind], s.word, s.old, s.b, s.c) for s in steps)
                if status == at.STATUS_COMPLETE:
                    forms["complete"].append(form)
                elif status == at.STATUS_DEADLOCK:
                    forms["deadlocked"].append(form)
            return code

        self.engine.run = run_one  # type: ignore[method-assign]  # watched for this test only
        self.run()
        return forms


def complaints(program: Program, strategy: str, traces: Traces) -> list[str]:
    """What the strategy got wrong, with the program as text."""
    explorer = StepwiseExplorer(scenario_of(program), strategy, stop_at_finding=False)
    small = len(traces.complete) + len(traces.deadlocked) <= FORMS_MAX
    forms = explorer.run_stepwise() if small else {}
    result = explorer.result if small else explorer.run()
    explorer.close()
    found = {
        "complete": (result.complete, len(traces.complete)),
        "deadlocked": (result.deadlocked, len(traces.deadlocked)),
        "final states": (result.outcomes, dict(traces.outcomes())),
        "final states of deadlocks": (result.deadlocks, dict(traces.deadlocks())),
        "exhausted": (result.exhausted, True),
    }
    if strategy == "optimal":
        found["blocked"] = (result.blocked, 0)
    if small:
        found["complete traces"] = (set(forms["complete"]), set(traces.complete))
        found["deadlocked traces"] = (set(forms["deadlocked"]), set(traces.deadlocked))
        found["different traces"] = (len(set(forms["complete"])), len(forms["complete"]))
    return [
        f"{strategy}: {what}: {got} instead of {wanted}\n{text_of(program)}"
        for what, (got, wanted) in found.items()
        if got != wanted
    ]
