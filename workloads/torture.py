"""`torture`: everybody at once, for some time, on little memory.  Clean or not.

vCPUs read, write and execute pages at random, change their roots and access holes; the host takes
pages away that they have just touched, write-protects them, splits and collapses huge pages and
looks for old ones; memslots in use come, go and move, each time invalidating all roots; NX
recovery gives huge pages back; a live migration runs and must end with equal memory; the VM dies
and is made anew.

Which of these a run does, and under which policies, follows from its seed (swarm testing): about
half of it, printed at the beginning.  Options name what must be on, off or chosen.  A run in which
some actor did less than its floor, a rate far below what a busy machine does, has failed: it
would have tested less than it says.

With little memory (`-s 4k -b 64k`) vCPUs find most of it in their TLBs when the host takes it away:
a missing flush or kick shows there.  With more of it, faults and zaps race more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.cpu import Cpu
from mmu.machine.layout import RANDOM
from mmu.machine.primitives import own, set_own
from mmu.policy import POLICIES as ALL_POLICIES
from mmu.zap_all import create_vm
from workloads.actors.ending import destroy
from workloads.actors.host_threads import age_turn, ksm_turn, nx_turn, reclaim_turn, thp_turn
from workloads.actors.memstress import random_seed
from workloads.actors.migration import begin_running, end_running, migrate
from workloads.actors.tracking import tracking_turn
from workloads.actors.turmoil import (
    ACCESSES_HOLES,
    BACKLOG_MAX,
    EXECUTES,
    PREFAULTS,
    ROLES,
    guest_turn,
    slots_turn,
)
from workloads.actors.turmoil_words import copy_offset, words_needed
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
from workloads.plan import (
    HOST,
    IDLE_SCAN,
    MIGRATION,
    NX_RECOVERY,
    VCPU,
    VMM,
    Actor,
    Part,
    Phase,
    Plan,
)
from workloads.rates import check_rates, rate_lines, report_counts
from workloads.swarm import FEATURES, choose, pick
from workloads.units import parse_backing, parse_duration, whole

NAME = "torture"
HELP = "everybody at once, as the seed says; clean or not"
POLICIES = ("root-life", "zap-by", "zap-steps", "huge-split", "flush", "dirty-log-mode")
RING = 4000  # events of each actor that are kept for the case that a rule is broken
EXAMPLES = (
    "-v 8 --seconds 60",
    "-v 4 --seconds 60 --seed 7 --with migration,reclaim --without rebirth",
    "-v 2 -s 4k -b 64k --seconds 60 --zap-by worker",
)
LIFE_SECONDS = 10.0  # how long a VM lives that is to die several times
ROUNDS = 3  # of a migration, before the last one
KSM, KHUGEPAGED, PAGE_TRACK = "ksm", "khugepaged", "page track"
NX_PERIOD_SECONDS = 0.002
ROOT_SWITCHES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much of it, and for how long."""
    add_vcpus(parser)
    add_pin(parser)
    add_memory(parser, "8M")
    parser.set_defaults(backing=parse_backing("2m"))
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        default=10.0,
        metavar="TIME",
        help="how long: 60, 90s, 10m (default 10)",
    )
    for option, text in (("with", "on"), ("without", "off")):
        parser.add_argument(
            f"--{option}",
            dest=f"features_{text}",
            type=_features,
            default=(),
            metavar="LIST",
            help=f"features to switch {text} whatever the seed says, or all: {', '.join(FEATURES)}"
            if text == "on"
            else f"features to switch {text}, or all",
        )
    parser.add_argument(
        "--root-switches",
        type=whole("the turns", 1, 1 << 20),
        default=ROOT_SWITCHES,
        metavar="N",
        help="with the feature roots: a vCPU loads another root once in N turns of 256 accesses,"
        f" unless the zap worker is behind (default {ROOT_SWITCHES})",
    )
    parser.add_argument(
        "--no-floors",
        dest="floors",
        action="store_false",
        help="do not fail the run if somebody did less than its floor: for injections that leave"
        " nobody much to do",
    )
    add_machine(parser, POLICIES, drawn=True)


