"""`python -m tests.explore.traces`: exhaust every scenario of the model and count its traces."""

from __future__ import annotations

import sys

from tabulate import tabulate

from harness.explore.explorer import Bounds, Explorer, Result
from mmu.machine.kernel import warm
from workloads.scenarios.registry import SCENARIOS, load

SECONDS_MAX = 60.0


def exhaust(name: str) -> Result:
    """Explore one scenario with dpor."""
    explorer = Explorer(load(name), "dpor", Bounds(seconds=SECONDS_MAX))
    result = explorer.run()
    explorer.close()
    return result


def main() -> int:
    """0 if every scenario was exhausted and none accused."""
    for name in SCENARIOS:
        load(name)
    warm()
    rows, fine = [], True
    for name in SCENARIOS:
        result = exhaust(name)
        found = ", ".join(each.oracle for each in result.findings) or "nothing"
        fine = fine and result.exhausted and not result.findings
        said = "exhausted" if result.exhausted else f"not exhausted: {result.bound}"
        rows.append([name, result.executions, result.blocked, result.depth, said, found])
        print(f"{name}: {result.executions} in {result.seconds:.1f} s", file=sys.stderr)
    heads = ["scenario", "traces", "cut", "longest", "dpor", "found"]
    print(tabulate(rows, heads, "github"))
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
