"""Migration with the dirty log under chosen and random schedules: no guest write is lost.

Interpreted actors, one step at a time.  A migrator copies what each harvest names; at the end, with
every vCPU at rest and a last harvest done, the copy must equal the guest's memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from harness.oracles.verdict import audits, reported
from harness.watch.stepper import Stepper
from mmu.dirty_log import enable_dirty_log, get_dirty_log
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.hw.vcpu import request_all, synchronize_srcu
from mmu.machine import events
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.twin import interpreted
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm, VmConfig

PAGES = 8
VMM = 2  # actor number
NAMES = ("vcpu 0", "vcpu 1", "vmm")
SCHEDULES = 400
SWITCH = 0.05  # chance to leave an actor that could go on


def small_vm(**options: Any) -> Vm:
    shape = {"bits": 1, "levels": 3, "gfn_base": 0, "tlb_bits": (2, 1, 1, 1), "sample": 0}
    return Vm(VmConfig(vcpus=2, pages=PAGES, **{**shape, **options}))


class Migrator:
    """The destination's memory, filled by what harvests name."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.copy = [0] * PAGES
        self.logging = False  # enabling has returned

    def everything(self) -> None:
        self.logging = True
        self.copy = [int(frame) for frame in self.vm.frames]

    def harvested(self) -> None:
        mask = int(self.vm.region("harvest 0")[0])
        for page in range(PAGES):
            if mask >> page & 1:
                self.copy[page] = int(self.vm.frames[page])

    def lost(self) -> list[int]:
        """Pages whose copy is not the memory, after a last harvest at rest."""
        for number in range(2):
            vcpu_load(self.vm.cpu(number))
            vcpu_put(self.vm.cpu(number))
        get_dirty_log(self.vm.cpu(VMM), 0)
        self.harvested()
        return [page for page in range(PAGES) if self.copy[page] != self.vm.frames[page]]


def guest(accesses: list[tuple[int, int]]) -> Callable[[Cpu], None]:
    def body(cpu: Cpu) -> None:
        interpreted(vcpu_load)(cpu)
        for gfn, access in accesses:
            interpreted(guest_access)(cpu, gfn, access)
        interpreted(vcpu_put)(cpu)

    return body


def migration(migrator: Migrator, substitutes: dict | None = None) -> Callable[[Cpu], None]:
    def body(cpu: Cpu) -> None:
        interpreted(enable_dirty_log, substitutes)(cpu, 0)
        migrator.everything()
        for _ in range(2):
            interpreted(get_dirty_log)(cpu, 0)
            migrator.harvested()

    return body


def run_randomly(stepper: Stepper, choose: random.Random) -> None:
    """Until everybody has ended; nobody able to go on is a deadlock."""
    current = 0
    while stepper.pending:
        able = [number for number in sorted(stepper.pending) if stepper.enabled(number)]
        assert able, f"deadlock: {stepper.pending}"
        if current not in able or choose.random() < SWITCH:
            current = choose.choice(able)
        stepper.step(current)


@pytest.mark.parametrize("part", range(4))
def test_random_schedules_lose_no_write(part):
    for seed in range(part * SCHEDULES // 4, (part + 1) * SCHEDULES // 4):
        choose = random.Random(seed)
        vm = small_vm(
            huge_split=choose.choice(["zap", "fault", "eager"]),
            backing_level=choose.choice([1, 2]),
            pml=choose.random() < 0.5,
            pml_size=choose.choice([2, 3]),
            nx_huge_pages=choose.random() < 0.5,
            flush=choose.choice(["range", "all"]),
        )
        kinds = [ACCESS_READ, ACCESS_WRITE, ACCESS_WRITE, ACCESS_EXECUTE]
        accesses = [(choose.randrange(PAGES), choose.choice(kinds)) for _ in range(8)]
        migrator = Migrator(vm)
        actors = {
            0: (vm.cpu(0), guest(accesses[:4])),
            1: (vm.cpu(1), guest(accesses[4:])),
            VMM: (vm.cpu(VMM), migration(migrator)),
        }
        run_randomly(Stepper(actors), choose)
        assert migrator.lost() == [], f"seed {seed}: {vm.config} {accesses}"
        assert reported(vm, NAMES) == [], f"seed {seed}"
        assert audits(vm) == [], f"seed {seed}"
        vm.close()


def fault_across_enabling(substitutes: dict | None) -> tuple[Migrator, bool]:
    """A fault reads "not logged"; logging is enabled; then the fault installs its leaf.

    True beside the migrator if enabling had to wait for the fault.
    """
    vm = small_vm()
    migrator = Migrator(vm)
    actors = {
        0: (vm.cpu(0), guest([(3, ACCESS_READ), (3, ACCESS_WRITE)])),
        VMM: (vm.cpu(VMM), migration(migrator, substitutes)),
    }
    stepper = Stepper(actors)
    flag = vm.layout.start("slots") + at.SLOT_LOGGED
    while stepper.pending[0][:2] != (events.READ_ONCE, flag):
        stepper.step(0)
    stepper.step(0)
    while VMM in stepper.pending and stepper.enabled(VMM):
        stepper.step(VMM)
    waited = not migrator.logging
    while stepper.pending:
        stepper.step(next(n for n in sorted(stepper.pending) if stepper.enabled(n)))
    return migrator, waited


def test_enabling_waits_for_faults_that_have_read_the_old_flag():
    migrator, waited = fault_across_enabling(None)
    assert waited
    assert migrator.lost() == []


def test_without_srcu_the_same_schedule_loses_the_write():
    migrator, waited = fault_across_enabling({synchronize_srcu: request_all})
    assert not waited
    assert migrator.lost() == [3]
