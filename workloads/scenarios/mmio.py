"""Accesses of holes, which leave MMIO entries, while memslots come, go and move."""

from __future__ import annotations

from mmu.guest import vcpu_load, vcpu_put
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_CMPXCHG, PROBE_RETRY
from mmu.machine.kernel import kernel
from mmu.machine.layout import SLOTS_GENERATION
from mmu.spte import ACCESS_READ, ACCESS_WRITE, MMIO_GENERATION_MASK, MMIO_LOW_BITS
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import (
    enable,
    fill_caches,
    one_access,
    read_page_0,
    small_vm,
    touch,
    write_page_0,
    write_page_1,
)
from workloads.scenarios.dying import destroy, work_once
from workloads.scenarios.idle import nothing
from workloads.scenarios.slots import create_slot, delete_slot, move_slot_away

HOLE = 4  # first gfn of the second of two memslots, which is nowhere


@kernel
def write_twice(cpu: Cpu) -> None:
    """The guest writes gfn 0, then writes it again."""
    vcpu_load(cpu)
    touch(cpu, 0, ACCESS_WRITE)
    touch(cpu, 0, ACCESS_WRITE)
    vcpu_put(cpu)


@kernel
def write_hole(cpu: Cpu) -> None:
    """The guest writes the hole behind the first memslot."""
    one_access(cpu, HOLE, ACCESS_WRITE)


@kernel
def read_hole(cpu: Cpu) -> None:
    """The guest reads the hole's next page."""
    one_access(cpu, HOLE + 1, ACCESS_READ)


def hole_is_known(vm: Vm) -> None:
    """Nobody has memory yet; vCPU 0 has written gfn 0, a hole: an MMIO entry is there."""
    fill_caches(vm)
    write_page_0(vm.cpu(0))


def second_hole_is_known(vm: Vm) -> None:
    """There is one memslot, and an MMIO entry behind it."""
    fill_caches(vm)
    write_hole(vm.cpu(0))


def hole_became_memory(vm: Vm) -> None:
    """The memslot came after the MMIO entry, which is of an older generation."""
    hole_is_known(vm)
    create_slot(vm.cpu(1))


def old_entry_looks_like_a_leaf(vm: Vm) -> None:
    """The same; the entry's generation is one whose bits would say "no D bit" in a leaf."""
    vm.words[SLOTS_GENERATION] = 1 << MMIO_LOW_BITS
    hole_became_memory(vm)


def generation_about_to_wrap(vm: Vm) -> None:
    """There is an MMIO entry of generation 0; the next change has that number again."""
    hole_is_known(vm)
    vm.words[SLOTS_GENERATION] = MMIO_GENERATION_MASK


MMIO_TWICE = Scenario(
    "mmio-twice",
    "two vCPUs access one hole for the first time, and then again",
    (Actor("vcpu 0", write_twice), Actor("vcpu 1", read_page_0)),
    vm=small_vm(2, absent_slots=1),
    setup=fill_caches,
)
MMIO_RETRY = Scenario(
    "mmio-retry",
    "a vCPU accesses a hole, and the stale check and the cmpxchg may fail at will",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, absent_slots=1),
    setup=fill_caches,
    probes=1 << PROBE_RETRY | 1 << PROBE_CMPXCHG,
)
MMIO_CREATE = Scenario(
    "mmio-create",
    "a memslot comes while a vCPU writes to where it will be, a hole that it knows",
    (Actor("vcpu 0", write_twice), Actor("vmm", create_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=hole_is_known,
)
MMIO_CREATE_FAULTS = Scenario(
    "mmio-create-faults",
    "a memslot comes while two vCPUs access one page of it: one may have seen a hole still",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", read_page_0), Actor("vmm", create_slot)),
    vm=small_vm(2, 1, absent_slots=1),
    setup=fill_caches,
)
MMIO_DELETE = Scenario(
    "mmio-delete",
    "a memslot goes while a vCPU uses a hole behind it",
    (Actor("vcpu 0", write_hole), Actor("vcpu 1", read_hole), Actor("vmm", delete_slot)),
    vm=small_vm(2, 1, slots=2, absent_slots=1),
    setup=second_hole_is_known,
)
MMIO_DELETE_WORKER = Scenario(
    "mmio-delete-worker",
    "a memslot goes with all mappings, which the worker zaps, while a vCPU uses it",
    (Actor("vcpu 0", write_twice), Actor("vmm", delete_slot), Actor("worker", work_once)),
    vm=small_vm(1, 2, zap_by="worker"),
    setup=fill_caches,
)
MMIO_MOVE = Scenario(
    "mmio-move",
    "a memslot moves away while a vCPU writes twice to where it was",
    (Actor("vcpu 0", write_twice), Actor("vmm", move_slot_away)),
    vm=small_vm(1, 1),
    setup=fill_caches,
)
MMIO_PROMOTE = Scenario(
    "mmio-promote",
    "a huge page takes the place of a table that has an MMIO entry, which another vCPU hits",
    (Actor("vcpu 0", write_page_0), Actor("vcpu 1", write_page_1)),
    vm=small_vm(2, absent_slots=1, backing_level=2),
    setup=hole_became_memory,
)
MMIO_ENABLE = Scenario(
    "mmio-enable",
    "logging begins for a memslot with an old MMIO entry, beside which a vCPU writes",
    (Actor("vcpu 0", write_page_1), Actor("vmm", enable)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=old_entry_looks_like_a_leaf,
)
MMIO_WRAP = Scenario(
    "mmio-wrap",
    "the generation wraps while a vCPU writes to where an old MMIO entry has the new number",
    (Actor("vcpu 0", write_twice), Actor("vmm", create_slot)),
    vm=small_vm(1, 1, absent_slots=1),
    setup=generation_about_to_wrap,
)
MMIO_DESTROY = Scenario(
    "mmio-destroy",
    "the VM dies with an MMIO entry in it",
    (Actor("vcpu 0", nothing), Actor("vmm", destroy)),
    vm=small_vm(1, 1, slots=2, absent_slots=1),
    setup=second_hole_is_known,
)
