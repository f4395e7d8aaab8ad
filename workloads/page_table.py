"""`page-table`: the selftests' kvm_page_table_test, with its flags, phases and printed lines.

All vCPUs use the same memory at once, so they contend for the same entries.  KVM_CREATE_MAPPINGS:
each touches every host page once, even vCPUs write, odd ones read.  KVM_UPDATE_MAPPINGS: dirty
logging is on; each vCPU writes the first 4K page of every host page, and reads those of its second
half, which splits it.  KVM_ADJUST_MAPPINGS: logging is off again; each vCPU reads every 4K page,
and what was split becomes huge again.

Each phase is judged at its end: after the first everything must be mapped at the host's page size,
after the second nothing any more if that is huge, after the third everything again; and every page
must hold every write.
"""

from __future__ import annotations

import argparse

import numpy as np

from mmu.dirty_log import disable_dirty_log, enable_dirty_log
from mmu.guest import (
    vcpu_load,
    vcpu_put,
)
from mmu.host.frames import VALUE_MASK, VALUE_SHIFT
from mmu.machine import layout as at
from mmu.machine.layout import PHASE_WORK, WORK_DONE
from mmu.machine.primitives import set_own
from mmu.spte import ACCESS_READ, ACCESS_WRITE
from mmu.vm import GFN_BASE, Vm
from workloads.actors.walking import walk_batch
from workloads.errors import RunFailed, UsageError
from workloads.options import (
    LEVEL_NAMES,
    LEVEL_PAGES,
    PAGE_BYTES,
    PHYSICAL_BYTES_MAX,
    add_backing,
    add_guest_mode,
    add_machine,
    add_pin,
    add_vcpus,
    check_pins,
    vm_config,
)
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, no_summary
from workloads.units import parse_size

NAME = "page-table"
HELP = "kvm_page_table_test: create, split and rebuild mappings that all vCPUs share"
POLICIES = ("huge-split", "flush")
EXAMPLES = ("-v 2 -b 256M -s 2m", "-v 4 -b 1G -s 1g --huge-split fault")
GUEST_VIRTUAL_BASE = 0xC0000000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    add_vcpus(parser)
    add_pin(parser)
    parser.add_argument(
        "-b",
        "--bytes",
        type=parse_size,
        default=parse_size("1G"),
        metavar="SIZE",
        help="guest memory, all of it used by every vCPU (default 1G)",
    )
    add_backing(parser)
    add_guest_mode(parser)
    parser.add_argument(
        "-p",
        "--phys-offset",
        type=parse_size,
        default=GFN_BASE * PAGE_BYTES,
        metavar="SIZE",
        help="guest physical address where the memory begins (default 4G)",
    )
    add_machine(parser, POLICIES, seeded=False)


# --- Parts ---------------------------------------------------------------------------------------


