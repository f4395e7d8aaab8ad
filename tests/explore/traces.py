"""`python -m tests.explore.traces [SCENARIO...]`: every scenario exhausted, or sampled for long.

dpor counts the traces.  What it cannot exhaust within 20 s is sampled, a million executions
by surw and a million by pos.  One scenario a core at a time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

from tabulate import tabulate

from harness.explore.explorer import Bounds, Explorer, Result
from harness.run.warm import warm
from workloads.scenarios.registry import SCENARIOS, load

SECONDS_MAX = 20.0
SAMPLES = 1_000_000


def explore(name: str, strategy: str, bounds: Bounds) -> Result:
    """Explore one scenario."""
    explorer = Explorer(load(name), strategy, bounds)
    result = explorer.run()
    explorer.close()
    print(f"{name}, {strategy}: {result.executions:,} in {result.seconds:.1f} s", file=sys.stderr)
    return result


def results_of(name: str) -> list[Result]:
    """dpor, and the samplers where that does not end."""
    first = explore(name, "dpor", Bounds(seconds=SECONDS_MAX))
    if first.exhausted or first.findings:
        return [first]
    sampled = Bounds(executions=SAMPLES)
    return [first, *(explore(name, strategy, sampled) for strategy in ("surw", "pos"))]


def row_of(name: str) -> tuple[list[str | int], bool]:
    """The scenario's row of the table, and whether it is as it must be."""
    results = results_of(name)
    findings = [each for result in results for each in result.findings]
    enough = results[0].exhausted or all(each.executions >= SAMPLES for each in results[1:])
    said = "exhausted" if results[0].exhausted else f"not exhausted: {results[0].bound}"
    said += "".join(f"; {each.strategy} {each.executions:,}" for each in results[1:])
    longest = max(each.depth for each in results)
    found = ", ".join(each.oracle for each in findings) or "nothing"
    row = [name, f"{results[0].executions:,}", results[0].blocked, longest, said, found]
    return row, enough and not findings


def main() -> int:
    """0 if every scenario was exhausted, or sampled as often as asked, and none accused."""
    names = sys.argv[1:] or list(SCENARIOS)
    for name in names:
        load(name)
    warm()
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(row_of, names))
    heads = ["scenario", "traces", "cut", "longest", "how", "found"]
    print(tabulate([row for row, _ in rows], heads, "github", disable_numparse=True))
    return int(not all(fine for _, fine in rows))


if __name__ == "__main__":
    sys.exit(main())
