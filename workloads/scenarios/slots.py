"""Memslots that come, go and move while vCPUs use them and the host changes its mappings."""

from __future__ import annotations

from mmu.dirty_clear import clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.machine.conditions import DIRTY_LOST, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import SLOT_BITMAP, SLOT_HARVEST
from mmu.machine.primitives import config, read_once
from mmu.memslots import slot_word
from mmu.slot_changes import create_memslot, delete_memslot, move_memslot
from mmu.spte import ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    PAGES,
    fill_caches,
    map_for_writing,
    one_access,
    read_page_0,
    small_vm,
    write_page_0,
)
from workloads.scenarios.dropping import enter_and_leave
from workloads.scenarios.dying import two_roots, work_once
from workloads.scenarios.hosts import invalidate_page_0, move_page_0
from workloads.scenarios.idle import nothing


@kernel
def delete_slot(cpu: Cpu) -> None:
    """The only memslot goes."""
    delete_memslot(cpu, 0)


@kernel
def create_slot(cpu: Cpu) -> None:
    """The memslot that is nowhere comes."""
    create_memslot(cpu, 0, 0)


@kernel
def move_slot_away(cpu: Cpu) -> None:
    """The only memslot moves."""
    move_memslot(cpu, 0, PAGES)


@kernel
def log_what_is_nowhere(cpu: Cpu) -> None:
    """The second memslot, which is logged and was written, is nowhere: its log goes on."""
    get_dirty_log(cpu, 1)
    clear_dirty_log(cpu, 1, 0, PAGES // 2)
    disable_dirty_log(cpu, 1)
    enable_dirty_log(cpu, 1)


def second_slot_gone(vm: Vm) -> None:
    """Both memslots are logged; the second was written, and is nowhere now."""
    map_for_writing(vm)
    vmm = vm.cpu(vm.config.vcpus)
    enable_dirty_log(vmm, 0)
    enable_dirty_log(vmm, 1)
    one_access(vm.cpu(0), PAGES // 2, ACCESS_WRITE)
    delete_memslot(vmm, 1)


@kernel
def names_what_was_written(cpu: Cpu) -> int:
    """Check: the second memslot's page was named, and the first's log is untouched."""
    named = read_once(cpu, config(cpu, slot_word(cpu, 1) + SLOT_HARVEST))
    warn(cpu, named != 1, DIRTY_LOST, PAGES // 2, named, 0)
    written = read_once(cpu, config(cpu, slot_word(cpu, 0) + SLOT_BITMAP))
    warn(cpu, written & 1 != 1, DIRTY_LOST, 0, written, 0)
    return 0


SLOT_DELETE_FAULT = Scenario(
    "slot-delete-fault",
    "a memslot goes while a vCPU writes a page of it for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
SLOT_DELETE_WORKER = Scenario(
    "slot-delete-worker",
    "the same where the worker zaps",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot), Actor("worker", work_once)),
    vm=small_vm(1, 2, zap_by="worker"),
    setup=map_for_writing,
)
SLOT_CREATE_FAULT = Scenario(
    "slot-create-fault",
    "a memslot comes while a vCPU writes to where it will be",
    (Actor("vcpu 0", write_page_0), Actor("vmm", create_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=fill_caches,
)
SLOT_MOVE_FAULT = Scenario(
    "slot-move-fault",
    "a memslot moves away while a vCPU writes a page of it",
    (Actor("vcpu 0", write_page_0), Actor("vmm", move_slot_away)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
)
SLOT_DELETE_NOTIFIER = Scenario(
    "slot-delete-notifier",
    "a memslot goes while one of its pages is invalidated",
    (Actor("vcpu 0", write_page_0), Actor("vmm", delete_slot), Actor("host", invalidate_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=fill_caches,
)
SLOT_DELETE_TWO_ROOTS = Scenario(
    "slot-delete-two-roots",
    "a memslot goes that two address spaces have mapped, and one of them is in use",
    (Actor("vcpu 0", nothing), Actor("vcpu 1", enter_and_leave), Actor("vmm", delete_slot)),
    vm=small_vm(2, 1),
    setup=two_roots,
)
SLOT_GONE_LOGGED = Scenario(
    "slot-gone-logged",
    "a memslot that is nowhere is fetched and logged again while a page of the other is read",
    (Actor("vcpu 0", read_page_0), Actor("vmm", log_what_is_nowhere)),
    vm=small_vm(1, 1, slots=2, slot_pages=(PAGES // 2, PAGES // 2)),
    setup=second_slot_gone,
    check=names_what_was_written,
)
SLOT_GONE_CLEARED = Scenario(
    "slot-gone-cleared",
    "the same where clearing the log is a call of its own",
    (Actor("vcpu 0", read_page_0), Actor("vmm", log_what_is_nowhere)),
    vm=small_vm(1, 1, slots=2, slot_pages=(PAGES // 2, PAGES // 2), dirty_log_mode="manual"),
    setup=second_slot_gone,
    check=names_what_was_written,
)
SLOT_DELETE_MOVE = Scenario(
    "slot-delete-move",
    "a memslot goes while the host moves one of its pages, which is mapped",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm", delete_slot),
        Actor("host", move_page_0),
        Actor("worker", work_once),
    ),
    vm=small_vm(1, 3, spare_frames=2, zap_by="worker"),
    setup=map_for_writing,
)
