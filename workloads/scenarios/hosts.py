"""The host changes its mappings while vCPUs fault, and memslots change."""

from __future__ import annotations

from mmu.host_changes import (
    collapse_huge_mapping,
    discard_pages,
    move_page,
    save_page,
    split_huge_mapping,
    swap_out,
    write_protect_page,
)
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CONTEND
from mmu.machine.kernel import kernel
from mmu.machine.layout import INVALIDATE_SEQ, N_INVALIDATIONS
from mmu.notifier import invalidate_range_end, invalidate_range_start
from mmu.spte import ACCESS_WRITE
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    fill_caches,
    logged,
    map_for_reading,
    map_for_writing,
    one_access,
    read_page_0,
    read_page_1,
    small_vm,
    write_both_pages,
    write_page_0,
    write_page_1,
)

SEQUENCE_WRAP = 1 << 31  # where a sequence kept in 32 bits turns negative


@kernel
def move_page_0(cpu: Cpu) -> None:
    """Host page 0 moves to another frame."""
    move_page(cpu, 0)


@kernel
def swap_page_0(cpu: Cpu) -> None:
    """Host page 0 is reclaimed."""
    swap_out(cpu, 0)


@kernel
def save_page_0(cpu: Cpu) -> None:
    """Host page 0 is saved."""
    save_page(cpu, 0)


@kernel
def save_and_swap_page_0(cpu: Cpu) -> None:
    """Host page 0 is saved, and then reclaimed."""
    save_page(cpu, 0)
    swap_out(cpu, 0)
    save_page(cpu, 0)  # in vain


@kernel
def protect_page_0(cpu: Cpu) -> None:
    """Host page 0 becomes read-only."""
    write_protect_page(cpu, 0)


@kernel
def split_page_0(cpu: Cpu) -> None:
    """The huge page of host page 0 is split."""
    split_huge_mapping(cpu, 0)


@kernel
def collapse_page_0(cpu: Cpu) -> None:
    """A huge page is made where host page 0 is."""
    collapse_huge_mapping(cpu, 0)


@kernel
def invalidate_page_0(cpu: Cpu) -> None:
    """An invalidation of host page 0 in which nothing changes."""
    invalidate_range_start(cpu, 0, 1, 1)
    invalidate_range_end(cpu, 0, 1)


@kernel
def invalidate_without_sleep(cpu: Cpu) -> None:
    """The same by somebody who may not sleep, as the OOM killer's reaper."""
    invalidate_range_start(cpu, 0, 1, 0)
    invalidate_range_end(cpu, 0, 1)


@kernel
def move_page_4(cpu: Cpu) -> None:
    """Host page 4 moves to another frame."""
    move_page(cpu, 4)


@kernel
def discard_two_pages(cpu: Cpu) -> None:
    """Host pages 0 and 1 are given up with what they hold."""
    discard_pages(cpu, 0, 2)


@kernel
def discard_across_slots(cpu: Cpu) -> None:
    """Host pages 3 and 4, the last of one memslot and the first of the next, are given up."""
    discard_pages(cpu, 3, 5)


@kernel
def write_page_4(cpu: Cpu) -> None:
    """The guest writes gfn 4."""
    one_access(cpu, 4, ACCESS_WRITE)


@kernel
def invalidate_page_1(cpu: Cpu) -> None:
    """An invalidation of host page 1 in which nothing changes."""
    invalidate_range_start(cpu, 1, 2, 1)
    invalidate_range_end(cpu, 1, 2)


def sequence_about_to_wrap(vm: Vm) -> None:
    """2**31 invalidations have been, less one: a sequence kept in 32 bits is about to wrap."""
    fill_caches(vm)
    vm.words[INVALIDATE_SEQ] = SEQUENCE_WRAP - 1
    vm.actor_words(0)[N_INVALIDATIONS] = SEQUENCE_WRAP - 1


def split_and_written(vm: Vm) -> None:
    """The host has split a huge page, of which the guest has written gfn 0."""
    map_for_writing(vm)
    split_page_0(vm.cpu(vm.config.vcpus))
    write_page_0(vm.cpu(0))


def swapped_out(vm: Vm) -> None:
    """gfn 0 was written and swapped out."""
    map_for_writing(vm)
    swap_page_0(vm.cpu(vm.config.vcpus))


def read_only(vm: Vm) -> None:
    """gfn 0 was written, then made read-only by the host, and vCPU 0 has read it since."""
    map_for_writing(vm)
    protect_page_0(vm.cpu(0))
    read_page_0(vm.cpu(0))


def collapsible(vm: Vm) -> None:
    """A huge page was split, gfn 0 was moved to another frame, both pages are mapped."""
    split_and_written(vm)
    move_page_0(vm.cpu(vm.config.vcpus))
    write_page_0(vm.cpu(0))


