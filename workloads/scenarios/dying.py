"""Roots that are dropped, found, invalidated, zapped, while vCPUs fault; VMs that die."""

from __future__ import annotations

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.blocking import wait_while, wake
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.machine.layout import (
    C_WORKLOAD,
    LEVELS_MAX,
    TABLE_CACHE_COUNT,
    TABLE_CACHE_MAX,
    ZAP_QUEUED,
)
from mmu.machine.lock import slots_lock, slots_unlock
from mmu.machine.primitives import config, own, xchg
from mmu.pages import topup_table_cache
from mmu.reload import load_root, switch_root, unload_root
from mmu.spte import ACCESS_EXECUTE, ACCESS_WRITE
from mmu.vm import Vm
from mmu.zap_all import begin_destroy, destroy_vm, finish_destroy, zap_all_fast
from mmu.zap_worker import zap_worker_turn
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable_and_copy,
    execute_page_1,
    fill_caches,
    harvest_and_copy,
    logged,
    logged_and_written,
    map_for_writing,
    migration_lost_nothing,
    one_access,
    small_vm,
    split_everything,
    touch,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.hosts import move_page_0
from workloads.scenarios.idle import nothing
from workloads.scenarios.zaps import zap_page_0


@kernel
def drop_root(cpu: Cpu) -> None:
    """The vCPU drops its root."""
    unload_root(cpu)


@kernel
def take_root(cpu: Cpu) -> None:
    """The vCPU gets a root: the one that is there, or a new one."""
    load_root(cpu)


@kernel
def take_and_drop_root(cpu: Cpu) -> None:
    """The vCPU gets a root and drops it."""
    load_root(cpu)
    unload_root(cpu)


@kernel
def drop_and_tell(cpu: Cpu) -> None:
    """The vCPU drops its root for ever and says so."""
    unload_root(cpu)
    xchg(cpu, config(cpu, C_WORKLOAD), 1)
    wake(cpu, config(cpu, C_WORKLOAD))


@kernel
def reload_and_write(cpu: Cpu) -> None:
    """The vCPU changes its root for one that is like it, and writes gfn 0 there."""
    unload_root(cpu)
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def switch_and_write(cpu: Cpu) -> None:
    """The vCPU goes to another address space, which has no root yet, and writes gfn 0 there."""
    switch_root(cpu, 1 << 3 | cpu.geometry >> 8)
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def invalidate(cpu: Cpu) -> None:
    """Everything is zapped, as when some memslot goes."""
    slots_lock(cpu)
    zap_all_fast(cpu)
    slots_unlock(cpu)


@kernel
def work_once(cpu: Cpu) -> None:
    """The zap worker waits for a root and zaps it."""
    wait_while(cpu, ZAP_QUEUED, 0)
    zap_worker_turn(cpu)


@kernel
def work_now(cpu: Cpu) -> None:
    """The zap worker zaps what is queued, if anything is."""
    zap_worker_turn(cpu)


@kernel
def destroy(cpu: Cpu) -> None:
    """The VM dies."""
    destroy_vm(cpu)


@kernel
def destroy_around(cpu: Cpu) -> None:
    """The VM begins to die while a vCPU still drops its root."""
    begin_destroy(cpu)
    wait_while(cpu, config(cpu, C_WORKLOAD), 0)
    finish_destroy(cpu)


def one_root(vm: Vm) -> None:
    """vCPU 0 has a root on which gfn 0 is mapped, the others have none."""
    load_root(vm.cpu(0))
    for actor in range(vm.config.actors):
        topup_table_cache(vm.cpu(actor), TABLE_CACHE_MAX)
    write_page_0(vm.cpu(0))


def both_halves(vm: Vm) -> None:
    """gfns 0 and 5 are mapped: something below each entry of the root."""
    map_for_writing(vm)
    one_access(vm.cpu(0), 5, ACCESS_WRITE)


def two_roots(vm: Vm) -> None:
    """vCPU 1 has written gfn 0 in another address space; vCPU 0's root was made later."""
    switch_and_write(vm.cpu(1))
    one_root(vm)


def executed_apart(vm: Vm) -> None:
    """gfns 2, 0 and 4 were executed, in this order: three tables that exist for NX only."""
    fill_caches(vm)
    for gfn in (2, 0, 4):
        one_access(vm.cpu(0), gfn, ACCESS_EXECUTE)


def logged_and_dropped(vm: Vm) -> None:
    """A page is logged; vCPU 0 has dropped the only root, and the worker has not begun."""
    logged_and_written(vm)
    unload_root(vm.cpu(0))


