"""Several writers of logged pages, and logging that is switched on or off beside them."""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.guest import quiet_point, vcpu_load, vcpu_put
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CMPXCHG
from mmu.machine.kernel import kernel
from mmu.spte import ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    copy_everything,
    disable,
    enable,
    enable_and_copy,
    fill_caches,
    harvest_and_copy,
    logged,
    logged_and_written,
    map_for_writing,
    migration_lost_nothing,
    small_vm,
    touch,
    write_both_pages,
    write_page_0,
    write_page_1,
    write_protect_everything,
)


@kernel
def write_and_rest(cpu: Cpu) -> None:
    """The guest writes gfn 0, comes to rest for a moment, and writes it again."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    quiet_point(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    vcpu_put(cpu)


def both_logged(vm: Vm) -> None:
    """Logging is on, gfns 0 and 1 are mapped, the last harvest has just been taken."""
    fill_caches(vm)
    vmm = vm.cpu(vm.config.actors - 1)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    write_page_1(vm.cpu(0))
    get_dirty_log(vmm, 0)
    copy_everything(vmm)


def huge_protected(vm: Vm) -> None:
    """Logging is on, the written huge page is write-protected and not split."""
    map_for_writing(vm)
    vmm = vm.cpu(vm.config.actors - 1)
    enable_dirty_log(vmm, 0)
    copy_everything(vmm)


def map_and_forget(vm: Vm) -> None:
    """gfn 0 was written, and no vCPU has its translation cached any more."""
    map_for_writing(vm)
    flush_remote_tlbs(vm.cpu(0), 0, EVERYTHING)


def logged_and_protected(vm: Vm) -> None:
    """gfn 0 was written since the last harvest, then its W was taken: D is set, W is not."""
    logged_and_written(vm)
    write_protect_everything(vm.cpu(vm.config.vcpus))


def logged_but_not_mapped(vm: Vm) -> None:
    """Logging is on, nothing is mapped."""
    fill_caches(vm)
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)


WRITE_WRITE_PROTECTED = Scenario(
    "write-write-protected",
    "two vCPUs take W of one page back without a lock",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_0)),
    vm=small_vm(2, pml=False),
    setup=both_logged,
    check=migration_lost_nothing,
)
WRITE_WRITE_BITMAP = Scenario(
    "write-write-bitmap",
    "two vCPUs write neighbouring pages: both set bits in one word of the log",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, pml=False),
    setup=both_logged,
    check=migration_lost_nothing,
)
WRITE_WRITE_PML = Scenario(
    "write-write-pml",
    "two walkers set D of one page while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(2, 1),
    setup=both_logged,
    check=migration_lost_nothing,
)
WRITE_HUGE_LOGGED = Scenario(
    "write-huge-logged",
    "two vCPUs write in a huge page that is logged and not split yet",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, pml=False, backing_level=2, huge_split="fault"),
    setup=huge_protected,
    check=migration_lost_nothing,
)
WRITE_PML_FULL = Scenario(
    "write-pml-full",
    "a write fills the PML buffer while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, pml_size=1),
    setup=logged,
    check=migration_lost_nothing,
)
WRITE_REST_HARVEST = Scenario(
    "write-rest-harvest",
    "a vCPU rests between two writes while the log is harvested",
    (Actor("vcpu 0", write_and_rest), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1),
    setup=logged,
    check=migration_lost_nothing,
)
WRITE_PROTECT_PML = Scenario(
    "write-protect-pml",
    "the walker sets D while W is taken",
    (Actor("vcpu 0", write_page_0), Actor("vmm", write_protect_everything)),
    vm=small_vm(1, 1),
    setup=logged,
    check=migration_lost_nothing,
)
FAST_FAULT_HARVEST_PML = Scenario(
    "fast-fault-harvest-pml",
    "a write takes W back while a harvest takes D from the same entry",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1),
    setup=logged_and_protected,
    check=migration_lost_nothing,
)
MAP_RETRY_HARVEST = Scenario(
    "map-retry-harvest",
    "a fault that has set its bit fails once, and the log is harvested before the next attempt",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1),
    setup=logged_but_not_mapped,
    check=migration_lost_nothing,
    probes=1 << PROBE_CMPXCHG,
)
SPLIT_RETRY_HARVEST = Scenario(
    "split-retry-harvest",
    "the same where a huge page has to be split",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, backing_level=2, huge_split="fault"),
    setup=huge_protected,
    check=migration_lost_nothing,
    probes=1 << PROBE_CMPXCHG,
)
ENABLE_UNSPLIT = Scenario(
    "enable-unsplit",
    "a huge page is written twice while logging is switched on and leaves it whole",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, backing_level=2, huge_split="fault", nx_huge_pages=False),
    setup=map_and_forget,
    check=migration_lost_nothing,
)
ENABLE_ENABLE = Scenario(
    "enable-enable",
    "logging is switched on by two threads: who comes second may rely on it too",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", enable), Actor("vmm 1", enable_and_copy)),
    vm=small_vm(1, 2),
    setup=map_for_writing,
    check=migration_lost_nothing,
)
DISABLE_WRITE = Scenario(
    "disable-write",
    "a logged page is written while logging is switched off",
    (Actor("vcpu 0", write_page_0), Actor("vmm", disable)),
    vm=small_vm(1, 1),
    setup=logged,
)
DISABLE_DISABLE = Scenario(
    "disable-disable",
    "a write-protected page is written while two threads switch logging off",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", disable), Actor("vmm 1", disable)),
    vm=small_vm(1, 2, pml=False),
    setup=logged,
)
