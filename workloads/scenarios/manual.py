"""Logs that are cleared by a call of their own, and that guests write meanwhile.

A round of a migration is GET, CLEAR, copy, in this order: copied before CLEAR, a page could be
written between the two, and the bit that CLEAR takes would be the only one that knew.
"""

from __future__ import annotations

from mmu.dirty_clear import clear_dirty_log
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.host.frames import VALUE_MASK, VALUE_SHIFT
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine.conditions import DIRTY_LOST, warn
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_FRAMES, C_GFN_COUNT, C_WORKLOAD, SLOT_HARVEST
from mmu.machine.lock import mmu_write_lock, mmu_write_unlock
from mmu.machine.primitives import config, peek, poke, read_once, stopped
from mmu.memslots import slot_word
from mmu.reload import load_root
from mmu.roots import next_root
from mmu.spte import ACCESS_WRITE, LEVEL_4K
from mmu.tdp.split import try_split_huge_pages
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    copy_everything,
    copy_harvested,
    destination_is_equal,
    disable,
    execute_page_0,
    fill_caches,
    map_for_writing,
    one_access,
    small_vm,
    write_back_everything,
    write_both_pages,
    write_page_0,
    write_page_1,
)


@kernel
def clear_everything(cpu: Cpu) -> None:
    """CLEAR what the last GET has named."""
    clear_dirty_log(cpu, 0, 0, config(cpu, C_GFN_COUNT))


@kernel
def clear_and_copy(cpu: Cpu) -> None:
    """The second half of a round."""
    clear_everything(cpu)
    copy_harvested(cpu)


@kernel
def get_clear_and_copy(cpu: Cpu) -> None:
    """A round of a migration."""
    get_dirty_log(cpu, 0)
    clear_and_copy(cpu)


@kernel
def enable_clear_and_copy(cpu: Cpu) -> None:
    """The beginning of one where everything counts as written: all is named, cleared, copied."""
    enable_dirty_log(cpu, 0)
    get_clear_and_copy(cpu)


@kernel
def cleared_migration_lost_nothing(cpu: Cpu) -> int:
    """Check: after a last round with every vCPU at rest the destination is equal."""
    get_clear_and_copy(cpu)
    return destination_is_equal(cpu)


@kernel
def get_only(cpu: Cpu) -> None:
    """Somebody else asks for the log."""
    get_dirty_log(cpu, 0)


@kernel
def clear_and_keep(cpu: Cpu, place: int) -> None:
    """CLEAR, then read gfn 0, at a place of one's own: two copiers of one place would race."""
    clear_everything(cpu)
    poke(cpu, config(cpu, C_WORKLOAD) + place, read_once(cpu, config(cpu, C_FRAMES)))


@kernel
def clear_and_keep_first(cpu: Cpu) -> None:
    """The first of two threads that clear."""
    clear_and_keep(cpu, 0)


@kernel
def clear_and_keep_second(cpu: Cpu) -> None:
    """The second of two threads that clear."""
    clear_and_keep(cpu, 1)


@kernel
def somebody_kept_it(cpu: Cpu) -> int:
    """Check: what gfn 0 holds was read behind a CLEAR, or the log still names it."""
    get_dirty_log(cpu, 0)
    named = read_once(cpu, config(cpu, slot_word(cpu, 0) + SLOT_HARVEST)) & 1
    here = (read_once(cpu, config(cpu, C_FRAMES)) >> VALUE_SHIFT) & VALUE_MASK
    first = (peek(cpu, config(cpu, C_WORKLOAD)) >> VALUE_SHIFT) & VALUE_MASK
    second = (peek(cpu, config(cpu, C_WORKLOAD) + 1) >> VALUE_SHIFT) & VALUE_MASK
    lost = not named and here not in (first, second)
    warn(cpu, lost and not stopped(cpu), DIRTY_LOST, 0, here, max(first, second))
    return 0


@kernel
def clear_in_vain(cpu: Cpu) -> None:
    """Half a mask at the beginning, or at the end; more than there is; what is not logged."""
    pages = config(cpu, C_GFN_COUNT)
    clear_dirty_log(cpu, 0, 1, pages - 1)
    clear_dirty_log(cpu, 0, 0, pages - 1)
    clear_dirty_log(cpu, 0, 0, pages + 1)
    clear_dirty_log(cpu, 0, 0, 0)