def _features(text: str) -> tuple[str, ...]:
    """A list of features, or `all`."""
    names = tuple(FEATURES) if text == "all" else tuple(text.split(","))
    for name in names:
        if name not in FEATURES:
            raise argparse.ArgumentTypeError(
                f"{name!r} is no feature; there are: {', '.join(FEATURES)}"
            )
    return names


# --- Parts ---------------------------------------------------------------------------------------


def _seed(actor: Actor, seed: int) -> None:
    if own(actor.cpu, RANDOM) == 0:
        set_own(actor.cpu, RANDOM, random_seed(seed))


def _guest(args: argparse.Namespace, features: Mapping[str, bool], pages: int) -> Part:
    extras = EXECUTES * features["execute"] | ACCESSES_HOLES * features["mmio"]
    extras |= PREFAULTS * features["prefault"]
    switches = args.root_switches if features["roots"] else 0

    def part(actor: Actor) -> None:
        config = actor.vm.config
        _seed(actor, args.seed + actor.index)
        begin_running(actor.cpu)
        vcpu_load(actor.cpu)
        arguments = (config.gfn_base, pages, config.levels, switches, extras)
        actor.run_for(args.life, guest_turn, *arguments, config.gfn_base + _window(pages))
        vcpu_put(actor.cpu)
        end_running(actor.cpu)

    return part


def _window(pages: int) -> int:
    """How far other places of the same host pages are."""
    return 1 << (pages - 1).bit_length()


def _slots(args: argparse.Namespace, pages: int) -> Part:
    def part(actor: Actor) -> None:
        _seed(actor, args.seed + 2000)
        (_, (main, _), (spare, _)) = actor.vm.config.memslots()
        actor.run_for(args.life, slots_turn, 1, main, _window(pages), 2, spare)

    return part


def _migrations(args: argparse.Namespace, pages: int) -> Part:
    def part(actor: Actor) -> None:
        actor.run_for(args.life, migrate, copy_offset(args.vcpus), pages, ROUNDS)

    return part


def _turns(args: argparse.Namespace, seed: int, turn: Callable[..., int], *arguments: int) -> Part:
    """One change after the other, for as long as the VM lives."""

    def part(actor: Actor) -> None:
        _seed(actor, args.seed + seed)
        actor.run_for(args.life, turn, *arguments)

    return part


def _nx_recovery(args: argparse.Namespace) -> Part:
    """The thread sleeps between its turns: it would leave no table standing."""

    def turn(cpu: Cpu) -> int:
        time.sleep(NX_PERIOD_SECONDS)
        return int(nx_turn(cpu))

    def part(actor: Actor) -> None:
        actor.run_for(args.life, turn)

    return part


def _helpers(args: argparse.Namespace, features: Mapping[str, bool], pages: int) -> dict[str, Part]:
    """{role: its part} of everybody but the vCPUs and the monitor, as far as switched on."""
    everybody: dict[str, tuple[str, Part]] = {
        HOST: ("reclaim", _turns(args, 1000, reclaim_turn)),
        KSM: ("ksm", _turns(args, 1001, ksm_turn)),
        IDLE_SCAN: ("ageing", _turns(args, 1003, age_turn)),
        NX_RECOVERY: ("nx-recovery", _nx_recovery(args)),
        PAGE_TRACK: ("tracking", _turns(args, 1004, tracking_turn)),
        KHUGEPAGED: ("thp", _turns(args, 1002, thp_turn, pages)),
        MIGRATION: ("migration", _migrations(args, pages)),
    }
    return {role: part for role, (feature, part) in everybody.items() if features[feature]}


# --- Plan ----------------------------------------------------------------------------------------


def _drawn(args: argparse.Namespace) -> argparse.Namespace:
    """The options, with a policy by the seed wherever none was given."""
    drawn = {}
    for policy in POLICIES:
        name = policy.replace("-", "_")
        if getattr(args, name) is None:
            drawn[name] = pick(args.seed, policy, ALL_POLICIES[policy][1])
    return argparse.Namespace(**{**vars(args), **drawn})