def _walk(actor: Actor, step: int, access: int, skip: int) -> None:
    """All of the memory once."""
    config = actor.vm.config
    set_own(actor.cpu, WORK_DONE, 0)
    set_own(actor.cpu, PHASE_WORK, config.pages // step)
    actor.run(walk_batch, config.gfn_base, config.pages, step, access, skip)


def _create(unit: int) -> Part:
    def part(actor: Actor) -> None:
        vcpu_load(actor.cpu)
        _walk(actor, unit, ACCESS_READ if actor.index % 2 else ACCESS_WRITE, 1)
        vcpu_put(actor.cpu)

    return part


def _update(unit: int) -> Part:
    def part(actor: Actor) -> None:
        vcpu_load(actor.cpu)
        _walk(actor, unit, ACCESS_WRITE, 1)
        if unit > 1:
            _walk(actor, 1, ACCESS_READ, unit)
        vcpu_put(actor.cpu)

    return part


def _adjust(actor: Actor) -> None:
    vcpu_load(actor.cpu)
    _walk(actor, 1, ACCESS_READ, 1)
    vcpu_put(actor.cpu)


def _start_logging(actor: Actor) -> None:
    if enable_dirty_log(actor.cpu, 0) != 0:
        raise RunFailed("no page-table page is left to split the memslot")


def _stop_logging(actor: Actor) -> None:
    disable_dirty_log(actor.cpu, 0)


# --- Judging -------------------------------------------------------------------------------------


def mappings(vm: Vm) -> dict[int, int]:
    """How many leafs there are at each level."""
    words = {1: at.STAT_PAGES_4K, 2: at.STAT_PAGES_2M, 3: at.STAT_PAGES_1G}
    return {level: int(vm.words[word]) for level, word in words.items()}


def check_mapped(vm: Vm, level: int, phase: str) -> None:
    """Raise RunFailed unless all memory is mapped at the level, and at no other."""
    wanted = {1: 0, 2: 0, 3: 0, level: vm.config.pages // LEVEL_PAGES[level]}
    found = mappings(vm)
    if found != wanted:
        text = ", ".join(f"{found[each]} {LEVEL_NAMES[each]}" for each in found)
        raise RunFailed(
            f"after {phase} there are {text} mappings; expected are only"
            f" {wanted[level]} {LEVEL_NAMES[level]} ones"
        )


def check_split(vm: Vm, level: int) -> None:
    """Raise RunFailed if a mapping of the host's page size is left: all of them were written."""
    found = mappings(vm)
    if level > 1 and found[level]:
        text = f"{found[level]} {LEVEL_NAMES[level]} mappings"
        raise RunFailed(f"{text} outlived writes that are logged")


def check_writes(vm: Vm, unit: int) -> None:
    """Raise RunFailed unless the first page of each unit holds every write, and no other any."""
    vcpus = vm.config.vcpus
    due = np.zeros(vm.config.pages, np.int64)
    due[::unit] = (vcpus + 1) // 2 + vcpus
    held = (vm.frames[: vm.config.pages] >> VALUE_SHIFT) & VALUE_MASK
    wrong = np.flatnonzero(held != due)
    if len(wrong):
        page = int(wrong[0])
        raise RunFailed(
            f"{len(wrong)} pages do not hold what was written: the first, gfn"
            f" {vm.config.gfn_base + page:#x}, holds {int(held[page])} writes, not {int(due[page])}"
        )


def _judge_created(level: int) -> Part:
    def part(actor: Actor) -> None:
        check_mapped(actor.vm, level, "KVM_CREATE_MAPPINGS")

    return part


def _judge_updated(level: int) -> Part:
    def part(actor: Actor) -> None:
        check_split(actor.vm, level)

    return part


def _judge_adjusted(level: int) -> Part:
    def part(actor: Actor) -> None:
        check_mapped(actor.vm, level, "KVM_ADJUST_MAPPINGS")
        check_writes(actor.vm, LEVEL_PAGES[level])

    return part


# --- The plan ------------------------------------------------------------------------------------


def _memory(args: argparse.Namespace) -> int:
    """Pages, checked against the backing size and the guest's physical addresses."""
    unit = LEVEL_PAGES[args.backing] * PAGE_BYTES
    # The selftest rounds up ("memory size(aligned)").
    size = -(-args.bytes // unit) * unit
    if args.phys_offset % unit:
        raise UsageError(f"-p {args.phys_offset} is no multiple of the backing page (-s)")
    if args.phys_offset + size > PHYSICAL_BYTES_MAX:
        raise UsageError(f"-p {args.phys_offset} leaves no room below the 48 bits of 4 levels")
    return int(size) // PAGE_BYTES


def plan(args: argparse.Namespace) -> Plan:
    """The three stages; what changes the memslot lies between them and is not timed with them."""
    pages = _memory(args)
    check_pins(args, args.vcpus + 1)
    level, unit = args.backing, LEVEL_PAGES[args.backing]

    def timed(name: str, part: Part) -> Phase:
        return Phase(name, f"{name}: total execution time: {{seconds}}\n", {VCPU: part})

    def silent(name: str, part: Part) -> Phase:
        return Phase(name, "", {VMM: part}, lines=no_summary)

    return Plan(
        workload=NAME,
        vm=vm_config(args, pages, gfn_base=args.phys_offset // PAGE_BYTES),
        roles=(VCPU,) * args.vcpus + (VMM,),
        phases=(
            timed("KVM_CREATE_MAPPINGS", _create(unit)),
            silent("created", _judge_created(level)),
            silent("start logging", _start_logging),
            timed("KVM_UPDATE_MAPPINGS", _update(unit)),
            silent("updated", _judge_updated(level)),
            silent("stop logging", _stop_logging),
            timed("KVM_ADJUST_MAPPINGS", _adjust),
            silent("adjusted", _judge_adjusted(level)),
        ),
        headline="KVM_ADJUST_MAPPINGS",
        counted=("KVM_CREATE_MAPPINGS", "KVM_UPDATE_MAPPINGS", "KVM_ADJUST_MAPPINGS"),
        header=(
            "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
            f"Testing memory backing src type: {LEVEL_NAMES[level]}",
            f"Testing memory backing src granularity: {unit * PAGE_BYTES:#x}",
            f"Testing memory size(aligned): {pages * PAGE_BYTES:#x}",
            f"Guest physical test memory offset: {args.phys_offset:#x}",
            f"Guest virtual test memory offset: {GUEST_VIRTUAL_BASE:#x}",
            f"Number of testing vCPUs: {args.vcpus}",
            "Started all vCPUs successfully",
        ),
        pins=args.pin,
    )
