"""`torture`: everything that changes mappings at once, for some time, on little memory.

vCPUs read, write and execute pages at random, and change their root now and then; the host swaps
pages out, looks for those that are not used, moves and write-protects them, splits and collapses
huge pages; a thread of the monitor adds, deletes and moves memslots that are in use, each of which
invalidates all roots; the zap worker zaps these.  There is no figure to compare: the run is clean
or it is not.

With little memory (`-b 64k`) vCPUs find most of it in their TLBs when the host takes it away: a
missing flush or kick shows there.  With more of it, faults and zaps race more.
"""

from __future__ import annotations

import argparse

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.layout import RANDOM
from mmu.machine.primitives import own, set_own
from mmu.zap_all import destroy_vm
from workloads.actors.memstress import random_seed
from workloads.actors.turmoil import BACKLOG_MAX, ROLES, guest_turn, host_turn, slots_turn
from workloads.actors.zap_worker import worker_service
from workloads.errors import UsageError
from workloads.options import (
    add_machine,
    add_memory,
    add_pin,
    add_vcpus,
    check_pins,
    guest_pages,
    vm_config,
)
from workloads.plan import HOST, VCPU, VMM, Actor, Part, Phase, Plan
from workloads.units import parse_duration, whole

NAME = "torture"
HELP = "faults, host changes, memslots, roots and the zap worker at once; clean or not"
POLICIES = ("root-life", "zap-by", "zap-steps", "huge-split", "flush")
EXAMPLES = (
    "-v 4 --seconds 60",
    "-v 2 -b 64k --seconds 60",
    "-v 4 -s 2m -b 16M --seconds 10m --root-life owned --zap-by caller",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much of it, and for how long."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser, "4M")
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        default=10.0,
        metavar="TIME",
        help="how long: 60, 90s, 10m (default 10)",
    )
    parser.add_argument(
        "--root-switches",
        type=whole("the turns", 0, 1 << 20),
        default=64,
        metavar="N",
        help="a vCPU loads another root once in N turns of 256 accesses, unless the zap worker is"
        " behind (default 64; 0: never)",
    )
    add_machine(parser, POLICIES)


def _seed(actor: Actor, seed: int) -> None:
    if own(actor.cpu, RANDOM) == 0:
        set_own(actor.cpu, RANDOM, random_seed(seed))


def _guest(args: argparse.Namespace, pages: int) -> Part:
    def part(actor: Actor) -> None:
        config = actor.vm.config
        _seed(actor, args.seed + actor.index)
        vcpu_load(actor.cpu)
        arguments = (config.gfn_base, pages, config.levels, args.root_switches)
        actor.run_for(args.seconds, guest_turn, *arguments)
        vcpu_put(actor.cpu)

    return part


def _host(args: argparse.Namespace, pages: int) -> Part:
    def part(actor: Actor) -> None:
        _seed(actor, args.seed + 1000)
        actor.run_for(args.seconds, host_turn, pages)

    return part


def _slots(args: argparse.Namespace) -> Part:
    def part(actor: Actor) -> None:
        config = actor.vm.config
        _seed(actor, args.seed + 2000)
        (_, (main, _), (spare, _)) = config.memslots()
        window = 1 << (config.pages - 1).bit_length()
        actor.run_for(args.seconds, slots_turn, 1, main, window, 2, spare)

    return part


def plan(args: argparse.Namespace) -> Plan:
    """Three memslots: one that stays, one that moves, one that comes and goes."""
    pages = guest_pages(args)
    unit = 512 ** (args.backing - 1)
    if pages < 4 * unit:
        raise UsageError(
            "torture needs four backing pages at least: give a larger -b or smaller -s"
        )
    quarter = pages // 4 // unit * unit
    services = worker_service(args.zap_by)
    roles = (VCPU,) * args.vcpus + (VMM, HOST, *services)
    check_pins(args, len(roles))
    parts = {VCPU: _guest(args, pages), HOST: _host(args, pages), VMM: _slots(args)}
    vm = vm_config(
        args,
        pages,
        helpers=len(roles) - args.vcpus,
        slots=3,
        absent_slots=1,
        slot_pages=(pages - 2 * quarter, quarter, quarter),
        # Valid ones, as many that a memslot change invalidated, those that wait for the worker,
        # and what vCPUs drop before they see that it is behind.
        roots=2 * ROLES + BACKLOG_MAX + args.vcpus,
        levels_max=5 if args.root_switches else 0,
        spare_frames=max(pages // 8, 64),
        rcu_batch=64,
    )
    return Plan(
        workload=NAME,
        vm=vm,
        roles=roles,
        phases=(
            Phase("torture", "Torture time: {seconds}", parts, lasts=args.seconds),
            Phase("destroy", "Destroying the VM: {seconds}", {VMM: lambda a: destroy_vm(a.cpu)}),
        ),
        headline="torture",
        counted=("torture",),
        services=services,
        pins=args.pin,
    )
