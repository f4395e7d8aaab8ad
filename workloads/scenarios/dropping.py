"""Huge pages that are dropped when they must be mapped smaller, as before 6.2.

Never two faults that want one page at different sizes: they could undo each other for ever.
"""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log
from mmu.fault import handle_page_fault
from mmu.guest import vcpu_load, vcpu_put
from mmu.hw.vcpu import SRCU_HELD, leave_guest
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    copy_everything,
    execute_page_0,
    execute_page_1,
    map_for_writing,
    migration_lost_nothing,
    one_access,
    read_page_1,
    small_vm,
    split_everything,
    write_page_0,
    write_page_1,
)


@kernel
def execute_page_2(cpu: Cpu) -> None:
    """The guest executes gfn 2, the first of the second huge page."""
    one_access(cpu, 2, ACCESS_EXECUTE)


@kernel
def execute_page_3(cpu: Cpu) -> None:
    """The guest executes gfn 3, the last of the second huge page."""
    one_access(cpu, 3, ACCESS_EXECUTE)


@kernel
def enter_and_leave(cpu: Cpu) -> None:
    """The guest runs for a moment and accesses nothing."""
    vcpu_load(cpu)
    vcpu_put(cpu)


@kernel
def prefault_page_1(cpu: Cpu) -> None:
    """Map gfn 1 without accessing it; one attempt, whatever comes of it."""
    vcpu_load(cpu)
    leave_guest(cpu, SRCU_HELD)
    handle_page_fault(cpu, 1, ACCESS_READ, 0)
    vcpu_put(cpu)


def map_two_for_writing(vm: Vm) -> None:
    """Each vCPU has written a huge page of its own."""
    map_for_writing(vm)
    one_access(vm.cpu(1), 2, ACCESS_WRITE)


def two_cached(vm: Vm) -> None:
    """Two huge pages are mapped; vCPU 2 has cached both."""
    map_for_writing(vm)
    one_access(vm.cpu(2), 2, ACCESS_WRITE)
    one_access(vm.cpu(2), 0, ACCESS_WRITE)


def huge_and_logged(vm: Vm) -> None:
    """Logging is on and a huge page write-protected; vCPU 1 has cached it, and another one."""
    map_for_writing(vm)
    one_access(vm.cpu(1), 2, ACCESS_READ)
    enable_dirty_log(vm.cpu(vm.config.vcpus - 1), 0)
    copy_everything(vm.cpu(0))
    read_page_1(vm.cpu(1))
    one_access(vm.cpu(1), 2, ACCESS_READ)


DROP_DROP = Scenario(
    "drop-drop",
    "two executions drop the huge pages that they hit, each its own",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", execute_page_2)),
    vm=small_vm(2, backing_level=2, huge_split="zap"),
    setup=map_two_for_writing,
)
DROP_DROP_CACHED = Scenario(
    "drop-drop-cached",
    "two huge pages are dropped that a third vCPU has cached: it is asked for both flushes at once",
    (
        Actor("vcpu 0", execute_page_1),
        Actor("vcpu 1", execute_page_3),
        Actor("vcpu 2", enter_and_leave),
    ),
    vm=small_vm(3, backing_level=2, huge_split="zap"),
    setup=two_cached,
)
DROP_SPLIT = Scenario(
    "drop-split",
    "an execution drops a huge page that is being split",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", split_everything)),
    vm=small_vm(1, 1, backing_level=2, huge_split="zap"),
    setup=map_for_writing,
)
DROP_LOGGED = Scenario(
    "drop-logged",
    "two vCPUs write in a huge page that is logged: each drops it, both fill the table",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, pml=False, backing_level=2, huge_split="zap"),
    setup=huge_and_logged,
    check=migration_lost_nothing,
)
DROP_READ = Scenario(
    "drop-read",
    "a huge page is dropped while another vCPU reads through its cached translation",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1)),
    vm=small_vm(2, pml=False, backing_level=2, huge_split="zap"),
    setup=huge_and_logged,
    check=migration_lost_nothing,
)
DROP_PREFAULT = Scenario(
    "drop-prefault",
    "an execution drops a huge page that another vCPU's fault wants whole, once",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", prefault_page_1)),
    vm=small_vm(2, backing_level=2, huge_split="zap"),
    setup=map_for_writing,
)
