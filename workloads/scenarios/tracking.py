"""Somebody begins to track a gfn's writes while it is used: from then on he sees every one."""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_WORKLOAD
from mmu.machine.primitives import config, read_once, write_once
from mmu.spte import ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm, VmConfig
from mmu.write_track import track_gfn, untrack_gfn
from workloads.actors.tracking import check_all_were_told, untold_writes
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    PAGES,
    fill_caches,
    harvest_and_copy,
    logged,
    logged_and_written,
    map_for_writing,
    migration_lost_nothing,
    one_access,
    read_page_0,
    read_page_1,
    small_vm,
    split_everything,
    write_both_pages,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.hosts import move_page_0, protect_page_0, swap_page_0
from workloads.scenarios.slots import delete_slot, move_slot_away

BEFORE = PAGES  # word of the workload's: untold writes when tracking had begun, + 1


def tracking_vm(vcpus: int, helpers: int, **options: object) -> VmConfig:
    """A small VM whose gfns may be tracked."""
    return small_vm(vcpus, helpers, write_tracking=True, workload_words=PAGES + 1, **options)


@kernel
def track_page_0(cpu: Cpu) -> None:
    """Somebody begins to track gfn 0; from now on he counts."""
    if track_gfn(cpu, 0):
        write_once(cpu, config(cpu, C_WORKLOAD) + BEFORE, untold_writes(cpu, 0) + 1)


@kernel
def also_track_page_0(cpu: Cpu) -> None:
    """A second one, who does not count."""
    track_gfn(cpu, 0)


@kernel
def track_for_a_while(cpu: Cpu) -> None:
    """Somebody tracks gfn 0 and stops."""
    if track_gfn(cpu, 0):
        before = untold_writes(cpu, 0)
        check_all_were_told(cpu, 0, before)
        untrack_gfn(cpu, 0)


@kernel
def saw_everything(cpu: Cpu) -> int:
    """Check: who still tracks gfn 0 was told of every write since he began."""
    before = read_once(cpu, config(cpu, C_WORKLOAD) + BEFORE)
    if before != 0:
        check_all_were_told(cpu, 0, before - 1)
    return 0


@kernel
def saw_and_lost_nothing(cpu: Cpu) -> int:
    """Check: the same, and a migration that has gone on meanwhile ends equal."""
    saw_everything(cpu)
    return migration_lost_nothing(cpu)


def tracked(vm: Vm) -> None:
    """gfn 0 was written, then somebody began to track it."""
    map_for_writing(vm)
    track_page_0(vm.cpu(vm.config.vcpus))


def huge_and_cached(vm: Vm) -> None:
    """All vCPUs have written a huge page."""
    map_for_writing(vm)
    for vcpu in range(vm.config.vcpus):
        one_access(vm.cpu(vcpu), 1, ACCESS_WRITE)


def tracked_and_read(vm: Vm) -> None:
    """gfn 0 is tracked from the beginning and was only read; a second vCPU has it cached."""
    fill_caches(vm)
    track_page_0(vm.cpu(vm.config.vcpus))
    for vcpu in range(vm.config.vcpus):
        one_access(vm.cpu(vcpu), 0, ACCESS_READ)


