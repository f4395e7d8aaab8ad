"""Options that several workloads share, with the letters of the KVM selftests, and what follows."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mmu.machine.layout import ACTORS_MAX
from mmu.policy import POLICIES
from mmu.vm import VmConfig
from workloads.errors import UsageError
from workloads.units import parse_backing, parse_cores, parse_size, parse_tick, whole

PAGE_BYTES = 4096
LEVEL_PAGES = {1: 1, 2: 512, 3: 512 * 512}
LEVEL_NAMES = {1: "4k", 2: "2m", 3: "1g"}
MEMORY_BYTES_MAX = 64 << 40
PHYSICAL_BYTES_MAX = 1 << 46  # a frame's owner field has 34 bits


def add_vcpus(parser: argparse.ArgumentParser, default: int = 1) -> None:
    """-v."""
    parser.add_argument(
        "-v",
        "--vcpus",
        type=whole("vCPUs", 1, ACTORS_MAX - 8),
        default=default,
        metavar="N",
        help=f"vCPU processes (default {default})",
    )


def add_pin(parser: argparse.ArgumentParser) -> None:
    """-c."""
    parser.add_argument(
        "-c",
        "--pin",
        type=parse_cores,
        default=(),
        metavar="CPULIST",
        help="pin vCPU i to the i-th core of a list such as 0,1,0,1; one more entry pins the"
        " thread that makes the ioctls",
    )


def check_pins(args: argparse.Namespace, actors: int) -> None:
    """Raise UsageError unless the list has an entry per vCPU, or per actor, of usable cores."""
    if not args.pin:
        return
    if len(args.pin) not in (args.vcpus, actors):
        raise UsageError(f"-c has {len(args.pin)} cores for {args.vcpus} vCPUs: give one for each")
    usable = os.sched_getaffinity(0)
    for core in args.pin:
        if core not in usable:
            raise UsageError(f"-c names core {core}; usable here: {sorted(usable)}")


def add_memory(parser: argparse.ArgumentParser, per_vcpu: str = "1G") -> None:
    """-b, -s, -o, -x, -p: how much memory, backed by what, shared how."""
    parser.add_argument(
        "-b",
        "--bytes-per-vcpu",
        type=parse_size,
        default=parse_size(per_vcpu),
        metavar="SIZE",
        help=f"guest memory per vCPU: 64M, 1G, ... (default {per_vcpu})",
    )
    add_backing(parser)
    parser.add_argument(
        "-o",
        "--overlap",
        action="store_true",
        help="every vCPU touches all memory (default: each its own part)",
    )


def add_backing(parser: argparse.ArgumentParser) -> None:
    """-s."""
    parser.add_argument(
        "-s",
        "--backing",
        type=parse_backing,
        default=1,
        metavar="SIZE",
        help="host pages: 4k, 2m, 1g, or the selftests' names such as anonymous_hugetlb_1gb"
        " (default 4k)",
    )


def add_guest_mode(parser: argparse.ArgumentParser) -> None:
    """-m."""
    parser.add_argument(
        "-m",
        dest="guest_mode",
        type=whole("the guest mode", 0, 0),
        default=0,
        metavar="ID",
        help="guest mode; x86 has one, 0",
    )


def add_machine(
    parser: argparse.ArgumentParser,
    policies: tuple[str, ...],
    *,
    seeded: bool = True,
    drawn: bool = False,
) -> None:
    """Policies and what the host's scheduler would decide; -r where anything is random.

    `drawn`: a policy that is not given is None, for the workload to draw by its seed.
    """
    for name in policies:
        text, values = POLICIES[name]
        default = "eager" if name == "huge-split" else values[0]
        said = "by the seed" if drawn else default
        parser.add_argument(
            f"--{name}",
            choices=values,
            default=None if drawn else default,
            help=f"{text} (default {said})",
        )
    parser.add_argument(
        "--no-pml",
        dest="pml",
        action="store_false",
        help="no page-modification log: dirty logging write-protects instead of clearing D",
    )
    parser.add_argument(
        "--no-ad",
        dest="ad",
        action="store_false",
        help="hardware without accessed and dirty bits (and so without PML): ageing takes"
        " permissions away, dirty logging write-protects",
    )
    parser.add_argument(
        "--no-nx-huge-pages",
        dest="nx_huge_pages",
        action="store_false",
        help="huge pages may be executable (KVM: nx_huge_pages=0)",
    )
    parser.add_argument(
        "--tick-ms",
        type=parse_tick,
        default=4.0,
        metavar="MS",
        help="scheduler tick after which a long walk yields mmu_lock (default 4)",
    )
    if seeded:
        parser.add_argument(
            "-r",
            "--seed",
            type=whole("the random seed", 0, (1 << 31) - 1),
            default=1,
            metavar="N",
            help="random seed; vCPU i uses seed + i (default 1)",
        )


def guest_pages(args: argparse.Namespace) -> int:
    """Pages of all vCPUs together, checked against the backing size."""
    unit = LEVEL_PAGES[args.backing] * PAGE_BYTES
    if args.bytes_per_vcpu % unit:
        raise UsageError(
            f"-b {args.bytes_per_vcpu} bytes per vCPU is no multiple of the backing page"
            f" (-s {LEVEL_NAMES[args.backing]}): give a multiple of {unit >> 10}k or a smaller -s"
        )
    total = int(args.bytes_per_vcpu) * int(args.vcpus)
    if total > MEMORY_BYTES_MAX:
        raise UsageError(
            f"{args.vcpus} vCPUs x {args.bytes_per_vcpu >> 20}M is more guest memory than 64T,"
            " the most that is modelled: give fewer vCPUs or a smaller -b"
        )
    return total // PAGE_BYTES


def physical_base(args: argparse.Namespace) -> int:
    """First gfn of the memory (-p), checked against the backing size."""
    unit = LEVEL_PAGES[args.backing] * PAGE_BYTES
    if args.phys_offset % unit:
        raise UsageError(f"-p {args.phys_offset} is no multiple of the backing page (-s)")
    if args.phys_offset + args.bytes_per_vcpu * args.vcpus > PHYSICAL_BYTES_MAX:
        raise UsageError(f"-p {args.phys_offset} leaves no room below the 48 bits of 4 levels")
    return int(args.phys_offset) // PAGE_BYTES


def vm_config(args: argparse.Namespace, pages: int, **more: Any) -> VmConfig:
    """The VM that the options describe."""
    return VmConfig(
        vcpus=args.vcpus,
        pages=pages,
        backing_level=args.backing,
        huge_split=getattr(args, "huge_split", "eager"),
        flush=args.flush,
        root_life=getattr(args, "root_life", "put"),
        zap_by=getattr(args, "zap_by", "caller"),
        zap_steps=getattr(args, "zap_steps", "1g"),
        ad=args.ad,
        pml=args.pml,
        dirty_log_mode=getattr(args, "dirty_log_mode", "get"),
        nx_huge_pages=args.nx_huge_pages,
        tick_ms=args.tick_ms,
        **more,
    )
