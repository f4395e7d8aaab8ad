"""Threads of the host and the monitor that meet each other, or a vCPU on its lockless path.

What each does alone is in `hosts`, `logging` and `zaps`; here one of them finds the other half
done where a lock, a read section or a compare-and-swap is all that keeps them apart.
"""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.host.frames import access_frame
from mmu.host_changes import discard_pages, move_page, split_huge_mapping
from mmu.hw.tlb import EVERYTHING, tlb_lookup
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_READ, ACCESS_WRITE, pfn_of
from mmu.vm import Vm
from mmu.zap_all import create_vm, destroy_vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    PAGES,
    disable,
    enable,
    fill_caches,
    harvest_and_copy,
    logged,
    map_for_reading,
    map_for_writing,
    migration_lost_nothing,
    one_access,
    read_page_1,
    small_vm,
    stop_logging_only,
    touch,
    write_page_0,
)
from workloads.scenarios.dying import drop_root, one_root, two_roots
from workloads.scenarios.hosts import move_page_0, swap_page_0
from workloads.scenarios.idle import nothing
from workloads.scenarios.zaps import zap_everything


@kernel
def flush(cpu: Cpu) -> None:
    """A flush of everything that nobody needs."""
    flush_remote_tlbs(cpu, 0, EVERYTHING)


@kernel
def flush_and_move(cpu: Cpu) -> None:
    """Two flushes that nobody needs, then one that a page which moves needs."""
    flush(cpu)
    flush(cpu)
    move_page(cpu, 0)


@kernel
def read_thrice(cpu: Cpu) -> None:
    """The guest reads gfn 0 three times."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_READ)
    touch(cpu, 0, ACCESS_READ)
    touch(cpu, 0, ACCESS_READ)
    vcpu_put(cpu)


@kernel
def read_what_is_cached(cpu: Cpu) -> None:
    """The guest reads gfn 0 if it still has the translation, and leaves."""
    vcpu_load(cpu)
    entry = tlb_lookup(cpu, 0)
    if entry != 0:
        access_frame(cpu, 0, pfn_of(entry), ACCESS_READ)
    vcpu_put(cpu)


@kernel
def discard_page_0(cpu: Cpu) -> None:
    """Host page 0 is given up with what it holds."""
    discard_pages(cpu, 0, 1)


@kernel
def split_page_0(cpu: Cpu) -> None:
    """The huge page of host page 0 is split."""
    split_huge_mapping(cpu, 0)


@kernel
def split_and_move(cpu: Cpu) -> None:
    """The huge page of host page 0 is split, and page 0 moves to another frame."""
    split_huge_mapping(cpu, 0)
    move_page(cpu, 0)


@kernel
def invalidate_all_pages(cpu: Cpu) -> None:
    """An invalidation of all host pages in which nothing changes."""
    invalidate_range_start(cpu, 0, PAGES, 1)
    invalidate_range_end(cpu, 0, PAGES)


@kernel
def delete_slot_0(cpu: Cpu) -> None:
    """The first memslot goes."""
    delete_memslot(cpu, 0)


@kernel
def create_and_delete_slot(cpu: Cpu) -> None:
    """The memslot that is nowhere comes and goes."""
    create_memslot(cpu, 0, 0)
    delete_memslot(cpu, 0)


@kernel
def delete_slot_1(cpu: Cpu) -> None:
    """The second memslot goes, then the host moves a page of it."""
    delete_memslot(cpu, 1)
    move_page(cpu, 4)


@kernel
def move_slot_1(cpu: Cpu) -> None:
    """The second memslot moves, then the host moves a page of it."""
    move_memslot(cpu, 1, PAGES + 4)
    move_page(cpu, 4)


@kernel
def move_slot_and_write(cpu: Cpu) -> None:
    """The vCPU's thread moves the only memslot; the guest writes its first page there twice."""
    move_memslot(cpu, 0, PAGES)
    vcpu_load(cpu)
    touch(cpu, PAGES, ACCESS_WRITE)
    touch(cpu, PAGES, ACCESS_WRITE)
    vcpu_put(cpu)


def both_slots_mapped(vm: Vm) -> None:
    """The first page of each memslot was written."""
    map_for_writing(vm)
    one_access(vm.cpu(0), 4, ACCESS_WRITE)


def before_an_empty_root(vm: Vm) -> None:
    """vCPU 0 has written gfn 0; behind its root on the list is vCPU 1's, which maps nothing."""
    switch_root(vm.cpu(1), 1 << 3 | vm.config.levels)
    one_root(vm)


def protected_where_huge_may_be(vm: Vm) -> None:
    """gfn 0 was logged: it is write-protected in a table where a 2M page is possible now."""
    fill_caches(vm)
    vmm = vm.cpu(vm.config.vcpus)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_dirty_log(vmm, 0)
    stop_logging_only(vm)


