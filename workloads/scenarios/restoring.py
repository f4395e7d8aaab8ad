"""Without A and D bits: ageing puts permissions aside, faults without a lock give them back.

W goes the same way as for logging.  The last scenarios are others' over again, without A and D.
"""

from __future__ import annotations

from typing import Any

from mmu.machine.layout import C_USE_PML
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.ageing import (
    age_and_forget,
    age_both_pages,
    age_page_0,
    age_page_0_twice,
    aged,
    reclaim_page_0,
)
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
from workloads.scenarios.hosts import protect_page_0, swap_page_0
from workloads.scenarios.writers import huge_protected, map_and_forget
from workloads.scenarios.zaps import small_pages_where_huge_may_be, zap_page_0

NO_AD: dict[str, Any] = {"ad": False}


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