TRACK_WRITE = Scenario(
    "track-write",
    "a page that a vCPU has cached writable is written while somebody begins to track it",
    (Actor("vcpu 0", write_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 1),
    setup=map_for_writing,
    check=saw_everything,
)
TRACK_FAULT = Scenario(
    "track-fault",
    "a page is written for the first time while somebody begins to track it",
    (Actor("vcpu 0", write_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 1),
    setup=fill_caches,
    check=saw_everything,
)
TRACK_FAST_FAULT = Scenario(
    "track-fast-fault",
    "logging has write-protected a page; its writer and a tracker want it",
    (Actor("vcpu 0", write_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 1, pml=False),
    setup=logged,
    check=saw_and_lost_nothing,
)
TRACK_WALKER = Scenario(
    "track-walker",
    "the hardware sets D in an entry that loses W for good",
    (Actor("vcpu 0", write_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 1),
    setup=logged,
    check=saw_and_lost_nothing,
)
TRACK_HARVEST = Scenario(
    "track-harvest",
    "a harvest has taken W and not flushed yet when somebody begins to track the page",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm", harvest_and_copy),
        Actor("tracker", track_page_0),
    ),
    vm=tracking_vm(1, 2, pml=False),
    setup=logged_and_written,
    check=saw_and_lost_nothing,
)
TRACK_TRACK = Scenario(
    "track-track",
    "two begin to track a page that a vCPU has cached writable: both see its writes",
    (
        Actor("vcpu 0", write_page_0),
        Actor("tracker 0", track_page_0),
        Actor("tracker 1", also_track_page_0),
    ),
    vm=tracking_vm(1, 2),
    setup=map_for_writing,
    check=saw_everything,
)
TRACK_UNTRACK = Scenario(
    "track-untrack",
    "one begins to track a page that another stops to track: the first sees its writes",
    (
        Actor("vcpu 0", write_page_0),
        Actor("tracker 0", track_page_0),
        Actor("tracker 1", track_for_a_while),
    ),
    vm=tracking_vm(1, 2),
    setup=map_for_writing,
    check=saw_everything,
)
TRACK_HUGE = Scenario(
    "track-huge",
    "a page is tracked in a huge page that is being written",
    (Actor("vcpu 0", write_both_pages), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 1, backing_level=2),
    setup=huge_and_cached,
    check=saw_everything,
)
TRACK_MAP_HUGE = Scenario(
    "track-map-huge",
    "a huge page is mapped over a page that somebody begins to track",
    (Actor("vcpu 0", write_page_1), Actor("vcpu 1", write_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(2, 1, backing_level=2),
    setup=fill_caches,
    check=saw_everything,
)
TRACK_SPLIT = Scenario(
    "track-split",
    "a huge page is split while a page of it is write-protected for good",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm", split_everything),
        Actor("tracker", track_page_0),
    ),
    vm=tracking_vm(1, 2, backing_level=2),
    setup=map_for_writing,
    check=saw_everything,
)
TRACK_READ = Scenario(
    "track-read",
    "a page is read, and its neighbour, where a huge page would hold a tracked one",
    (Actor("vcpu 0", read_page_1), Actor("vcpu 1", read_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(2, 1, backing_level=2),
    setup=fill_caches,
    check=saw_everything,
)
TRACK_NOTIFIER = Scenario(
    "track-notifier",
    "the host moves a page that is written and that somebody begins to track",
    (Actor("vcpu 0", write_page_0), Actor("host", move_page_0), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
    check=saw_everything,
)
TRACKED_WRITE_SWAP = Scenario(
    "tracked-write-swap",
    "a write is emulated while the host reclaims its page",
    (
        Actor("vcpu 0", write_page_0),
        Actor("tracker", also_track_page_0),
        Actor("host", swap_page_0),
    ),
    vm=tracking_vm(1, 2, spare_frames=2),
    setup=tracked,
    check=saw_everything,
)
TRACKED_WRITE_PROTECT = Scenario(
    "tracked-write-protect",
    "writes of two vCPUs are emulated while the host makes the page read-only",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_0), Actor("host", protect_page_0)),
    vm=tracking_vm(2, 1, spare_frames=2),
    setup=tracked_and_read,
    check=saw_everything,
)
TRACKED_WRITE_MOVE_SLOT = Scenario(
    "tracked-write-move-slot",
    "a write is to be emulated in a memslot that moves",
    (Actor("vcpu 0", write_page_0), Actor("vmm", move_slot_away)),
    vm=tracking_vm(1, 1),
    setup=tracked,
    check=saw_everything,
)
TRACK_DELETE_SLOT = Scenario(
    "track-delete-slot",
    "the memslot goes of a page that somebody wants to track",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot), Actor("tracker", track_page_0)),
    vm=tracking_vm(1, 2),
    setup=fill_caches,
)
UNTRACK_WRITE = Scenario(
    "untrack-write",
    "a page is written while somebody tracks it for a moment",
    (Actor("vcpu 0", write_page_0), Actor("tracker", track_for_a_while)),
    vm=tracking_vm(1, 1),
    setup=map_for_writing,
)
TRACK_OFF = Scenario(
    "track-off",
    "a VM whose gfns nobody may track",
    (Actor("vcpu 0", write_both_pages), Actor("tracker", also_track_page_0)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
)
