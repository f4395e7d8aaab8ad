"""`mmu-stress`: the selftests' mmu_stress_test (max_guest_memory_test), flags, phases and lines.

Many memslots show one piece of memory, so a large guest needs little of it.  Each vCPU writes its
share of the guest's memory (run1), drops its root and loads one (reset), and writes again (run2).
Then user space makes the memory read-only while the vCPUs write until they are refused (ro), and
writable again (rw).  At last every second memslot is deleted and half of the memory unmapped.

Each run must reach every page; the host must refuse each vCPU; the pages must hold together as
many writes as the guest has made; and nothing may be left when the VM is destroyed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

import numpy as np

from mmu.guest import vcpu_load, vcpu_put
from mmu.host.frames import NOBODY, OWNER_MASK, VALUE_MASK, VALUE_SHIFT
from mmu.host_ranges import drop_range, protect_range
from mmu.machine import layout as at
from mmu.machine.futex import raw_load
from mmu.machine.layout import C_WORKLOAD, LINE, N_MEMORY_FAULTS, PHASE_WORK, ROLE, WORK_DONE
from mmu.machine.primitives import config, own, set_own
from mmu.reload import switch_root
from mmu.slot_changes import delete_memslot
from mmu.spte import ACCESS_WRITE
from mmu.vm import GFN_BASE, Vm
from workloads.actors.ending import destroy
from workloads.actors.walking import walk_batch, write_until_refused
from workloads.actors.zap_worker import worker_service
from workloads.errors import RunFailed, UsageError
from workloads.options import LEVEL_PAGES, PAGE_BYTES, PHYSICAL_BYTES_MAX, add_machine, vm_config
from workloads.plan import VCPU, VMM, Actor, Part, Phase, Plan, no_summary
from workloads.units import COUNT_MAX, whole

NAME = "mmu-stress"
HELP = "mmu_stress_test: large guests of aliased memory, resets, mprotect, deleted memslots"
POLICIES = ("root-life", "zap-by", "zap-steps", "flush")
EXAMPLES = ("-c 2 -m 4 -s 1", "-c 4 -m 16 -s 1 -H --root-life owned")
GIB_PAGES = (1 << 30) // PAGE_BYTES
GIB_MAX = 64 << 10
SLOTS_MAX = 32_764  # KVM_USER_MEM_SLOTS on x86
ROOTS = 3  # the one in use, one that is being zapped, and one to spare


def default_vcpus() -> int:
    """Three quarters of the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The selftest's flags."""
    parser.add_argument(
        "-c",
        "--vcpus",
        type=whole("vCPUs", 1, COUNT_MAX - 8),
        default=default_vcpus(),
        metavar="N",
        help=f"vCPU processes (default 3/4 of the usable cores: {default_vcpus()})",
    )
    parser.add_argument(
        "-m",
        "--memory",
        type=whole("GiB of memory", 1, GIB_MAX),
        default=128,
        metavar="GIB",
        help="guest memory in GiB (default 128)",
    )
    parser.add_argument(
        "-s",
        "--slot-size",
        type=whole("GiB of a memslot", 1, GIB_MAX),
        default=2,
        metavar="GIB",
        help="GiB of each memslot, a power of two; the host has so much memory, shown by all of"
        " them (default 2)",
    )
    parser.add_argument(
        "-H",
        dest="backing",
        action="store_const",
        const=2,
        default=1,
        help="2m pages of the host (hugetlb) instead of 4k ones",
    )
    add_machine(parser, POLICIES, seeded=False)


# --- Parts ---------------------------------------------------------------------------------------


def _share(vm: Vm, index: int) -> tuple[int, int]:
    """First gfn and number of pages of a vCPU; what does not divide is nobody's."""
    pages = vm.config.gfns // vm.config.vcpus
    return vm.config.gfn_base + index * pages, pages


def _write_all(actor: Actor) -> None:
    cpu = actor.cpu
    first, pages = _share(actor.vm, actor.index)
    set_own(cpu, WORK_DONE, 0)
    set_own(cpu, PHASE_WORK, pages)
    vcpu_load(cpu)
    actor.run(walk_batch, first, pages, 1, ACCESS_WRITE, 1)
    vcpu_put(cpu)


def _write_until_refused(actor: Actor) -> None:
    """Pass after pass; one that begins when all is protected is the last, whatever comes of it."""
    cpu = actor.cpu
    first, pages = _share(actor.vm, actor.index)
    protected = config(cpu, C_WORKLOAD)
    vcpu_load(cpu)
    last = False
    while not last and own(cpu, N_MEMORY_FAULTS) == 0 and not actor.stopping():
        last = raw_load(cpu, protected) != 0
        set_own(cpu, WORK_DONE, 0)
        actor.run(write_until_refused, first, pages)
    vcpu_put(cpu)


def _reset(actor: Actor) -> None:
    switch_root(actor.cpu, own(actor.cpu, ROLE))


def _protect(writable: int) -> Part:
    def part(actor: Actor) -> None:
        protect_range(actor.cpu, 0, actor.vm.config.pages, writable)
        actor.vm.region("workload")[0] = 1

    return part


def _judge_run(level: int) -> Part:
    def part(actor: Actor) -> None:
        check_mapped(actor.vm, level)

    return part