NOTIFIER_FAULT = Scenario(
    "notifier-fault",
    "the host moves a page while a vCPU writes it for the first time",
    (Actor("vcpu 0", write_page_0), Actor("host", move_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=fill_caches,
)
NOTIFIER_WRITE = Scenario(
    "notifier-write",
    "the host moves a page that a vCPU writes again",
    (Actor("vcpu 0", write_page_0), Actor("host", move_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_for_writing,
)
NOTIFIER_LOGGED = Scenario(
    "notifier-logged",
    "the host swaps out a page whose D bit the hardware sets",
    (Actor("vcpu 0", write_page_0), Actor("host", swap_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=logged,
)
SAVE_SWAP_OUT = Scenario(
    "save-swap-out",
    "the host saves and swaps out a page whose D bit the hardware sets",
    (Actor("vcpu 0", write_page_0), Actor("host", save_and_swap_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=logged,
)
SAVE_BESIDE_SWAP = Scenario(
    "save-beside-swap",
    "the host saves a page that is written and that another thread of it swaps out",
    (Actor("vcpu 0", write_page_0), Actor("host 0", save_page_0), Actor("host 1", swap_page_0)),
    vm=small_vm(1, 2, spare_frames=2),
    setup=logged,
)
NOTIFIER_WRAP = Scenario(
    "notifier-wrap",
    "an invalidation is the 2**31st while a vCPU faults",
    (Actor("vcpu 0", write_page_0), Actor("host", invalidate_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=sequence_about_to_wrap,
)
NOTIFIER_YIELD = Scenario(
    "notifier-yield",
    "the host moves a page and yields on the way while a vCPU writes two",
    (Actor("vcpu 0", write_both_pages), Actor("host", move_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_for_writing,
    probes=1 << PROBE_CONTEND,
)
TWO_NOTIFIERS = Scenario(
    "two-notifiers",
    "two invalidations overlap while a vCPU writes one of the pages",
    (
        Actor("vcpu 0", write_page_0),
        Actor("host 0", invalidate_page_0),
        Actor("host 1", invalidate_page_1),
    ),
    vm=small_vm(1, 2, spare_frames=2),
    setup=fill_caches,
)
SWAP_IN_SWAP_OUT = Scenario(
    "swap-in-swap-out",
    "a vCPU reads a page from disk that the host reclaims again",
    (Actor("vcpu 0", read_page_0), Actor("host", swap_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=swapped_out,
)
SWAP_IN_TWICE = Scenario(
    "swap-in-twice",
    "two vCPUs touch a page that is on disk",
    (Actor("vcpu 0", read_page_0), Actor("vcpu 1", write_page_0), Actor("host", invalidate_page_1)),
    vm=small_vm(2, 1, spare_frames=2),
    setup=swapped_out,
)
PROTECT_WRITE = Scenario(
    "protect-write",
    "the host write-protects a page that a vCPU writes",
    (Actor("vcpu 0", write_page_0), Actor("host", protect_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_for_reading,
)
WRITE_READ_ONLY = Scenario(
    "write-read-only",
    "two vCPUs write and read a page that is mapped read-only, since the host shares it",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_0)),
    vm=small_vm(2, spare_frames=2),
    setup=read_only,
)
HUGE_SPLIT_FAULT = Scenario(
    "huge-split-fault",
    "the host splits a huge page that a vCPU maps",
    (Actor("vcpu 0", write_page_0), Actor("host", split_page_0)),
    vm=small_vm(1, 1, backing_level=2, spare_frames=2),
    setup=fill_caches,
)
COLLAPSE_FAULT = Scenario(
    "collapse-fault",
    "the host makes a huge page of pages that two vCPUs use",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_1), Actor("host", collapse_page_0)),
    vm=small_vm(2, 1, backing_level=2, spare_frames=2),
    setup=collapsible,
)
MOVE_SPLIT_WRITE = Scenario(
    "move-split-write",
    "the host moves a page of a huge page that it has split",
    (Actor("vcpu 0", write_page_1), Actor("host", move_page_0)),
    vm=small_vm(1, 1, backing_level=2, spare_frames=2),
    setup=split_and_written,
)
NOTIFIER_ATOMIC = Scenario(
    "notifier-atomic",
    "an invalidation that may not sleep while a vCPU writes a page that is mapped",
    (Actor("vcpu 0", write_page_0), Actor("host", invalidate_without_sleep)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_for_writing,
)
NOTIFIER_OTHER_SLOT = Scenario(
    "notifier-other-slot",
    "the host moves a page of the second memslot while a vCPU writes it",
    (Actor("vcpu 0", write_page_4), Actor("host", move_page_4)),
    vm=small_vm(1, 1, spare_frames=2, slots=2),
    setup=fill_caches,
)
PROTECT_SWAP_OUT = Scenario(
    "protect-swap-out",
    "the host write-protects and reclaims a page that a vCPU writes",
    (
        Actor("vcpu 0", write_page_0),
        Actor("host 0", protect_page_0),
        Actor("host 1", swap_page_0),
    ),
    vm=small_vm(1, 2, spare_frames=2),
    setup=map_for_writing,
)
HUGE_SPLIT_TWICE = Scenario(
    "huge-split-twice",
    "two threads of the host split the huge page that a vCPU reads",
    (Actor("vcpu 0", read_page_1), Actor("host 0", split_page_0), Actor("host 1", split_page_0)),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=map_for_reading,
)
PROTECT_COLLAPSE = Scenario(
    "protect-collapse",
    "the host write-protects a page and makes a huge page of it, or not",
    (
        Actor("vcpu 0", read_page_0),
        Actor("host 0", protect_page_0),
        Actor("host 1", collapse_page_0),
    ),
    vm=small_vm(1, 2, backing_level=2, spare_frames=2),
    setup=collapsible,
)
COLLAPSE_SMALL = Scenario(
    "collapse-small",
    "the host is to make a huge page where memory has none",
    (Actor("vcpu 0", write_page_0), Actor("host", collapse_page_0)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=map_for_writing,
)
DISCARD_READ = Scenario(
    "discard-read",
    "two pages, one of them on disk, are given up while a vCPU reads the other",
    (Actor("vcpu 0", read_page_1), Actor("host", discard_two_pages)),
    vm=small_vm(1, 1, spare_frames=2),
    setup=swapped_out,
)
DISCARD_TWO_SLOTS = Scenario(
    "discard-two-slots",
    "pages of two memslots are given up at once while a vCPU writes one of the second",
    (Actor("vcpu 0", write_page_4), Actor("host", discard_across_slots)),
    vm=small_vm(1, 1, spare_frames=2, slots=2),
    setup=fill_caches,
)
