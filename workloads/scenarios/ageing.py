"""The host asks which pages were used, with no lock, while everybody else goes on.

With A bits, ageing takes A.  Without A and D bits (`NO_AD`) it puts a leaf's permissions aside,
and the next access gets them back by a fault without a lock; W goes the same way as for logging.
"""

from __future__ import annotations

from typing import Any

from mmu.host_reclaim import age_page, mark_page_idle, reclaim_if_old
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_USE_PML
from mmu.notifier import clear_young
from mmu.slot_changes import delete_memslot
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable_and_copy,
    execute_page_0,
    fill_caches,
    harvest_and_copy,
    logged,
    logged_and_written,
    map_for_writing,
    migration_lost_nothing,
    read_page_0,
    read_page_1,
    small_vm,
    split_everything,
    write_both_pages,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.dying import drop_root, invalidate, one_root
from workloads.scenarios.hosts import protect_page_0, swap_page_0, swapped_out
from workloads.scenarios.writers import huge_protected, map_and_forget
from workloads.scenarios.zaps import nothing, small_pages_where_huge_may_be, zap_page_0

NO_AD: dict[str, Any] = {"ad": False}


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


def aged_and_logged(vm: Vm) -> None:
    """Logging is on, gfn 0 was written since the last harvest and is old."""
    logged_and_written(vm)
    age_and_forget(vm)


def aged_and_cached(vm: Vm) -> None:
    """Logging is on, gfn 0 was written since the last harvest and is old, but cached still."""
    logged_and_written(vm)
    age_both_pages(vm.cpu(vm.config.actors - 1))


def huge_aged_and_logged(vm: Vm) -> None:
    """Logging is on, the huge page of gfn 0 is write-protected, not split, and old."""
    huge_protected(vm)
    age_and_forget(vm)


def read_only_and_aged(vm: Vm) -> None:
    """The host maps gfn 0 read-only, the guest has read it since, and it is old."""
    map_for_writing(vm)
    protect_page_0(vm.cpu(vm.config.actors - 1))
    read_page_0(vm.cpu(0))
    age_and_forget(vm)


def without_ad_beside_pml(vm: Vm) -> None:
    """The VM uses PML, but this guest runs on entries without A and D bits, as some L2 do."""
    vm.words[C_USE_PML] = 1
    map_for_writing(vm)


def logged_beside_pml(vm: Vm) -> None:
    """The same; logging is on, gfn 0 was written since the last harvest."""
    vm.words[C_USE_PML] = 1
    logged_and_written(vm)


