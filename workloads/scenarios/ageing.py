"""The host asks which pages were used, with no lock, while everybody else goes on: with A bits."""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.host_changes import save_page
from mmu.host_reclaim import age_page, mark_page_idle, reclaim_if_old
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.notifier import clear_young
from mmu.slot_changes import delete_memslot
from mmu.spte import ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable_and_copy,
    execute_page_0,
    fill_caches,
    harvest_and_copy,
    logged,
    map_for_writing,
    migration_lost_nothing,
    read_page_0,
    read_page_1,
    small_vm,
    stop_logging_only,
    touch,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.dying import drop_root, invalidate, one_root
from workloads.scenarios.hosts import swap_page_0, swapped_out
from workloads.scenarios.writers import map_and_forget
from workloads.scenarios.zaps import nothing, small_pages_where_huge_may_be, zap_page_0


@kernel
def age_page_0(cpu: Cpu) -> None:
    """Reclaim looks at host page 0."""
    age_page(cpu, 0)


@kernel
def age_page_0_twice(cpu: Cpu) -> None:
    """Reclaim looks at host page 0, and once more."""
    age_page(cpu, 0)
    age_page(cpu, 0)


@kernel
def age_both_pages(cpu: Cpu) -> None:
    """What backs host pages 0 and 1 is looked at."""
    clear_young(cpu, 0, 2)


@kernel
def age_two_slots(cpu: Cpu) -> None:
    """Host pages 3 and 4, of two memslots, are looked at."""
    clear_young(cpu, 3, 5)


@kernel
def reclaim_page_0(cpu: Cpu) -> None:
    """Host page 0 is looked at, and swapped out if nobody uses it meanwhile."""
    age_page(cpu, 0)
    reclaim_if_old(cpu, 0)


@kernel
def mark_idle_and_look(cpu: Cpu) -> None:
    """Host pages 0 and 1 get their idle bits, which are read again."""
    for _ in range(2):
        mark_page_idle(cpu, 0)
        mark_page_idle(cpu, 1)