def _judge_refused(actor: Actor) -> None:
    check_refused(actor.vm)


def _end(actor: Actor) -> None:
    """Delete every even memslot, unmap half of the memory, then let the VM die."""
    vm, cpu = actor.vm, actor.cpu
    check_writes(vm)
    for slot in range(0, vm.config.slots, 2):
        if actor.stopping():
            return
        delete_memslot(cpu, slot)
    half = vm.config.pages // 2
    actor.report("pages_dropped", drop_range(cpu, 0, half))
    check_dropped(vm, half)
    destroy(actor)


# --- Judging -------------------------------------------------------------------------------------


def check_mapped(vm: Vm, level: int) -> None:
    """Raise RunFailed unless everything that the vCPUs share is mapped by the host's pages."""
    words = {1: at.STAT_PAGES_4K, 2: at.STAT_PAGES_2M}
    found = int(vm.words[words[level]]) * LEVEL_PAGES[level]
    wanted = vm.config.gfns // vm.config.vcpus * vm.config.vcpus
    if found < wanted:
        raise RunFailed(f"{found} pages are mapped, the vCPUs have written {wanted}")


def check_refused(vm: Vm) -> None:
    """Raise RunFailed unless the host has refused an access of every vCPU."""
    for vcpu in range(vm.config.vcpus):
        if int(vm.actor_words(vcpu)[at.N_MEMORY_FAULTS]) == 0:
            raise RunFailed(f"vcpu {vcpu} went on writing to memory that is read-only")


def check_writes(vm: Vm) -> None:
    """Raise RunFailed unless the pages hold as many writes as the guest has made."""
    held = int(((vm.frames[: vm.config.pages] >> VALUE_SHIFT) & VALUE_MASK).sum())
    made = sum(int(vm.actor_words(vcpu)[at.N_WRITES]) for vcpu in range(vm.config.vcpus))
    if held != made:
        raise RunFailed(f"the pages hold {held} writes, the guest has made {made}")


def check_dropped(vm: Vm, pages: int) -> None:
    """Raise RunFailed unless the first pages belong to nobody."""
    owners = (vm.frames[:pages] & OWNER_MASK) ^ np.arange(pages)
    kept = int((owners != NOBODY).sum())
    if kept:
        raise RunFailed(f"{kept} of {pages} pages are not free although they were unmapped")


# --- The plan ------------------------------------------------------------------------------------


def _waited(what: str) -> tuple[str, str]:
    return f"Waiting for vCPUs to finish {what}...", f"All vCPUs finished {what}, releasing..."


def _phase(name: str, what: str, parts: Mapping[str, Part]) -> Phase:
    """A timed stage with the two lines of its rendezvous."""
    return Phase(name, "\n".join(_waited(what)), parts)


def _summary(seconds: Mapping[str, float], counters: Mapping[str, int]) -> list[str]:
    names = ("run1", "reset", "run2", "ro", "rw")
    return [", ".join(f"{name} = {seconds[name]:.9f}s" for name in names)]


def plan(args: argparse.Namespace) -> Plan:
    """Slots of one size over all of the memory; the stages of the selftest; its end."""
    if args.slot_size & (args.slot_size - 1):
        raise UsageError(f"-s {args.slot_size}: give a power of two; memslots lie side by side")
    slots = args.memory // args.slot_size
    if not 1 <= slots <= SLOTS_MAX:
        raise UsageError(
            f"-m {args.memory} with -s {args.slot_size} makes {slots} memslots;"
            f" possible are 1 to {SLOTS_MAX}"
        )
    pages = args.slot_size * GIB_PAGES
    if GFN_BASE * PAGE_BYTES + slots * pages * PAGE_BYTES > PHYSICAL_BYTES_MAX:
        raise UsageError(f"-m {args.memory} leaves no room below the 48 bits of 4 levels")
    services = worker_service(args.zap_by)
    roles = (VCPU,) * args.vcpus + (VMM, *services)

    def silent(name: str, part: Part) -> Phase:
        return Phase(name, "", {VMM: part}, lines=no_summary)

    return Plan(
        workload=NAME,
        vm=vm_config(
            args,
            pages,
            helpers=len(roles) - args.vcpus,
            slots=slots,
            aliases=True,
            roots=ROOTS,
            spare_frames=1,
            workload_words=LINE,
        ),
        roles=roles,
        phases=(
            _phase("run1", "run 1", {VCPU: _write_all}),
            silent("run 1 seen", _judge_run(args.backing)),
            _phase("reset", "reset", {VCPU: _reset}),
            _phase("run2", "run 2", {VCPU: _write_all}),
            silent("run 2 seen", _judge_run(args.backing)),
            _phase("ro", "mprotect RO", {VCPU: _write_until_refused, VMM: _protect(0)}),
            silent("refused", _judge_refused),
            silent("writable", _protect(1)),
            _phase("rw", "mprotect RW", {VCPU: _write_all}),
            silent("run 3 seen", _judge_run(args.backing)),
            Phase("end", "", {VMM: _end}, lines=no_summary),
        ),
        headline="run1",
        counted=("run1", "run2", "ro", "rw"),
        header=(f"Running with {slots * args.slot_size}gb of guest memory and {args.vcpus} vCPUs",),
        summary=_summary,
        services=services,
    )
