"""Logging ends and huge pages are put together, while guests and the host use their tables."""

from __future__ import annotations

from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.host_changes import move_page, split_huge_mapping
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CMPXCHG, PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.spte import ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    disable,
    enable_and_copy,
    execute_page_0,
    execute_page_1,
    fill_caches,
    migration_lost_nothing,
    one_access,
    read_page_0,
    read_page_1,
    small_vm,
    write_back_everything,
    write_page_0,
    write_page_1,
)

# A scheduler tick that has passed whenever somebody looks: the clock of explored runs stands still.
ALWAYS = -1e11


@kernel
def disable_and_enable(cpu: Cpu) -> None:
    """Logging ends, begins again, and everything is copied."""
    disable_dirty_log(cpu, 0)
    enable_and_copy(cpu)


@kernel
def disable_second(cpu: Cpu) -> None:
    """Switch logging of memslot 1 off."""
    disable_dirty_log(cpu, 1)


@kernel
def split_and_move_page_0(cpu: Cpu) -> None:
    """The host splits a huge page and moves its first page to another frame."""
    split_huge_mapping(cpu, 0)
    move_page(cpu, 0)


@kernel
def invalidate_page_2(cpu: Cpu) -> None:
    """An invalidation of host page 2 in which nothing changes."""
    invalidate_range_start(cpu, 2, 3, 1)
    invalidate_range_end(cpu, 2, 3)


@kernel
def invalidate_pages_2_and_3(cpu: Cpu) -> None:
    """The same for two pages that could be a huge one."""
    invalidate_range_start(cpu, 2, 4, 1)
    invalidate_range_end(cpu, 2, 4)


@kernel
def read_page_3(cpu: Cpu) -> None:
    """The guest reads gfn 3."""
    one_access(cpu, 3, ACCESS_READ)


@kernel
def write_page_3(cpu: Cpu) -> None:
    """The guest writes gfn 3."""
    one_access(cpu, 3, ACCESS_WRITE)


def _write(vm: Vm, *gfns: int) -> None:
    for gfn in gfns:
        one_access(vm.cpu(0), gfn, ACCESS_WRITE)


def split_by_logging(vm: Vm) -> None:
    """A huge page was written, split when logging began, written again and fetched."""
    fill_caches(vm)
    vmm = vm.cpu(vm.config.vcpus)
    _write(vm, 0)
    enable_dirty_log(vmm, 0)
    _write(vm, 0)
    get_dirty_log(vmm, 0)


def split_and_written_back(vm: Vm) -> None:
    """The same, and the host has saved all pages."""
    split_by_logging(vm)
    write_back_everything(vm)


def three_split_by_logging(vm: Vm) -> None:
    """Three huge pages were written and split when logging began."""
    fill_caches(vm)
    _write(vm, 0, 2, 4)
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)


def one_page_logged(vm: Vm) -> None:
    """Logging is on; gfn 1, the second of a huge page to be, is all that is mapped."""
    fill_caches(vm)
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)
    read_page_1(vm.cpu(0))


def executed_and_logged(vm: Vm) -> None:
    """An execution has split a huge page, then logging was switched on."""
    fill_caches(vm)
    _write(vm, 0, 2)
    execute_page_0(vm.cpu(0))
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)


def both_slots_logged(vm: Vm) -> None:
    """The second of two logged memslots begins in the middle of a block."""
    fill_caches(vm)
    _write(vm, 2, 3, 4)
    for slot in range(2):
        enable_dirty_log(vm.cpu(vm.config.vcpus), slot)


