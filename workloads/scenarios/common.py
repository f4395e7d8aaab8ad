"""What the model's scenarios are made of: a tiny VM, guests that do one thing, a migration.

Two entries a table, three levels, eight pages: small enough that every interleaving can be seen,
deep enough for tables, huge leafs and splits.
"""

from __future__ import annotations

from typing import Any

from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.host.frames import VALUE_MASK, VALUE_SHIFT
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs, request_all
from mmu.machine.conditions import DIRTY_LOST, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_FRAMES,
    C_GFN_COUNT,
    C_WORKLOAD,
    LOGGING,
    SLOT_HARVEST,
    SLOT_LOGGED,
    TABLE_CACHE_MAX,
)
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock
from mmu.machine.primitives import config, peek, poke, read_once
from mmu.memslots import slot_word
from mmu.pages import topup_table_cache
from mmu.reload import load_root
from mmu.roots import next_root
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, LEVEL_4K, SPTE_W
from mmu.tdp.log import clear_bits_in_slot
from mmu.tdp.split import try_split_huge_pages
from mmu.vm import Vm, VmConfig

PAGES = 8


def small_vm(vcpus: int, helpers: int = 0, **options: Any) -> VmConfig:
    """The geometry of all scenarios; the helper is the VMM's thread."""
    shape: dict[str, Any] = {
        "bits": 1,
        "levels": 3,
        "gfn_base": 0,
        "sample": 0,
        "tlb_bits": (2, 1, 1, 1),
        "pml_size": 2,
        "pages": PAGES,
        "workload_words": PAGES,
        "rcu_batch": 1,
    }
    return VmConfig(vcpus=vcpus, helpers=helpers, **{**shape, **options})


# --- What actors do ------------------------------------------------------------------------------


@kernel
def touch(cpu: Cpu, gfn: int, access: int) -> None:
    """One guest access, out of line: inlined into each actor it would be compiled for each."""
    guest_access(cpu, gfn, access)


@kernel
def one_access(cpu: Cpu, gfn: int, access: int) -> None:
    """A vCPU that enters the guest, accesses one page and leaves."""
    vcpu_load(cpu)
    touch(cpu, gfn, access)
    vcpu_put(cpu)


@kernel
def read_page_0(cpu: Cpu) -> None:
    """The guest reads gfn 0."""
    one_access(cpu, 0, ACCESS_READ)


@kernel
def write_page_0(cpu: Cpu) -> None:
    """The guest writes gfn 0."""
    one_access(cpu, 0, ACCESS_WRITE)


@kernel
def execute_page_0(cpu: Cpu) -> None:
    """The guest executes gfn 0."""
    one_access(cpu, 0, ACCESS_EXECUTE)


@kernel
def read_page_1(cpu: Cpu) -> None:
    """The guest reads gfn 1."""
    one_access(cpu, 1, ACCESS_READ)


@kernel
def write_page_1(cpu: Cpu) -> None:
    """The guest writes gfn 1."""
    one_access(cpu, 1, ACCESS_WRITE)


@kernel
def write_both_pages(cpu: Cpu) -> None:
    """The guest writes gfn 0, then gfn 1."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    touch(cpu, 1, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def write_pages_0_and_2(cpu: Cpu) -> None:
    """The guest writes gfn 0, then gfn 2."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    touch(cpu, 2, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def execute_page_1(cpu: Cpu) -> None:
    """The guest executes gfn 1."""
    one_access(cpu, 1, ACCESS_EXECUTE)


@kernel
def split_everything(cpu: Cpu) -> None:
    """Eager splitting of the whole memory, as when logging starts."""
    mmu_read_lock(cpu)
    root = next_root(cpu, 0, 1)
    while root != 0:
        try_split_huge_pages(cpu, root, 0, config(cpu, C_GFN_COUNT), LEVEL_4K)
        root = next_root(cpu, root, 1)
    mmu_read_unlock(cpu)


@kernel
def write_protect_everything(cpu: Cpu) -> None:
    """Take W from every leaf, then flush."""
    mmu_read_lock(cpu)
    root = next_root(cpu, 0, 1)
    while root != 0:
        clear_bits_in_slot(cpu, root, 0, config(cpu, C_GFN_COUNT), LEVEL_4K, SPTE_W)
        root = next_root(cpu, root, 1)
    mmu_read_unlock(cpu)
    flush_remote_tlbs(cpu, 0, EVERYTHING)