def one_root_aged(vm: Vm) -> None:
    """vCPU 0 alone has a root; gfn 0 was written there and is old."""
    one_root(vm)
    age_and_forget(vm)


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
    vm=small_vm(1, 2, slots=3, slot_pages=(4, 2, 2), absent_slots=1),
    setup=fill_caches,
)
AGE_IDLE = Scenario(
    "age-idle",
    "pages get their idle bits, which are read again, while the guest writes one",
    (Actor("vcpu 0", write_page_0), Actor("host", mark_idle_and_look)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_and_forget,
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

# --- Without A and D bits ------------------------------------------------------------------------

RESTORE_READ = Scenario(
    "restore-read",
    "a read gets the permissions of an old page back while it is aged again",
    (Actor("vcpu 0", read_page_0), Actor("host", age_page_0_twice)),
    vm=small_vm(1, 1, **NO_AD),
    setup=aged,
)
RESTORE_WRITE = Scenario(
    "restore-write",
    "two vCPUs read and write an old page while it is aged again",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_0), Actor("host", age_page_0)),
    vm=small_vm(2, 1, **NO_AD),
    setup=aged,
)
RESTORE_HARVEST = Scenario(
    "restore-harvest",
    "an old page is written while it is aged again and the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy), Actor("host", age_page_0)),
    vm=small_vm(1, 2, **NO_AD),
    setup=aged_and_logged,
    check=migration_lost_nothing,
)
RESTORE_CACHED_HARVEST = Scenario(
    "restore-cached-harvest",
    "a page that is old is written by its cached translation while the log is harvested",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=aged_and_cached,
    check=migration_lost_nothing,
)
RESTORE_ENABLE = Scenario(
    "restore-enable",
    "an old page is written while logging is switched on",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=aged,
    check=migration_lost_nothing,
)
RESTORE_SWAP = Scenario(
    "restore-swap",
    "a page that was written and aged is read while the host takes it away",
    (Actor("vcpu 0", read_page_0), Actor("host 0", swap_page_0), Actor("host 1", age_page_0)),
    vm=small_vm(1, 2, spare_frames=2, **NO_AD),
    setup=aged,
)
RESTORE_RECLAIM = Scenario(
    "restore-reclaim",
    "reclaim takes a written page if it finds it old twice, while the guest reads it",
    (Actor("vcpu 0", read_page_0), Actor("host", reclaim_page_0)),
    vm=small_vm(1, 1, spare_frames=2, **NO_AD),
    setup=map_and_forget,
)
RESTORE_READ_ONLY = Scenario(
    "restore-read-only",
    "an old page that was mapped read-only is written while it is aged again",
    (Actor("vcpu 0", write_page_0), Actor("host", age_page_0)),
    vm=small_vm(1, 1, spare_frames=2, **NO_AD),
    setup=read_only_and_aged,
)
RESTORE_ZAP_READ_ONLY = Scenario(
    "restore-zap-read-only",
    "an old page that the host maps read-only is read while it is zapped",
    (Actor("vcpu 0", read_page_0), Actor("host", zap_page_0)),
    vm=small_vm(1, 1, spare_frames=2, **NO_AD),
    setup=read_only_and_aged,
)
RESTORE_SPLIT = Scenario(
    "restore-split",
    "an old huge page is split by an execution while it is aged again",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", read_page_1), Actor("host", age_both_pages)),
    vm=small_vm(2, 1, backing_level=2, **NO_AD),
    setup=aged,
)
RESTORE_EAGER_SPLIT = Scenario(
    "restore-eager-split",
    "an old huge page is split for logging while it is executed",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", split_everything), Actor("host", age_page_0)),
    vm=small_vm(1, 2, backing_level=2, **NO_AD),
    setup=aged,
)
RESTORE_HUGE_LOGGED = Scenario(
    "restore-huge-logged",
    "two pages are written in an old huge page that is logged and not split yet",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, backing_level=2, huge_split="fault", **NO_AD),
    setup=huge_aged_and_logged,
    check=migration_lost_nothing,
)
RESTORE_PROMOTE = Scenario(
    "restore-promote",
    "pages are aged in a table that a fault replaces by a huge page, without A bits",
    (Actor("vcpu 0", write_page_1), Actor("host", age_both_pages)),
    vm=small_vm(1, 1, backing_level=2, **NO_AD),
    setup=small_pages_where_huge_may_be,
)
RESTORE_PUT = Scenario(
    "restore-put",
    "a page is aged below a root that is dropped, without A bits",
    (Actor("vcpu 0", drop_root), Actor("host", age_page_0_twice)),
    vm=small_vm(1, 1, **NO_AD),
    setup=one_root,
)
RESTORE_INVALIDATE = Scenario(
    "restore-invalidate",
    "an old page is read while all roots are invalidated",
    (Actor("vcpu 0", read_page_0), Actor("vmm", invalidate), Actor("host", age_page_0)),
    vm=small_vm(1, 2, **NO_AD),
    setup=one_root_aged,
)

# --- What other scenarios do, without A and D bits -----------------------------------------------

NO_AD_ENABLE = Scenario(
    "no-ad-enable",
    "a page is mapped for the first time while logging is switched on, without A and D bits",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=fill_caches,
    check=migration_lost_nothing,
)
NO_AD_ENABLE_HUGE = Scenario(
    "no-ad-enable-huge",
    "a huge page is written while logging is switched on and splits it, without A and D bits",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, backing_level=2, **NO_AD),
    setup=map_for_writing,
    check=migration_lost_nothing,
)
NO_AD_HARVEST = Scenario(
    "no-ad-harvest",
    "a page that is writable already is written while the log is harvested, without A and D bits",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=logged_and_written,
    check=migration_lost_nothing,
)
NO_AD_SWAP = Scenario(
    "no-ad-swap",
    "the host swaps out a page whose W a fault gives back, without A and D bits",
    (Actor("vcpu 0", write_page_0), Actor("host", swap_page_0)),
    vm=small_vm(1, 1, spare_frames=2, **NO_AD),
    setup=logged,
)
NO_AD_BESIDE_PML = Scenario(
    "no-ad-beside-pml",
    "the log of a VM with PML is harvested while a guest without A and D bits writes",
    (Actor("vcpu 0", write_page_0), Actor("vmm", harvest_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=logged_beside_pml,
    check=migration_lost_nothing,
)
NO_AD_ENABLE_BESIDE_PML = Scenario(
    "no-ad-enable-beside-pml",
    "logging with PML is switched on while a guest without A and D bits writes",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, **NO_AD),
    setup=without_ad_beside_pml,
    check=migration_lost_nothing,
)