RECOVER_WALKER = Scenario(
    "recover-walker",
    "the walker sets D in a table that a huge page takes the place of",
    (Actor("vcpu 0", write_page_0), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=split_by_logging,
)
RECOVER_WRITTEN = Scenario(
    "recover-written",
    "the walker sets D in a leaf that is not the one which the huge page is made of",
    (Actor("vcpu 0", write_page_1), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2, spare_frames=2),
    setup=split_and_written_back,
)
RECOVER_FAST_FAULT = Scenario(
    "recover-fast-fault",
    "a write takes W back without a lock in a table that a huge page takes the place of",
    (Actor("vcpu 0", write_page_0), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2, pml=False),
    setup=split_by_logging,
)
RECOVER_MAP = Scenario(
    "recover-map",
    "a fault maps a page in a table that a huge page takes the place of",
    (Actor("vcpu 0", write_page_0), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=one_page_logged,
)
RECOVER_EXECUTE = Scenario(
    "recover-execute",
    "a page is executed while a huge page takes it in, and must be split again",
    (Actor("vcpu 0", execute_page_1), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=split_by_logging,
)
RECOVER_EXECUTED = Scenario(
    "recover-executed",
    "what an execution has split stays as it is, and what logging has split does not",
    (Actor("vcpu 0", write_page_3), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed_and_logged,
)
RECOVER_NX_OFF = Scenario(
    "recover-nx-off",
    "a page is executed while a huge page takes it in that may be executed",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2, nx_huge_pages=False),
    setup=split_by_logging,
)
RECOVER_MOVE = Scenario(
    "recover-move",
    "the host splits the huge page and moves a part of it while tables are put together",
    (Actor("vcpu 0", read_page_0), Actor("vmm", disable), Actor("host", split_and_move_page_0)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=split_by_logging,
)
RECOVER_INVALIDATE = Scenario(
    "recover-invalidate",
    "a part of the second of three huge pages is invalidated while they are put together",
    (Actor("vcpu 0", read_page_3), Actor("vmm", disable), Actor("host", invalidate_page_2)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=three_split_by_logging,
)
RECOVER_EMPTY = Scenario(
    "recover-empty",
    "an invalidation empties a table before it can be put together",
    (Actor("vcpu 0", read_page_0), Actor("vmm", disable), Actor("host", invalidate_pages_2_and_3)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=three_split_by_logging,
)
RECOVER_RECOVER = Scenario(
    "recover-recover",
    "two threads switch logging off while a page is written",
    (Actor("vcpu 0", write_page_1), Actor("vmm 0", disable), Actor("vmm 1", disable)),
    vm=small_vm(1, 2, backing_level=2),
    setup=split_by_logging,
)
RECOVER_ENABLE = Scenario(
    "recover-enable",
    "logging ends and begins again while a page is written",
    (Actor("vcpu 0", write_page_0), Actor("vmm", disable_and_enable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=split_by_logging,
    check=migration_lost_nothing,
)
RECOVER_LOST = Scenario(
    "recover-lost",
    "the change that puts a table together loses its race once",
    (Actor("vcpu 0", write_page_1), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2, pml=False),
    setup=split_by_logging,
    probes=1 << PROBE_CMPXCHG,
)
RECOVER_YIELDING = Scenario(
    "recover-yielding",
    "putting tables together gives up its lock once, wherever it may",
    (Actor("vcpu 0", write_page_3), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2),
    setup=three_split_by_logging,
    probes=1 << PROBE_CONTEND,
)
RECOVER_ALWAYS_YIELDING = Scenario(
    "recover-always-yielding",
    "somebody waits whenever the walk looks, and a table's first leaf is not its first entry",
    (Actor("vcpu 0", read_page_1), Actor("vmm", disable)),
    vm=small_vm(1, 1, backing_level=2, tick_ms=ALWAYS),
    setup=one_page_logged,
)
RECOVER_BORDER = Scenario(
    "recover-border",
    "the memslot begins in the middle of a block that the host maps as a huge page",
    (Actor("vcpu 0", write_page_3), Actor("vmm", disable_second)),
    vm=small_vm(1, 1, backing_level=2, slots=2, slot_pages=(3, 5)),
    setup=both_slots_logged,
)