@kernel
def split_exclusively(cpu: Cpu) -> None:
    """Eager splitting of all memory as a CLEAR does it, by somebody who has no tables at hand."""
    mmu_write_lock(cpu)
    root = next_root(cpu, 0, 1)
    while root != 0:
        try_split_huge_pages(cpu, root, 0, config(cpu, C_GFN_COUNT), LEVEL_4K)
        root = next_root(cpu, root, 1)
    mmu_write_unlock(cpu)


@kernel
def write_page_2(cpu: Cpu) -> None:
    """The guest writes gfn 2."""
    one_access(cpu, 2, ACCESS_WRITE)


def vmm_of(vm: Vm) -> Cpu:
    """The actor that calls ioctls when there is a choice: the last."""
    return vm.cpu(vm.config.actors - 1)


def logged(vm: Vm) -> None:
    """Logging is on, gfn 0 is mapped, the log was just fetched, cleared and copied."""
    map_for_writing(vm)
    vmm = vmm_of(vm)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_clear_and_copy(vmm)
    copy_everything(vmm)


def logged_and_written(vm: Vm) -> None:
    """The same, and gfn 0 was written since: the next write is not noticed."""
    logged(vm)
    write_page_0(vm.cpu(0))


def written_and_fetched(vm: Vm) -> None:
    """The same, and the user knows it."""
    logged_and_written(vm)
    get_dirty_log(vmm_of(vm), 0)


def fetched_and_forgotten(vm: Vm) -> None:
    """Both pages are mapped, gfn 0 was written and is named, no vCPU has cached that."""
    map_for_writing(vm)
    write_page_1(vm.cpu(0))
    vmm = vmm_of(vm)
    enable_dirty_log(vmm, 0)
    write_page_0(vm.cpu(0))
    get_dirty_log(vmm, 0)
    copy_everything(vmm)
    flush_remote_tlbs(vmm, 0, EVERYTHING)


def all_named(vm: Vm) -> None:
    """Two huge pages are written, and everything counts as written."""
    map_for_writing(vm)
    write_page_2(vm.cpu(0))
    vmm = vmm_of(vm)
    enable_dirty_log(vmm, 0)
    get_dirty_log(vmm, 0)
    copy_everything(vmm)


def border_named(vm: Vm) -> None:
    """The same, and the user is about to clear the last page of one and the first of the other."""
    all_named(vm)
    vm.region("harvest 0")[0] = 1 << 1 | 1 << 2


def huge_and_clean(vm: Vm) -> None:
    """A huge page with W and without D, that the host has written back; all is named again.

    The table that it was made of had lost its D bits to a CLEAR.
    """
    map_for_writing(vm)
    vmm = vmm_of(vm)
    enable_dirty_log(vmm, 0)
    get_clear_and_copy(vmm)
    disable_dirty_log(vmm, 0)
    write_back_everything(vm)
    enable_dirty_log(vmm, 0)
    get_dirty_log(vmm, 0)
    copy_everything(vmm)


def huge_without_tables(vm: Vm) -> None:
    """A huge page is mapped, and only the vCPU has table pages at hand."""
    load_root(vm.cpu(0))
    write_page_0(vm.cpu(0))


