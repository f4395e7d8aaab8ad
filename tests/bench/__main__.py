"""`python -m tests.bench`: speed against C, the hook's price, waiting, exploring.

What is compared runs in turns, in both orders, on a fresh VM each time; a ratio is the median of
the pairs' ratios, since a noisy machine disturbs both runs of a pair alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tabulate import tabulate

from harness.run.warm import warm
from tests.bench import explore, measure
from tests.bench.kernels import empty_hook
from tests.bench.measure import Contestant, Waits
from tests.bench.twin import Twin, compiler
from workloads.errors import RunFailed

CAS_RATIO_MIN = 0.95
POPULATE_RATIO_MIN = 0.9
FLUSH_P50_US_MAX = 50.0
FLUSH_P99_US_MAX = 5_000.0
WRITER_P99_US_MAX = 20_000.0
EXPLORE_RATES_MIN = {("dpor", 2): 5e5, ("random", 2): 5e5, ("dpor", 3): 3e5, ("random", 3): 3e5}
EXPLORE_GROWTH_MB_MAX = 2.0


@dataclass(frozen=True)
class Effort:
    """How long to measure.  Pairs are odd, so that a median is one that happened."""

    cas_pairs: int = 15
    cas_seconds: float = 0.2
    populate_pairs: int = 21
    populate_pages: int = 1 << 19
    vcpus: int = 96
    wait_seconds: float = 5.0
    explore_turns: int = 7
    explore_seconds: float = 1.0
    explore_executions: int = 10_000_000


QUICK = Effort(
    cas_pairs=5,
    cas_seconds=0.1,
    populate_pairs=5,
    populate_pages=1 << 17,
    wait_seconds=1.5,
    explore_turns=3,
    explore_seconds=0.2,
    explore_executions=500_000,
)


@dataclass
class Report:
    """What was measured so far, and how it compares with what is wanted."""

    verdicts: list[str] = field(default_factory=list)

    def at_least(self, what: str, reached: float, wanted: float) -> None:
        """A ratio that must not be smaller."""
        miss = "met" if reached >= wanted else f"missed by {100 * (1 - reached / wanted):.0f} %"
        self.verdicts.append(f"{what}: {reached:.3f}, target at least {wanted}: {miss}")

    def at_most(self, what: str, reached_us: float, wanted_us: float) -> None:
        """A time that must not be longer."""
        miss = "met" if reached_us <= wanted_us else f"missed, {reached_us / wanted_us:.1f} times"
        self.verdicts.append(
            f"{what}: {reached_us:.1f} us, target at most {wanted_us:g} us: {miss}"
        )


def in_turns(
    contestants: Sequence[Contestant], pairs: int, run: Callable[[Contestant], float]
) -> list[list[float]]:
    """`run` every contestant `pairs` times, in turns, each second turn backwards."""
    figures: list[list[float]] = [[] for _ in contestants]
    for pair in range(pairs):
        order = list(range(len(contestants)))
        for i in order if pair % 2 == 0 else reversed(order):
            figures[i].append(run(contestants[i]))
    return figures


def spread(values: Sequence[float], digits: int) -> str:
    """Median and quartiles."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return f"{median:.{digits}f} [{q1:.{digits}f}, {q3:.{digits}f}]"


def bench_cas(twin: Twin, effort: Effort, report: Report) -> None:
    """Compare-and-swap: alone, and two processes on one word."""
    rows = []
    for processes, name in ((1, "alone"), (2, "two processes, one word")):

        def run(contestant: Contestant, processes: int = processes) -> float:
            return measure.cas_rate(contestant, processes, effort.cas_seconds)

        c, model = in_turns((measure.in_c(twin), measure.model()), effort.cas_pairs, run)
        ratios = [mine / theirs for mine, theirs in zip(model, c, strict=True)]
        rows.append([name, spread(c, 1), spread(model, 1), spread(ratios, 3)])
        report.at_least(f"CAS, {name}, model / C", float(np.median(ratios)), CAS_RATIO_MIN)
    print(
        f"\nCompare-and-swap loops, successes in M/s of CPU time"
        f" (median [quartiles] of {len(c)} pairs)\n"
    )
    print(tabulate(rows, ["CAS", "C", "model", "model / C"], "github"))