@kernel
def read_and_write_page_0(cpu: Cpu) -> None:
    """The guest reads gfn 0, then writes it."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_READ)
    touch(cpu, 0, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def mark_page_0_idle(cpu: Cpu) -> None:
    """Host page 0 gets its idle bit."""
    mark_page_idle(cpu, 0)


@kernel
def delete_second_slot(cpu: Cpu) -> None:
    """The second memslot goes."""
    delete_memslot(cpu, 1)


# --- Set-up --------------------------------------------------------------------------------------


def age_and_forget(vm: Vm) -> None:
    """Host pages 0 and 1 are marked old, and no vCPU has them cached any more."""
    host = vm.cpu(vm.config.actors - 1)
    age_both_pages(host)
    flush_remote_tlbs(host, 0, EVERYTHING)


def aged(vm: Vm) -> None:
    """gfn 0 was written and is old."""
    map_for_writing(vm)
    age_and_forget(vm)


def small_clean_and_old(vm: Vm) -> None:
    """gfn 0 was written, harvested and aged in a table where a 2M page is possible now."""
    vmm = vm.cpu(vm.config.vcpus)
    fill_caches(vm)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_dirty_log(vmm, 0)
    stop_logging_only(vm)
    age_and_forget(vm)


def saved_and_written(vm: Vm) -> None:
    """The host has saved the logged page of gfn 0, which was written since: only D says so."""
    logged(vm)
    save_page(vm.cpu(vm.config.actors - 1), 0)
    write_page_0(vm.cpu(0))


# --- With A bits ---------------------------------------------------------------------------------

AGE_WALKER = Scenario(
    "age-walker",
    "a page is aged while the hardware sets A and D",
    (Actor("vcpu 0", write_page_0), Actor("host", age_page_0_twice)),
    vm=small_vm(1, 1),
    setup=logged,
    check=migration_lost_nothing,
)
AGE_WALKER_AGED = Scenario(
    "age-walker-aged",
    "the hardware sets A in a leaf that is old already, whose D is set",
    (Actor("vcpu 0", read_page_0), Actor("host", age_page_0)),
    vm=small_vm(1, 1),
    setup=aged,
)
AGE_MAP = Scenario(
    "age-map",
    "pages are aged while two vCPUs map them for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("host", age_both_pages)),
    vm=small_vm(2, 1),
    setup=fill_caches,
)
AGE_ZAP = Scenario(
    "age-zap",
    "a page is aged while it is zapped and faulted in again",
    (Actor("vcpu 0", read_page_0), Actor("host 0", zap_page_0), Actor("host 1", age_page_0)),
    vm=small_vm(1, 2),
    setup=map_for_writing,
)
AGE_SWAP = Scenario(
    "age-swap",
    "a page is aged while the host takes it away",
    (Actor("vcpu 0", write_page_0), Actor("host 0", swap_page_0), Actor("host 1", age_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=aged,
)
AGE_RECLAIM = Scenario(
    "age-reclaim",
    "reclaim takes a page if it finds it old twice, while the guest uses it",
    (Actor("vcpu 0", write_page_0), Actor("host", reclaim_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_and_forget,
)
AGE_SPLIT = Scenario(
    "age-split",
    "a huge page is aged while an execution splits it",
    (Actor("vcpu 0", execute_page_0), Actor("host", age_both_pages)),
    vm=small_vm(1, 1, backing_level=2),
    setup=map_for_writing,
)
AGE_HARVEST = Scenario(
    "age-harvest",
    "a logged page is aged while it is written and the log is harvested",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm", harvest_and_copy),
        Actor("host", age_page_0),
    ),
    vm=small_vm(1, 2),
    setup=logged,
    check=migration_lost_nothing,
)
AGE_PROMOTE = Scenario(
    "age-promote",
    "pages are aged in a table that a fault replaces by a huge page",
    (Actor("vcpu 0", write_page_1), Actor("host", age_both_pages)),
    vm=small_vm(1, 1, backing_level=2),
    setup=small_pages_where_huge_may_be,
)
AGE_PROMOTE_OLD = Scenario(
    "age-promote-old",
    "the same where a page in the table is neither accessed nor dirty: the host is told nothing",
    (Actor("vcpu 0", write_page_1), Actor("host", age_page_0)),
    vm=small_vm(1, 1, backing_level=2),
    setup=small_clean_and_old,
)
AGE_PUT = Scenario(
    "age-put",
    "a page is aged below a root whose last reference is put",
    (Actor("vcpu 0", drop_root), Actor("host", age_page_0_twice)),
    vm=small_vm(1, 1),
    setup=one_root,
)
AGE_INVALIDATE = Scenario(
    "age-invalidate",
    "a page is aged while all roots are invalidated and it is read below a new one",
    (Actor("vcpu 0", read_page_0), Actor("vmm", invalidate), Actor("host", age_page_0)),
    vm=small_vm(1, 2),
    setup=map_for_writing,
)
AGE_SLOT_DELETE = Scenario(
    "age-slot-delete",
    "pages of two memslots are aged while one of these goes",
    (Actor("vcpu 0", nothing), Actor("vmm", delete_second_slot), Actor("host", age_two_slots)),
    vm=small_vm(1, 2, slots=4, absent_slots=1),
    setup=fill_caches,
)
AGE_ENABLE = Scenario(
    "age-enable",
    "logging starts while the hardware sets A of an old page, which is written then",
    (Actor("vcpu 0", read_and_write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1),
    setup=aged,
    check=migration_lost_nothing,
)
AGE_IDLE = Scenario(
    "age-idle",
    "pages get their idle bits, which are read again, while the guest writes one",
    (Actor("vcpu 0", write_page_0), Actor("host", mark_idle_and_look)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_and_forget,
)
AGE_IDLE_HARVEST = Scenario(
    "age-idle-harvest",
    "a page gets its idle bit while a harvest takes D and tells the host",
    (Actor("vcpu 0", read_page_1), Actor("vmm", harvest_and_copy), Actor("host", mark_page_0_idle)),
    vm=small_vm(1, 2),
    setup=saved_and_written,
    check=migration_lost_nothing,
)
AGE_IDLE_HUGE = Scenario(
    "age-idle-huge",
    "a huge page gets its idle bit while the guest writes it",
    (Actor("vcpu 0", write_page_1), Actor("host", mark_idle_and_look)),
    vm=small_vm(1, 1, backing_level=2),
    setup=map_and_forget,
)
AGE_IDLE_SWAPPED = Scenario(
    "age-idle-swapped",
    "a page that is swapped out gets no idle bit; the guest reads it back",
    (Actor("vcpu 0", read_page_0), Actor("host", mark_idle_and_look)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=swapped_out,
)