@kernel
def destroy_and_create(cpu: Cpu) -> None:
    """The VM dies and is made anew on the same memory."""
    destroy_vm(cpu)
    create_vm(cpu)


DISABLE_DISABLE_PML = Scenario(
    "disable-disable-pml",
    "a page whose writes the hardware logs is written while two threads switch logging off",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", disable), Actor("vmm 1", disable)),
    vm=small_vm(1, 2),
    setup=logged,
)
ENABLE_NOTIFIER = Scenario(
    "enable-notifier",
    "logging is switched on while the host moves a page that was written",
    (Actor("vcpu 0", nothing), Actor("vmm", enable), Actor("host", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
FAST_FAULT_NOTIFIER = Scenario(
    "fast-fault-notifier",
    "a vCPU takes W back without a lock while the host moves the page",
    (Actor("vcpu 0", write_page_0), Actor("host", move_page_0)),
    vm=small_vm(1, 1, pml=False, spare_frames=2),
    setup=logged,
)
FAST_FAULT_PROMOTE = Scenario(
    "fast-fault-promote",
    "a vCPU takes W back without a lock in a table that a fault replaces by a huge page",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, pml=False, backing_level=2),
    setup=protected_where_huge_may_be,
)
FLUSHES_MOVE = Scenario(
    "flushes-move",
    "a vCPU is asked for flushes by two threads, the last one for a page that moves",
    (Actor("vcpu 0", read_thrice), Actor("host 0", flush), Actor("host 1", flush_and_move)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
HUGE_SPLIT_MOVE = Scenario(
    "huge-split-move",
    "two threads of the host split a huge page, and one of them moves a page of it",
    (Actor("vcpu 0", nothing), Actor("host 0", split_page_0), Actor("host 1", split_and_move)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=map_for_reading,
)
DISCARD_SWAP_OUT = Scenario(
    "discard-swap-out",
    "a page is given up while it is reclaimed",
    (Actor("vcpu 0", nothing), Actor("host 0", discard_page_0), Actor("host 1", swap_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
TWO_ROOTS_MOVE = Scenario(
    "two-roots-move",
    "the host moves a page that a vCPU writes and that the root of another one does not map",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", nothing), Actor("host", move_page_0)),
    vm=small_vm(2, 1, spare_frames=2),
    setup=before_an_empty_root,
)
TWO_ROOTS_NOTIFIERS = Scenario(
    "two-roots-notifiers",
    "an invalidation yields on its way through two roots while a page that one of them maps moves",
    (
        Actor("vcpu 0", read_what_is_cached),
        Actor("vcpu 1", nothing),
        Actor("host 0", invalidate_all_pages),
        Actor("host 1", move_page_0),
    ),
    vm=small_vm(2, 2, spare_frames=2),
    setup=before_an_empty_root,
    probes=1 << PROBE_CONTEND,
)
SLOT_DELETE_DELETE = Scenario(
    "slot-delete-delete",
    "two memslots go at once, and the host moves a page of one that is gone",
    (Actor("vcpu 0", nothing), Actor("vmm 0", delete_slot_0), Actor("vmm 1", delete_slot_1)),
    vm=small_vm(1, 2, spare_frames=2, slots=2),
    setup=both_slots_mapped,
)
SLOT_DELETE_MOVED = Scenario(
    "slot-delete-moved",
    "a memslot moves while another one goes, and the host moves a page of it",
    (Actor("vcpu 0", nothing), Actor("vmm 0", delete_slot_0), Actor("vmm 1", move_slot_1)),
    vm=small_vm(1, 2, spare_frames=2, slots=2),
    setup=both_slots_mapped,
)
SLOT_CREATE_DELETE = Scenario(
    "slot-create-delete",
    "a memslot comes and goes while a vCPU writes to where it is meanwhile",
    (Actor("vcpu 0", write_page_0), Actor("vmm", create_and_delete_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=fill_caches,
)
PUT_ZAP = Scenario(
    "put-zap",
    "a vCPU drops the only root while all leafs are zapped, with yields",
    (Actor("vcpu 0", drop_root), Actor("host", zap_everything)),
    vm=small_vm(1, 1),
    setup=one_root,
    probes=1 << PROBE_CONTEND,
)
PUT_PUT_QUEUED = Scenario(
    "put-put-queued",
    "two vCPUs drop a root each, both of which the worker is to zap",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", drop_root), Actor("worker", nothing)),
    vm=small_vm(2, 1, zap_by="worker"),
    setup=two_roots,
)
DESTROY_CREATE = Scenario(
    "destroy-create",
    "the VM dies and is made anew while the host moves a page of its memory",
    (Actor("vcpu 0", nothing), Actor("vmm", destroy_and_create), Actor("host", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
HARVEST_MOVED = Scenario(
    "harvest-moved",
    "the log is harvested while its memslot moves and is written where it is then",
    (Actor("vcpu 0", move_slot_and_write), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, levels=4),
    setup=logged,
    check=migration_lost_nothing,
)