def bench_populate(twin: Twin, effort: Effort, report: Report) -> None:
    """Populating 4K pages by guest writes in order, each by its own VM exit and page fault."""
    hook = empty_hook()
    contestants = (
        measure.in_c(twin),
        measure.model(),
        measure.model("model, empty hook", hook.address),
    )
    rows = []
    for processes, name in ((1, "one process"), (2, "two processes, one VM")):

        def run(contestant: Contestant, processes: int = processes) -> float:
            return measure.populate_ns(contestant, processes, effort.populate_pages)

        c, model, hooked = in_turns(contestants, effort.populate_pairs, run)
        ratios = [theirs / mine for mine, theirs in zip(model, c, strict=True)]
        prices = [slow / plain for slow, plain in zip(hooked, model, strict=True)]
        figures = [spread(each, 1) for each in (c, model)]
        hooks = [spread(hooked, 1), spread(prices, 2)]
        rows.append([name, *figures, spread(ratios, 3), *hooks])
        report.at_least(
            f"populate, {name}, model / C", float(np.median(ratios)), POPULATE_RATIO_MIN
        )
    print(
        f"\nPopulating {effort.populate_pages:,} 4K pages per process, ns of CPU time per page"
        f" (median [quartiles] of {len(c)} turns; host memory mapped before)\n"
    )
    heads = ["populate", "C", "model", "rates, model / C", "model, empty hook", "hook / no hook"]
    print(tabulate(rows, heads, "github"))


def bench_waiting(effort: Effort, report: Report) -> None:
    """How long one actor waits for many vCPU processes on this machine's few cores."""
    flush = measure.flush_waits(effort.vcpus, effort.wait_seconds)
    writer = measure.writer_waits(effort.vcpus, effort.wait_seconds)
    rows = [
        _waits_row("remote flush of one page; vCPUs read and write", flush),
        _waits_row("mmu_lock for write; vCPUs fault and unmap", writer),
    ]
    print(f"\nWaiting for {effort.vcpus} vCPU processes, {effort.wait_seconds:g} s each, in us\n")
    print(tabulate(rows, ["one more process waits for", "n", "p50", "p99", "max"], "github"))
    report.at_most(f"flush, {effort.vcpus} vCPUs, p50", flush.p50, FLUSH_P50_US_MAX)
    report.at_most(f"flush, {effort.vcpus} vCPUs, p99", flush.p99, FLUSH_P99_US_MAX)
    report.at_most(f"writer, {effort.vcpus} vCPUs, p99", writer.p99, WRITER_P99_US_MAX)


def _waits_row(name: str, waits: Waits) -> list[str]:
    return [name, str(waits.count), *(f"{t:.1f}" for t in (waits.p50, waits.p99, waits.longest))]


def bench_explore(effort: Effort, report: Report) -> None:
    """Executions per second of one exploring process, strategies in turns."""
    rows = []
    for actors in (2, 3):
        figures: dict[str, list[float]] = {name: [] for name in explore.STRATEGIES}
        plain = []
        for turn in range(effort.explore_turns):
            plain.append(explore.plain_rate(actors) / 1e6)
            names = explore.STRATEGIES if turn % 2 == 0 else explore.STRATEGIES[::-1]
            for name in names:
                figures[name].append(explore.rate(name, actors, effort.explore_seconds) / 1e6)
        cells = [spread(figures[name], 2) for name in explore.STRATEGIES]
        rows.append([f"{actors} x {explore.ADDS} fetch-adds", spread(plain, 2), *cells])
        for (name, count), wanted in EXPLORE_RATES_MIN.items():
            if count == actors:
                what = f"explore, {name}, {actors} actors, M executions/s"
                report.at_least(what, float(np.median(figures[name])), wanted / 1e6)
    print(
        f"\nExploring, complete executions in M/s of CPU time of one core (median [quartiles] of"
        f" {effort.explore_turns} turns; unscheduled: the same steps with nobody watching)\n"
    )
    print(tabulate(rows, ["program", "unscheduled", *explore.STRATEGIES], "github"))
    before, after = (size / 2**20 for size in explore.memory_growth(effort.explore_executions))
    print(
        f"\nResident memory over {effort.explore_executions:,} executions:"
        f" {before:.1f} MB at the start, {after:.1f} MB at the end"
    )
    grown = after - before
    miss = "met" if grown <= EXPLORE_GROWTH_MB_MAX else "missed"
    report.verdicts.append(
        f"explore, memory growth: {grown:.1f} MB, target at most {EXPLORE_GROWTH_MB_MAX} MB: {miss}"
    )


def _progress(done: int, total: int, seconds: float) -> None:
    end = "\n" if done == total else ""
    if sys.stderr.isatty() or end:
        print(f"\rcompiled {done}/{total}, {seconds:.0f} s", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """Measure everything; 0 unless something could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: about 20 s")
    effort = QUICK if parser.parse_args().quick else Effort()
    if compiler() is None:
        print("tests.bench: gcc is needed for the C twin", file=sys.stderr)
        return 1
    warm(_progress)
    began = time.monotonic()
    # With other work on the cores, two processes meet less often than they would alone.
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} cores, load average {load:.1f} at the start")
    report = Report()
    try:
        twin = Twin()
        bench_cas(twin, effort, report)
        bench_populate(twin, effort, report)
        bench_waiting(effort, report)
        bench_explore(effort, report)
    except (RunFailed, RuntimeError, OSError) as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\nTargets ({time.monotonic() - began:.0f} s)\n")
    print("\n".join(report.verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
