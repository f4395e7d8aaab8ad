"""Where memory comes from and where it ends: borders of memslots, holes, caches of tables."""

from __future__ import annotations

from mmu.dirty_log import enable_dirty_log
from mmu.guest import vcpu_load, vcpu_put
from mmu.host.frames import MAPPED, MAPPING_FRAME_SHIFT, MAPPING_LEVEL_SHIFT
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import TABLE_CACHE_MAX
from mmu.pages import topup_table_cache
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, LEVEL_4K
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    execute_page_0,
    fill_caches,
    one_access,
    read_page_0,
    read_page_1,
    small_vm,
    split_everything,
    stop_logging_only,
    touch,
    write_page_0,
    write_page_1,
)


@kernel
def write_border_then_hole(cpu: Cpu) -> None:
    """The guest writes the last page of slot 0, then a gfn behind all slots (MMIO)."""
    vcpu_load(cpu)
    touch(cpu, 2, ACCESS_WRITE)
    touch(cpu, 6, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def write_slot_1_then_0(cpu: Cpu) -> None:
    """The guest writes the first page of slot 1, then the last one of slot 0."""
    vcpu_load(cpu)
    touch(cpu, 3, ACCESS_WRITE)
    touch(cpu, 2, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def execute_page_2(cpu: Cpu) -> None:
    """The guest executes gfn 2."""
    one_access(cpu, 2, ACCESS_EXECUTE)


def host_maps_read_only(vm: Vm) -> None:
    """Logging is on; the host maps gfn 0 read-only (a page that it merged with an equal one)."""
    fill_caches(vm)
    enable_dirty_log(vm.cpu(0), 0)
    frame = 0 << MAPPING_FRAME_SHIFT
    level = LEVEL_4K << MAPPING_LEVEL_SHIFT
    vm.region("mapping")[0] = MAPPED | ACCESS_READ | ACCESS_EXECUTE | level | frame


def table_left_behind(vm: Vm) -> None:
    """Logging had gfn 0 mapped at 4K and is off again; its table stays, gfn 1 is not mapped."""
    fill_caches(vm)
    enable_dirty_log(vm.cpu(0), 0)
    write_page_0(vm.cpu(0))
    stop_logging_only(vm)


def vmm_has_no_table(vm: Vm) -> None:
    """A huge page is mapped; only the vCPU has table pages at hand."""
    topup_table_cache(vm.cpu(0), TABLE_CACHE_MAX)
    write_page_0(vm.cpu(0))


MAP_BORDER = Scenario(
    "map-border",
    "faults on both sides of a memslot's border inside a huge page, and one in a hole",
    (Actor("vcpu 0", write_border_then_hole), Actor("vcpu 1", write_slot_1_then_0)),
    vm=small_vm(2, backing_level=2, pages=6, slots=2),
    setup=fill_caches,
)
MAP_READ_ONLY = Scenario(
    "map-read-only",
    "two vCPUs read and execute a logged page that the host maps read-only",
    (Actor("vcpu 0", read_page_0), Actor("vcpu 1", execute_page_0)),
    vm=small_vm(2),
    setup=host_maps_read_only,
)
MAP_TOPUP = Scenario(
    "map-topup",
    "two vCPUs fault with empty caches: both ask the host for table pages",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2),
)
MAP_UNDER_TABLE = Scenario(
    "map-under-table",
    "faults that could map a huge page find a table that logging has left",
    (Actor("vcpu 0", read_page_1), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, backing_level=2),
    setup=table_left_behind,
)
SPLIT_TOPUP = Scenario(
    "split-topup",
    "splitting has no table page and gives up its lock to get some, while a vCPU executes",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", split_everything)),
    vm=small_vm(1, 1, backing_level=2),
    setup=vmm_has_no_table,
)
EXECUTE_EXECUTE = Scenario(
    "execute-execute",
    "two executions split a huge page each: both enter the list of NX splits",
    (Actor("vcpu 0", execute_page_0), Actor("vcpu 1", execute_page_2)),
    vm=small_vm(2, backing_level=2),
    setup=fill_caches,
)
