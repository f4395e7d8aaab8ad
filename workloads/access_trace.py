"""`access-trace`: replay a real memory-access trace (valgrind --tool=lackey --trace-mem=yes).

A reader process streams the file, plain or gzip; the vCPUs replay it as it comes.  Instruction
fetches are executes, and an access that crosses a page border is two.  The program's pages get
guest frames in the order of first touch, as a guest OS hands out memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.cpu import Cpu
from mmu.machine.futex import raw_load
from mmu.machine.layout import PHASE_WORK, WORK_DONE
from mmu.machine.primitives import set_own
from workloads.actors.replay import (
    CHUNK_ACCESSES,
    END_OF_TRACE,
    RING_CHUNKS,
    chunk_word,
    consume,
    freed_line,
    publish,
    published_line,
    replay_batch,
    ring_words,
    slowest,
)
from workloads.errors import UsageError
from workloads.options import (
    LEVEL_PAGES,
    PAGE_BYTES,
    add_backing,
    add_machine,
    add_pin,
    add_vcpus,
    check_pins,
    vm_config,
)
from workloads.plan import VCPU, Actor, Part, Phase, Plan
from workloads.traces.lackey import PageMap, TraceError, TraceReader
from workloads.units import parse_size

NAME = "access-trace"
HELP = "replay a valgrind lackey memory trace"
POLICIES = ("huge-split", "flush")
EXAMPLES = ("--trace workloads/traces/sort.lackey.gz -v 2",)
READER = "reader"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--trace, --share, --memory and the VM's options."""
    parser.add_argument(
        "--trace",
        type=Path,
        required=True,
        metavar="FILE",
        help="output of valgrind --tool=lackey --trace-mem=yes, plain or gzip",
    )
    parser.add_argument(
        "--share",
        choices=("replay", "split"),
        default="replay",
        help="every vCPU replays the whole trace, or they take turns (default replay)",
    )
    parser.add_argument(
        "--memory",
        type=parse_size,
        default=parse_size("1G"),
        metavar="SIZE",
        help="guest memory: at least the pages that the trace touches (default 1G)",
    )
    add_vcpus(parser)
    add_pin(parser)
    add_backing(parser)
    add_machine(parser, POLICIES)


def _reader(path: Path, pages: int) -> Part:
    """Stream the trace into the ring; what it counted goes into the run's counters."""

    def part(actor: Actor) -> None:
        cpu, vcpus = actor.cpu, actor.vm.config.vcpus
        reader, page_map = TraceReader(path, chunk_accesses=CHUNK_ACCESSES), PageMap(pages)

        def room(number: int) -> bool:
            return actor.wait_until(
                lambda: slowest(cpu, vcpus) > number - RING_CHUNKS, freed_line(cpu)
            )

        number = 0
        try:
            for chunk in reader:
                accesses = page_map.translate(chunk)
                if not room(number):
                    return
                publish(cpu, vcpus, number, accesses)
                number += 1
        except TraceError as error:
            raise UsageError(str(error)) from error
        if room(number):
            publish(cpu, vcpus, number, None)
        for kind, records in reader.records.items():
            actor.report(f"trace_records_{kind}", records)
        actor.report("trace_records", sum(reader.records.values()))
        actor.report("trace_accesses", reader.accesses)
        actor.report("trace_pages", page_map.pages)

    return part


def _has(cpu: Cpu, published: int, number: int) -> bool:
    return raw_load(cpu, published) > number


def _replayer(split: bool) -> Part:
    """Replay what the reader publishes, chunk by chunk."""

    def part(actor: Actor) -> None:
        cpu, vcpus = actor.cpu, actor.vm.config.vcpus
        published = published_line(cpu)
        turns, turn = (vcpus, actor.index) if split else (1, 0)
        number = dealt = 0
        vcpu_load(cpu)
        while not actor.stopping():
            if raw_load(cpu, published) <= number:
                # Asleep outside the guest: nobody has to wait for this vCPU meanwhile.
                vcpu_put(cpu)
                actor.wait_until(partial(_has, cpu, published, number), published)
                vcpu_load(cpu)
                continue
            chunk = chunk_word(cpu, vcpus, number)
            length = raw_load(cpu, chunk)
            if length == END_OF_TRACE:
                break
            set_own(cpu, WORK_DONE, 0)
            set_own(cpu, PHASE_WORK, 0)
            actor.run(replay_batch, chunk, dealt, turn, turns)
            consume(cpu, actor.index, number)
            dealt += length
            number += 1
        vcpu_put(cpu)

    return part


def _look_at(path: Path) -> None:
    """Read the beginning: a file that is no trace is refused before any process starts.

    It also compiles what the reader process would otherwise compile while the clock runs.
    """
    try:
        PageMap(CHUNK_ACCESSES).translate(next(iter(TraceReader(path, CHUNK_ACCESSES))))
    except TraceError as error:
        raise UsageError(str(error)) from error


def _summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    records, pages = counters["trace_records"], counters["trace_pages"]
    rate = records / seconds["replay"] / 1e6
    return [f"{records:,} records on {pages:,} pages; each vCPU is offered {rate:.2f} M records/s"]


def plan(args: argparse.Namespace) -> Plan:
    """Derive VM and phases; raises UsageError if the options do not fit together."""
    unit = LEVEL_PAGES[args.backing] * PAGE_BYTES
    if args.memory % unit:
        raise UsageError(f"--memory {args.memory} bytes is no multiple of the backing page (-s)")
    pages = args.memory // PAGE_BYTES
    check_pins(args, args.vcpus + 1)
    _look_at(args.trace)
    parts = {VCPU: _replayer(args.share == "split"), READER: _reader(args.trace, pages)}
    return Plan(
        workload=NAME,
        vm=vm_config(args, pages, workload_words=ring_words(args.vcpus)),
        roles=(VCPU,) * args.vcpus + (READER,),
        phases=(Phase("replay", "Replay time: {seconds}", parts),),
        pins=args.pin,
        headline="replay",
        counted=("replay",),
        summary=_summary,
    )
