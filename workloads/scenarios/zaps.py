"""Mappings that go while others map, split, walk: range zaps, promotions, dropped pages."""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CMPXCHG, PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_FRAME_PFN,
    C_GFN_COUNT,
    NX_LIST,
    TABLE_CACHE,
    TABLE_CACHE_COUNT,
)
from mmu.machine.lock import mmu_write_lock, mmu_write_unlock
from mmu.machine.primitives import config, read_once
from mmu.machine.rcu import rcu_read_lock, rcu_read_unlock
from mmu.notifier import unmap_gfn_range
from mmu.pages import maybe_free_deferred
from mmu.tdp.zap import zap_sp
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    execute_page_0,
    execute_page_1,
    fill_caches,
    logged,
    map_for_reading,
    map_for_writing,
    read_page_1,
    small_vm,
    split_everything,
    stop_logging_only,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.idle import nothing


@kernel
def zap_range(cpu: Cpu, start: int, end: int) -> None:
    """Zap the leafs of [start, end) in all roots, as a notifier does."""
    mmu_write_lock(cpu)
    if unmap_gfn_range(cpu, start, end, 1, 0):
        flush_remote_tlbs(cpu, 0, EVERYTHING)
    mmu_write_unlock(cpu)


@kernel
def zap_page_0(cpu: Cpu) -> None:
    """Zap what maps gfn 0."""
    zap_range(cpu, 0, 1)


@kernel
def zap_everything(cpu: Cpu) -> None:
    """Zap all leafs, yielding where asked to."""
    zap_range(cpu, 0, config(cpu, C_GFN_COUNT))


@kernel
def zap_nx_table(cpu: Cpu) -> None:
    """Zap the table that is first on the list of those that exist for NX only, if there is one."""
    mmu_write_lock(cpu)
    rcu_read_lock(cpu)
    page = read_once(cpu, NX_LIST)
    if page != 0:
        zap_sp(cpu, page)
        flush_remote_tlbs(cpu, 0, EVERYTHING)
    rcu_read_unlock(cpu)
    mmu_write_unlock(cpu)
    maybe_free_deferred(cpu)


def executed(vm: Vm) -> None:
    """gfn 0 was executed: a table stands where NX forbids a huge page."""
    fill_caches(vm)
    execute_page_0(vm.cpu(0))


def small_pages_where_huge_may_be(vm: Vm) -> None:
    """gfn 0 was written while logging was on: a table stands where a 2M page is possible now."""
    fill_caches(vm)
    write_while_logged(vm)


def write_while_logged(vm: Vm) -> None:
    """The same, once everybody has table pages."""
    vmm = vm.cpu(vm.config.vcpus)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    stop_logging_only(vm)


def frame_has_the_tables_number(vm: Vm) -> None:
    """The same, and the pfn of the 2M page is the number of the table's page.

    Tables and frames of a host never share a number; here they are told apart by what the entry is.
    """
    fill_caches(vm)
    own = vm.actor_words(0)
    # The level-1 table will be the last but one: let it be even, as the pfn of a 2M page must be.
    place = TABLE_CACHE + int(own[TABLE_CACHE_COUNT]) - 2
    own[place - 1 : place + 1] = sorted(own[place - 1 : place + 1], key=lambda page: page % 2 == 0)
    vm.words[C_FRAME_PFN] = own[place]
    write_while_logged(vm)


def executed_and_logged(vm: Vm) -> None:
    """The same, and logging was switched on: the next write sets D."""
    executed(vm)
    enable_dirty_log(vm.cpu(vm.config.vcpus), 0)


MAP_ZAP = Scenario(
    "map-zap",
    "a vCPU writes a page for the first time while it is zapped",
    (Actor("vcpu 0", write_page_0), Actor("host", zap_page_0)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
REMAP_ZAP = Scenario(
    "remap-zap",
    "a vCPU writes two pages that are mapped while all are zapped, with yields",
    (Actor("vcpu 0", write_page_1), Actor("host", zap_everything)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
    probes=1 << PROBE_CONTEND,
)
SPLIT_ZAP = Scenario(
    "split-zap",
    "an execution splits a huge page while it is zapped",
    (Actor("vcpu 0", execute_page_0), Actor("host", zap_page_0)),
    vm=small_vm(1, 1, backing_level=2),
    setup=map_for_writing,
)
EAGER_SPLIT_ZAP = Scenario(
    "eager-split-zap",
    "everything is split while it is zapped",
    (Actor("vcpu 0", write_page_0), Actor("vmm", split_everything), Actor("host", zap_page_0)),
    vm=small_vm(1, 2, backing_level=2),
    setup=map_for_reading,
)
ZAP_WALKER = Scenario(
    "zap-walker",
    "the hardware sets D in an entry that is being zapped",
    (Actor("vcpu 0", write_page_0), Actor("host", zap_page_0)),
    vm=small_vm(1, 1),
    setup=logged,
)
PROMOTE_WALKER = Scenario(
    "promote-walker",
    "a fault replaces a table by a huge page while another vCPU's hardware walks it",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, backing_level=2),
    setup=small_pages_where_huge_may_be,
    probes=1 << PROBE_CMPXCHG,
)
PROMOTE_EXECUTE = Scenario(
    "promote-execute",
    "a fault replaces a table by a huge page while another fault maps a small page in it",
    (Actor("vcpu 0", execute_page_1), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, backing_level=2),
    setup=small_pages_where_huge_may_be,
)
PROMOTE_PROMOTE = Scenario(
    "promote-promote",
    "two faults replace the same table by a huge page",
    (Actor("vcpu 0", write_page_1), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, backing_level=2),
    setup=small_pages_where_huge_may_be,
)
PROMOTE_SAME_NUMBER = Scenario(
    "promote-same-number",
    "a huge page takes the place of the table whose number its frame has, while the table is used",
    (Actor("vcpu 0", execute_page_1), Actor("vcpu 1", read_page_1), Actor("vmm", nothing)),
    vm=small_vm(2, 1, backing_level=2),
    setup=frame_has_the_tables_number,
)
ZAP_TABLE_EXECUTE = Scenario(
    "zap-table-execute",
    "a page is executed in a table that is being given back",
    (Actor("vcpu 0", execute_page_1), Actor("host", zap_nx_table)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed,
)
ZAP_TABLE_WRITE = Scenario(
    "zap-table-write",
    "the hardware sets D in a table that is being given back",
    (Actor("vcpu 0", write_page_0), Actor("host", zap_nx_table)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed_and_logged,
)
