"""NX recovery meets whoever may be in the tables that it gives back."""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CMPXCHG, PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.nx_recovery import recover_nx_huge_pages
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    copy_everything,
    enable_and_copy,
    execute_page_0,
    execute_page_1,
    fill_caches,
    harvest_and_copy,
    map_for_writing,
    migration_lost_nothing,
    one_access,
    read_page_1,
    small_vm,
    touch,
    write_page_0,
)
from workloads.scenarios.dying import invalidate
from workloads.scenarios.hosts import split_page_0
from workloads.scenarios.zaps import executed, zap_everything


@kernel
def recover(cpu: Cpu) -> None:
    """The recovery thread gives back everything that there is."""
    recover_nx_huge_pages(cpu, 1)


@kernel
def recover_half(cpu: Cpu) -> None:
    """A second thread, which gives back one table in two; with ratio 0 it does nothing."""
    recover_nx_huge_pages(cpu, 0)
    recover_nx_huge_pages(cpu, 2)


@kernel
def read_then_execute(cpu: Cpu) -> None:
    """The guest reads gfn 1: a huge page may be mapped; and executes gfn 0: that splits it."""
    vcpu_load(cpu)
    touch(cpu, 1, ACCESS_READ)
    touch(cpu, 0, ACCESS_EXECUTE)
    vcpu_put(cpu)


def split_by_execution(vm: Vm) -> None:
    """A huge page was written, then executed; each vCPU has cached the table that is there now."""
    map_for_writing(vm)
    for vcpu in range(vm.config.vcpus):
        execute_page_0(vm.cpu(vcpu))


def two_executed(vm: Vm) -> None:
    """Two pages were executed, each in a table of its own, which the vCPU has cached."""
    executed(vm)
    one_access(vm.cpu(0), 2, ACCESS_EXECUTE)


def executed_and_logged(vm: Vm) -> None:
    """A huge page was executed, then logging began: its table is of use."""
    executed(vm)
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)
    copy_everything(vm.cpu(0))


NX_RECOVERY_EXECUTE = Scenario(
    "nx-recovery-execute",
    "a page is executed for the first time in a table that is being given back",
    (Actor("vcpu 0", execute_page_1), Actor("recovery", recover)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed,
    probes=1 << PROBE_CMPXCHG,
)
NX_RECOVERY_READ = Scenario(
    "nx-recovery-read",
    "a read fault may put a huge page where a table is being given back",
    (Actor("vcpu 0", read_page_1), Actor("recovery", recover)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed,
)
NX_RECOVERY_REPLACE = Scenario(
    "nx-recovery-replace",
    "another table may stand where a table is being given back",
    (Actor("vcpu 0", read_then_execute), Actor("recovery", recover)),
    # The vCPU does not wait for recovery's section to end before it goes on.
    vm=small_vm(1, 1, backing_level=2, rcu_batch=8),
    setup=executed,
)
NX_RECOVERY_WALKER = Scenario(
    "nx-recovery-walker",
    "the hardware is in a table that is being given back and freed",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("recovery", recover)),
    vm=small_vm(2, 1, backing_level=2),
    setup=split_by_execution,
)
NX_RECOVERY_YIELD = Scenario(
    "nx-recovery-yield",
    "recovery lets others in between two tables, one of which the hardware is in",
    (Actor("vcpu 0", read_page_1), Actor("recovery", recover)),
    vm=small_vm(1, 1, backing_level=2),
    setup=two_executed,
    probes=1 << PROBE_CONTEND,
)
NX_RECOVERY_NOTIFIER = Scenario(
    "nx-recovery-notifier",
    "the host splits the huge page whose table is being given back",
    (Actor("vcpu 0", execute_page_0), Actor("recovery", recover), Actor("host", split_page_0)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=executed,
)
NX_RECOVERY_ZAP = Scenario(
    "nx-recovery-zap",
    "all leafs are zapped around tables that are being given back",
    (Actor("vcpu 0", read_page_1), Actor("recovery", recover), Actor("host", zap_everything)),
    vm=small_vm(1, 2, backing_level=2),
    setup=split_by_execution,
)
NX_RECOVERY_INVALIDATE = Scenario(
    "nx-recovery-invalidate",
    "the root goes, with the tables that are being given back",
    (Actor("vcpu 0", execute_page_1), Actor("recovery", recover), Actor("vmm", invalidate)),
    vm=small_vm(1, 2, backing_level=2),
    setup=executed,
)
NX_RECOVERY_HARVEST = Scenario(
    "nx-recovery-harvest",
    "a table that logging needs is not given back while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy), Actor("recovery", recover)),
    vm=small_vm(1, 2, backing_level=2),
    setup=executed_and_logged,
    check=migration_lost_nothing,
)
NX_RECOVERY_ENABLE = Scenario(
    "nx-recovery-enable",
    "logging begins while a table is being given back",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy), Actor("recovery", recover)),
    vm=small_vm(1, 2, backing_level=2),
    setup=executed,
    check=migration_lost_nothing,
)
NX_RECOVERY_TWICE = Scenario(
    "nx-recovery-twice",
    "two threads give tables back while one more is added",
    (
        Actor("vcpu 0", execute_page_1),
        Actor("recovery 0", recover),
        Actor("recovery 1", recover_half),
    ),
    vm=small_vm(1, 2, backing_level=2),
    setup=two_executed,
)
NX_RECOVERY_OFF = Scenario(
    "nx-recovery-off",
    "huge pages may be executed: there is nothing to recover",
    (Actor("vcpu 0", execute_page_1), Actor("recovery", recover)),
    vm=small_vm(1, 1, backing_level=2, nx_huge_pages=False),
    setup=fill_caches,
)