@kernel
def enable(cpu: Cpu) -> None:
    """Switch logging on."""
    enable_dirty_log(cpu, 0)


@kernel
def disable(cpu: Cpu) -> None:
    """Switch logging off."""
    disable_dirty_log(cpu, 0)


# --- Migration -----------------------------------------------------------------------------------


@kernel
def copy_harvested(cpu: Cpu) -> None:
    """Copy the pages that the harvest names to the destination, the workload's own words."""
    mask = read_once(cpu, config(cpu, slot_word(cpu, 0) + SLOT_HARVEST))
    for gfn in range(config(cpu, C_GFN_COUNT)):
        if (mask >> gfn) & 1 != 0:
            poke(cpu, config(cpu, C_WORKLOAD) + gfn, read_once(cpu, config(cpu, C_FRAMES) + gfn))


@kernel
def harvest_and_copy(cpu: Cpu) -> None:
    """One round of a live migration."""
    get_dirty_log(cpu, 0)
    copy_harvested(cpu)


@kernel
def enable_and_copy(cpu: Cpu) -> None:
    """The beginning of one: logging on, then everything is copied."""
    enable_dirty_log(cpu, 0)
    copy_everything(cpu)


@kernel
def copy_everything(cpu: Cpu) -> None:
    """Copy the guest's whole memory."""
    for gfn in range(config(cpu, C_GFN_COUNT)):
        poke(cpu, config(cpu, C_WORKLOAD) + gfn, read_once(cpu, config(cpu, C_FRAMES) + gfn))


@kernel
def migration_lost_nothing(cpu: Cpu) -> int:
    """Check: after a last round with every vCPU at rest the destination is equal."""
    harvest_and_copy(cpu)
    return destination_is_equal(cpu)


@kernel
def destination_is_equal(cpu: Cpu) -> int:
    """The guest's memory and its copy hold the same; what is lost is reported."""
    for gfn in range(config(cpu, C_GFN_COUNT)):
        here = (read_once(cpu, config(cpu, C_FRAMES) + gfn) >> VALUE_SHIFT) & VALUE_MASK
        there = (peek(cpu, config(cpu, C_WORKLOAD) + gfn) >> VALUE_SHIFT) & VALUE_MASK
        warn(cpu, here != there, DIRTY_LOST, gfn, here, there)
    return 0


# --- Set-up --------------------------------------------------------------------------------------


def fill_caches(vm: Vm) -> None:
    """Everybody has table pages at hand, and all vCPUs one root: nobody asks for either."""
    for vcpu in range(vm.config.vcpus):
        load_root(vm.cpu(vcpu))
    for actor in range(vm.config.actors):
        topup_table_cache(vm.cpu(actor), TABLE_CACHE_MAX)


def map_for_reading(vm: Vm) -> None:
    """vCPU 0 has read gfn 0: it is mapped as large as the host allows."""
    fill_caches(vm)
    read_page_0(vm.cpu(0))


def map_for_writing(vm: Vm) -> None:
    """vCPU 0 has written gfn 0."""
    fill_caches(vm)
    write_page_0(vm.cpu(0))


def map_for_executing(vm: Vm) -> None:
    """vCPU 0 has executed gfn 0: a huge page that holds it has been split."""
    fill_caches(vm)
    execute_page_0(vm.cpu(0))


def stop_logging_only(vm: Vm) -> None:
    """Logging is off; the tables that it has left are there, not put together to huge pages yet."""
    vm.region("slots")[SLOT_LOGGED] = 0
    vm.words[LOGGING] = 0
    request_all(vm.cpu(vm.config.actors - 1))


def logged_and_written(vm: Vm) -> None:
    """Logging is on, gfn 0 was written since the last harvest: the next write is not noticed."""
    logged(vm)
    write_page_0(vm.cpu(0))


def logged(vm: Vm) -> None:
    """Logging is on, gfn 0 is mapped, the last harvest has just been taken."""
    map_for_writing(vm)
    vmm = vm.cpu(vm.config.vcpus)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_dirty_log(vmm, 0)
    copy_everything(vmm)


def write_back_everything(vm: Vm) -> None:
    """The host has saved all pages: nothing but a D bit will say what is written from now on."""
    pages = vm.config.pages
    vm.region("disk")[:pages] = (vm.frames[:pages] >> VALUE_SHIFT) & VALUE_MASK
    vm.region("marks")[:pages] = 0