def _lives(args: argparse.Namespace, features: Mapping[str, bool]) -> int:
    """How many VMs follow each other."""
    return max(round(args.seconds / LIFE_SECONDS), 2) if features["rebirth"] else 1


def _phases(lives: int, seconds: float, alive: Mapping[str, Part], last: Part) -> list[Phase]:
    """Each life: everybody at once, then its end; at the very end what was done is looked at."""
    phases = []
    for life in range(1, lives + 1):
        name, line = ("torture", "Torture") if lives == 1 else (f"life {life}", f"Life {life}")
        phases.append(Phase(name, f"{line} time: {{seconds}}", alive, lasts=seconds))
        text = "" if lives == 1 else f" {life}"
        phases.append(
            Phase(f"destroy{text}", f"Destroying VM{text} time: {{seconds}}", {VMM: destroy})
        )
        if life < lives:
            birth = {VMM: lambda actor: create_vm(actor.cpu)}
            phases.append(
                Phase(f"create {life + 1}", f"Creating VM {life + 1} time: {{seconds}}", birth)
            )
    return [*phases, Phase("rates", "", {VMM: last}, lines=lambda *_: [])]


def plan(args: argparse.Namespace) -> Plan:
    """Three memslots: one that stays, one that moves, one that comes and goes."""
    pages = guest_pages(args)
    unit = 512 ** (args.backing - 1)
    if pages < 4 * unit:
        raise UsageError(
            "torture needs four backing pages at least: give more vCPUs, a larger -b or -s 4k"
        )
    features = choose(args.seed, args.features_on, args.features_off, args.backing > 1)
    args = _drawn(args)
    args.ad, args.pml = args.ad and features["ad"], args.pml and features["pml"]
    lives = _lives(args, features)
    args.life = args.seconds / lives
    helpers = _helpers(args, features, pages)
    services = worker_service(args.zap_by)
    roles = (VCPU,) * args.vcpus + (VMM, *helpers, *services)
    check_pins(args, len(roles))
    alive: dict[str, Part] = {VCPU: _guest(args, features, pages), **helpers}
    if features["slots"]:
        alive[VMM] = _slots(args, pages)
    quarter = pages // 4 // unit * unit

    def last(actor: Actor) -> None:
        report_counts(actor)
        if args.floors:
            check_rates(actor, features, args.seconds, len(roles))

    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            pages,
            helpers=len(roles) - args.vcpus,
            slots=3,
            absent_slots=1 if features["slots"] else 0,
            slot_pages=(pages - 2 * quarter, quarter, quarter),
            # Valid ones, as many that a memslot change invalidated, those that wait for the
            # worker, and what vCPUs drop before they see that it is behind.
            roots=2 * ROLES + BACKLOG_MAX + args.vcpus,
            levels_max=5 if features["roots"] else 0,
            spare_frames=max(pages // 8, 64),
            rcu_batch=64,
            write_tracking=features["tracking"],
            workload_words=words_needed(args.vcpus, pages),
        ),
        roles=roles,
        phases=tuple(_phases(lives, args.life, alive, last)),
        headline="torture" if lives == 1 else "life 1",
        counted=("torture" if lives == 1 else "life 1",),
        header=_header(args, features),
        summary=lambda _, counters: rate_lines(features, args.seconds, len(roles), counters),
        services=services,
        pins=args.pin,
        features=features,
    )


def _header(args: argparse.Namespace, features: Mapping[str, bool]) -> tuple[str, ...]:
    """What this run does and does not, and how."""
    lists = {
        text: ", ".join(name for name in FEATURES if features[name] == state) or "nothing"
        for text, state in (("on", True), ("off", False))
    }
    policies = (f"{name} {getattr(args, name.replace('-', '_'))}" for name in POLICIES)
    return (
        f"Random seed: {args.seed}",
        f"On:  {lists['on']}",
        f"Off: {lists['off']}",
        f"Policies: {', '.join(policies)}",
    )
