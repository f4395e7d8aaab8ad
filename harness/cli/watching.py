"""--inject and --ring of `stress`: what its observers do, and what they say afterwards."""

from __future__ import annotations

import argparse

from harness.cli.speaker import Speaker
from harness.report import store
from harness.report.tables import count
from harness.run.session import Result
from harness.watch.inject import parse_injection
from harness.watch.ring import ROWS_MAX
from harness.watch.stress import Watching
from workloads.plan import Workload
from workloads.units import whole


def add_watch_arguments(parser: argparse.ArgumentParser, workload: Workload) -> None:
    """What a workload's actors can be watched by; a workload's `RING` is its own default."""
    parser.add_argument(
        "--inject",
        type=parse_injection,
        metavar="KIND=P,...",
        help="make the model fail or wait at random: retry=P,cmpxchg=P,contention=P,delay=P:NS."
        " P is a probability: that a fault is sent back as stale, that a compare-and-swap of an"
        " entry fails, that a walk yields mmu_lock, that an actor waits NS nanoseconds before a"
        " step. 16 failures in a row are the most",
    )
    default: int = getattr(workload, "RING", 0)
    parser.add_argument(
        "--ring",
        type=whole("the ring", 0, ROWS_MAX),
        default=default,
        metavar="N",
        help="keep each actor's last N events (faults, changed entries, invalidations, ...), and"
        " store those of all when a violation, a death or the watchdog ends the run; 0: none"
        f" (default {default})",
    )
    parser.add_argument(
        "--ring-steps",
        action="store_true",
        help="with --ring: keep every step as well; all that an actor does takes several times"
        " as long, and the rings reach less far back",
    )


def watching(args: argparse.Namespace) -> Watching:
    """What the options ask for; a patched model is always kept within its block."""
    seed = getattr(args, "seed", 0)
    return Watching(
        bounds=bool(args.patch),
        inject=args.inject,
        ring=args.ring,
        ring_steps=args.ring_steps,
        seed=seed,
    )


def say_injected(result: Result, say: Speaker) -> None:
    """How often each kind was injected."""
    if result.injected:
        parts = [
            f"{name} {count(each['injected'])} of {count(each['chances'])}"
            for name, each in result.injected.items()
        ]
        say(f"injected: {', '.join(parts)}")


def store_ring(
    result: Result, variant: str, folder: store.RunFolder, say: Speaker
) -> dict[str, object] | None:
    """The last events: all of them into the run's folder, their end on the screen."""
    if result.ring is None:
        return None
    name = f"ring-{variant}.jsonl" if variant else "ring.jsonl"
    folder.write_text(name, result.ring.json_lines())
    say(f"the last events before the end, of {count(len(result.ring.records))} in {name}:")
    for line in result.ring.shown():
        say(line)
    return {"file": name, "events": len(result.ring.records)}
