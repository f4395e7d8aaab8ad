"""`python -m tests.explore.fuzz`: random programs against the naive enumerator, many of them."""

from __future__ import annotations

import argparse
import sys
import time

from harness.run.warm import warm
from tests.explore.check_program import complaints
from tests.explore.naive import enumerate_traces
from tests.explore.programs import generate

REPORT_S = 5.0


def main() -> int:
    """0 if every program agrees."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=50_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1_000_000, metavar="N", help="of the first")
    args = parser.parse_args()
    warm()
    began = said = time.monotonic()
    checked = skipped = traces_seen = wrong = 0
    for seed in range(args.seed, args.seed + args.programs):
        program = generate(seed)
        traces = enumerate_traces(program)
        if traces is None:
            skipped += 1
            continue
        checked += 1
        traces_seen += len(traces.complete) + len(traces.deadlocked)
        for strategy in ("dpor", "optimal"):
            for complaint in complaints(program, strategy, traces):
                wrong += 1
                print(f"seed {seed}: {complaint}", flush=True)
        if time.monotonic() - said > REPORT_S:
            said = time.monotonic()
            left = (said - began) / checked * (args.seed + args.programs - seed)
            print(f"{checked} programs, {wrong} wrong, {left:.0f} s left", file=sys.stderr)
    print(
        f"{checked} programs with {traces_seen:,} traces in {time.monotonic() - began:.0f} s:"
        f" {wrong} disagreements; {skipped} were too large for the naive enumerator"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