CLEAR_WALKER = Scenario(
    "clear-walker",
    "a page whose D bit is set and cached is written while the log is fetched and cleared",
    (Actor("vcpu 0", write_page_0), Actor("vmm", get_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="manual"),
    setup=logged_and_written,
    check=cleared_migration_lost_nothing,
)
CLEAR_PML = Scenario(
    "clear-pml",
    "the walker sets D and logs to the PML buffer while the log is fetched and cleared",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", get_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="manual", flush="all"),
    setup=logged,
    check=cleared_migration_lost_nothing,
)
CLEAR_FAST_FAULT = Scenario(
    "clear-fast-fault",
    "a write takes W back without a lock while the log is fetched and cleared",
    (Actor("vcpu 0", write_page_0), Actor("vmm", get_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="manual", pml=False),
    setup=logged,
    check=cleared_migration_lost_nothing,
)
CLEAR_MAP = Scenario(
    "clear-map",
    "a page is mapped for the first time while the log is fetched and cleared",
    (Actor("vcpu 0", write_page_1), Actor("vmm", get_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="manual"),
    setup=logged,
    check=cleared_migration_lost_nothing,
)
CLEAR_FETCHED = Scenario(
    "clear-fetched",
    "a page that the user knows to be written, and another, are written while the log is cleared",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="manual", pml=False),
    setup=fetched_and_forgotten,
    check=cleared_migration_lost_nothing,
)
CLEAR_CLEAR = Scenario(
    "clear-clear",
    "two threads clear the same page, which is written meanwhile",
    (
        Actor("vcpu 0", write_page_0),
        Actor("vmm 0", clear_and_keep_first),
        Actor("vmm 1", clear_and_keep_second),
    ),
    vm=small_vm(1, 2, dirty_log_mode="manual", pml=False),
    setup=written_and_fetched,
    check=somebody_kept_it,
)
GET_CLEAR = Scenario(
    "get-clear",
    "one thread fetches the log while another clears it, and a page is written meanwhile",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", get_only), Actor("vmm 1", clear_and_keep_first)),
    vm=small_vm(1, 2, dirty_log_mode="manual"),
    setup=written_and_fetched,
    check=somebody_kept_it,
)
CLEAR_DISABLE = Scenario(
    "clear-disable",
    "one thread clears the log while another switches logging off",
    (Actor("vcpu 0", write_page_0), Actor("vmm 0", disable), Actor("vmm 1", clear_everything)),
    vm=small_vm(1, 2, dirty_log_mode="manual", backing_level=2),
    setup=written_and_fetched,
)
CLEAR_REFUSED = Scenario(
    "clear-refused",
    "calls that KVM refuses, of a memslot that is not logged",
    (Actor("vcpu 0", write_page_0), Actor("vmm", clear_in_vain)),
    vm=small_vm(1, 1, dirty_log_mode="manual"),
    setup=fill_caches,
)
INITIALLY_SET_WRITE = Scenario(
    "initially-set-write",
    "a huge page is written while logging begins with all set, and everything is cleared",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", enable_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="initially-set", backing_level=2),
    setup=map_for_writing,
    check=cleared_migration_lost_nothing,
)
INITIALLY_SET_MAP = Scenario(
    "initially-set-map",
    "a huge page would be mapped while logging begins with all set",
    (Actor("vcpu 0", write_page_0), Actor("vmm", enable_clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="initially-set", backing_level=2, pml=False),
    setup=fill_caches,
    check=cleared_migration_lost_nothing,
)
CLEAR_STRADDLING = Scenario(
    "clear-straddling",
    "two huge pages share a mask that is cleared while the second one is written",
    (Actor("vcpu 0", write_page_2), Actor("vmm", clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="initially-set", backing_level=2, huge_split="fault"),
    setup=border_named,
    check=cleared_migration_lost_nothing,
)
CLEAR_HUGE = Scenario(
    "clear-huge",
    "a huge page that nobody split loses W while it is written",
    (Actor("vcpu 0", write_both_pages), Actor("vmm", clear_and_copy)),
    vm=small_vm(
        1, 1, dirty_log_mode="initially-set", backing_level=2, huge_split="fault", pml=False
    ),
    setup=all_named,
    check=cleared_migration_lost_nothing,
)
CLEAR_SPLIT_WALKER = Scenario(
    "clear-split-walker",
    "the walker sets D of a huge page while a clear splits it under the write lock",
    (Actor("vcpu 0", write_page_0), Actor("vmm", clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="initially-set", backing_level=2, spare_frames=2),
    setup=huge_and_clean,
    check=cleared_migration_lost_nothing,
)
CLEAR_YIELDING = Scenario(
    "clear-yielding",
    "splitting gives up the write lock in the middle of a clear",
    (Actor("vcpu 0", write_page_2), Actor("vmm", clear_and_copy)),
    vm=small_vm(1, 1, dirty_log_mode="initially-set", backing_level=2),
    setup=border_named,
    check=cleared_migration_lost_nothing,
    probes=1 << PROBE_CONTEND,
)
SPLIT_TOPUP_EXCLUSIVE = Scenario(
    "split-topup-exclusive",
    "splitting under the write lock drops it to get a table, while the page is executed",
    (Actor("vcpu 0", execute_page_0), Actor("vmm", split_exclusively)),
    vm=small_vm(1, 1, backing_level=2),
    setup=huge_without_tables,
)