def short_of_tables(vm: Vm) -> None:
    """vCPU 0 has used up the pages that it had at hand: next come those that were freed."""
    cpu = vm.cpu(0)
    one_root(vm)
    while own(cpu, TABLE_CACHE_COUNT) > LEVELS_MAX:
        reload_and_write(cpu)


def dropped(vm: Vm) -> None:
    """vCPU 0 has dropped the only root, and the worker has not begun."""
    one_root(vm)
    unload_root(vm.cpu(0))


PUT_GET = Scenario(
    "put-get",
    "one vCPU drops the only root while another one looks for a root",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", take_root)),
    vm=small_vm(2),
    setup=one_root,
)
PUT_GET_OWNED = Scenario(
    "put-get-owned",
    "the same where the TDP MMU owns a reference",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", take_root)),
    vm=small_vm(2, root_life="owned"),
    setup=one_root,
)
PUT_GET_WORKER = Scenario(
    "put-get-worker",
    "the same where a worker zaps",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", take_root), Actor("worker", work_now)),
    vm=small_vm(2, 1, zap_by="worker"),
    setup=one_root,
)
PUT_PUT = Scenario(
    "put-put",
    "two vCPUs drop the root that both use",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", drop_root)),
    vm=small_vm(2),
    setup=map_for_writing,
)
PUT_SPLIT = Scenario(
    "put-split",
    "a vCPU drops the only root while everything is split",
    (Actor("vcpu 0", drop_root), Actor("vmm", split_everything)),
    vm=small_vm(1, 1, backing_level=2),
    setup=one_root,
)
PUT_SPLIT_WORKER = Scenario(
    "put-split-worker",
    "everything is split while the worker zaps the only root",
    (Actor("vcpu 0", nothing), Actor("vmm", split_everything), Actor("worker", work_once)),
    vm=small_vm(1, 2, backing_level=2, zap_by="worker"),
    setup=dropped,
)
PUT_DEEP = Scenario(
    "put-deep",
    "a vCPU drops the only root, which has four levels, while a page is zapped",
    (Actor("vcpu 0", drop_root), Actor("host", zap_page_0)),
    vm=small_vm(1, 1, levels=4),
    setup=both_halves,
)
PUT_DESTROY = Scenario(
    "put-destroy",
    "a vCPU drops its root while the VM dies",
    (Actor("vcpu 0", drop_and_tell), Actor("vmm", destroy_around)),
    vm=small_vm(1, 1),
    setup=one_root,
)
PUT_DESTROY_WORKER = Scenario(
    "put-destroy-worker",
    "the same where a worker may have the root",
    (Actor("vcpu 0", nothing), Actor("vmm", destroy), Actor("worker", work_once)),
    vm=small_vm(1, 2, zap_by="worker"),
    setup=dropped,
)
PUT_GET_DESTROY = Scenario(
    "put-get-destroy",
    "one vCPU gets and drops a root, another one drops its own, while the VM dies",
    (
        Actor("vcpu 0", drop_and_tell),
        Actor("vcpu 1", take_and_drop_root),
        Actor("vmm", destroy_around),
    ),
    vm=small_vm(2, 1),
    setup=one_root,
)
INVALIDATE_FAULT = Scenario(
    "invalidate-fault",
    "all roots are invalidated while a vCPU writes a page for the first time",
    (Actor("vcpu 0", write_page_0), Actor("vmm", invalidate)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
INVALIDATE_WRITE = Scenario(
    "invalidate-write",
    "all roots are invalidated, with yields, while a vCPU writes another page of a table",
    (Actor("vcpu 0", write_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1),
    setup=map_for_writing,
    probes=1 << PROBE_CONTEND,
)
INVALIDATE_OWNED = Scenario(
    "invalidate-owned",
    "the same where the TDP MMU owns a reference",
    (Actor("vcpu 0", write_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, root_life="owned"),
    setup=map_for_writing,
)
INVALIDATE_STEPS = Scenario(
    "invalidate-steps",
    "the same in passes of 4K, 2M, and the rest",
    (Actor("vcpu 0", write_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, zap_steps="4k-2m-1g"),
    setup=map_for_writing,
)
INVALIDATE_LEAFS = Scenario(
    "invalidate-leafs",
    "the same in passes of leafs and the rest, of a root that has a huge page",
    (Actor("vcpu 0", write_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, zap_steps="leafs-first", backing_level=2),
    setup=map_for_writing,
)
INVALIDATE_DROP = Scenario(
    "invalidate-drop",
    "a huge page is dropped, frozen for a moment, while its root is zapped",
    (Actor("vcpu 0", write_page_0), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, backing_level=2, huge_split="zap"),
    setup=map_for_writing,
)
INVALIDATE_TOP = Scenario(
    "invalidate-top",
    "a root that has tables below all of its entries is invalidated, with yields",
    (Actor("vcpu 0", write_page_0), Actor("vmm", invalidate)),
    vm=small_vm(1, 1),
    setup=both_halves,
    probes=1 << PROBE_CONTEND,
)
INVALIDATE_PARTIAL = Scenario(
    "invalidate-partial",
    "the memory ends within an entry of the root that is invalidated",
    (Actor("vcpu 0", write_page_0), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, pages=6),
    setup=both_halves,
)
ENABLE_PUT = Scenario(
    "enable-put",
    "logging starts while the worker zaps a root that was dropped",
    (Actor("vcpu 0", nothing), Actor("vmm", enable_and_copy), Actor("worker", work_once)),
    vm=small_vm(1, 2, backing_level=2, zap_by="worker"),
    setup=dropped,
)
ENABLE_INVALIDATE = Scenario(
    "enable-invalidate",
    "logging starts while a vCPU drops the only root",
    (Actor("vcpu 0", drop_root), Actor("vmm", enable_and_copy)),
    vm=small_vm(1, 1, backing_level=2),
    setup=one_root,
)
INVALIDATE_PUT = Scenario(
    "invalidate-put",
    "all roots are invalidated while a vCPU drops the only one",
    (Actor("vcpu 0", drop_root), Actor("vmm", invalidate)),
    vm=small_vm(1, 1),
    setup=one_root,
)
INVALIDATE_NOTIFIER = Scenario(
    "invalidate-notifier",
    "the host moves a page while the root that maps it is invalidated and zapped",
    (Actor("vcpu 0", nothing), Actor("vmm", invalidate), Actor("host", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
WORKER_FAULT = Scenario(
    "worker-fault",
    "the worker zaps a root while the vCPU that dropped it writes on a new one",
    (Actor("vcpu 0", reload_and_write), Actor("worker", work_once)),
    vm=small_vm(1, 1, zap_by="worker"),
    setup=one_root,
)
WORKER_NOTIFIER = Scenario(
    "worker-notifier",
    "the host moves a page while the worker zaps a root that maps it",
    (Actor("vcpu 0", nothing), Actor("worker", work_once), Actor("host", move_page_0)),
    vm=small_vm(1, 2, spare_frames=2, zap_by="worker"),
    setup=dropped,
)
SWITCH_FAULT = Scenario(
    "switch-fault",
    "a vCPU gets its first root, in another address space, while another one changes its own",
    (Actor("vcpu 0", reload_and_write), Actor("vcpu 1", switch_and_write)),
    vm=small_vm(2),
    setup=one_root,
)
REUSE_FAULT = Scenario(
    "reuse-fault",
    "a vCPU builds a new root of tables that were freed just now, the old one's among them",
    (Actor("vcpu 0", reload_and_write), Actor("vcpu 1", take_and_drop_root)),
    vm=small_vm(2),
    setup=short_of_tables,
)
INVALIDATE_EXECUTED = Scenario(
    "invalidate-executed",
    "a root whose tables are on the NX list is invalidated while a vCPU executes",
    (Actor("vcpu 0", execute_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, backing_level=2),
    setup=executed_apart,
)
INVALIDATE_DEEP = Scenario(
    "invalidate-deep",
    "a root of four levels is invalidated while a vCPU writes",
    (Actor("vcpu 0", write_page_1), Actor("vmm", invalidate)),
    vm=small_vm(1, 1, levels=4),
    setup=map_for_writing,
)
HARVEST_WORKER = Scenario(
    "harvest-worker",
    "the dirty log is taken while the worker zaps a root that was dropped",
    (Actor("vcpu 0", nothing), Actor("vmm", harvest_and_copy), Actor("worker", work_once)),
    vm=small_vm(1, 2, zap_by="worker"),
    setup=logged_and_dropped,
)
DESTROY_LOADED = Scenario(
    "destroy-loaded",
    "the VM dies while a vCPU at rest has a root with clean, writable leafs",
    (Actor("vcpu 0", nothing), Actor("vmm", destroy)),
    vm=small_vm(1, 1),
    setup=logged,
)
ENABLE_PUT_BEFORE = Scenario(
    "enable-put-before",
    "logging starts while a vCPU drops a root that stands before another one's on the list",
    (Actor("vcpu 0", drop_root), Actor("vcpu 1", write_page_0), Actor("vmm", enable_and_copy)),
    vm=small_vm(2, 1),
    setup=two_roots,
    check=migration_lost_nothing,
)
