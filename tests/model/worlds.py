"""Small VMs for tests of the model: kernels run compiled or interpreted, and what is mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from harness.oracles.snapshot import Root, Snapshot
from harness.oracles.verdict import audits, reported
from mmu.guest import guest_access, vcpu_load, vcpu_put
from mmu.hw.tlb import EVERYTHING
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine import layout as at
from mmu.machine.lock import mmu_read_lock, mmu_read_unlock, mmu_write_lock, mmu_write_unlock
from mmu.machine.twin import interpreted
from mmu.spte import ACCESS_WRITE, MMU_PRESENT, PFN_SHIFT, PS
from mmu.vm import Vm, VmConfig

modes = pytest.mark.parametrize("twin", [False, True], ids=["compiled", "interpreted"])
lock_modes = pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])

PAGES = 16
NEVER = 1e11  # ms: no walk yields unless a test wants it


class World:
    """A VM with actors that take turns in this process."""

    def __init__(self, vm: Vm, twin: bool) -> None:
        self.vm = vm
        self.twin = twin

    def run(self, kernel: Callable[..., Any], actor: int, *arguments: int) -> int:
        function: Callable[..., Any] = interpreted(kernel) if self.twin else kernel
        return int(function(self.vm.cpu(actor), *arguments) or 0)

    def locked(self, exclusive: int, kernel: Callable[..., Any], actor: int, *args: int) -> int:
        """Run a kernel with mmu_lock held."""
        self.run(mmu_write_lock if exclusive else mmu_read_lock, actor)
        result = self.run(kernel, actor, *args)
        self.run(mmu_write_unlock if exclusive else mmu_read_unlock, actor)
        return result

    def flush(self, actor: int) -> None:
        """What a zap owes, for vCPUs that may still use the root."""
        self.run(flush_remote_tlbs, actor, 0, EVERYTHING)

    def touch(self, gfns: Iterable[int], access: int = ACCESS_WRITE, vcpu: int = 0) -> int:
        """A vCPU accesses the gfns and comes to rest, on its root still; how many were memory."""
        self.run(vcpu_load, vcpu)
        reached = sum(self.run(guest_access, vcpu, gfn, access) for gfn in gfns)
        self.run(vcpu_put, vcpu)
        return reached

    def root_of(self, vcpu: int) -> int:
        return int(self.vm.actor_words(vcpu)[at.VCPU_ROOT])

    def count(self, counter: int) -> int:
        """A counter's total over all actors."""
        return sum(int(self.vm.actor_words(i)[counter]) for i in range(self.vm.config.actors))

    def roots(self) -> list[Root]:
        return Snapshot(self.vm).roots

    def tables(self) -> set[int]:
        """Pages of all linked tables, roots included."""
        return set(Snapshot(self.vm).pages().tolist())

    def leafs(self) -> list[tuple[int, int]]:
        """First and last gfn of every leaf below any root."""
        bits = self.vm.config.bits
        return sorted(
            (gfn, gfn + (1 << bits * (leafs.level - 1)) - 1)
            for leafs in Snapshot(self.vm).leafs()
            for gfn in leafs.gfns.tolist()
        )

    def mapped(self) -> set[int]:
        return {gfn for first, last in self.leafs() for gfn in range(first, last + 1)}

    def mapped_below(self, root: int) -> set[int]:
        """What one root maps, by a naive walk of its tables."""
        bits = self.vm.config.bits

        def visit(page: int, level: int, first: int) -> Iterator[int]:
            pages = 1 << bits * (level - 1)
            for index, value in enumerate(self.vm.tables[page].tolist()):
                gfn = first + index * pages
                if value & MMU_PRESENT and (level == 1 or value & PS):
                    yield from range(gfn, gfn + pages)
                elif value & MMU_PRESENT:
                    yield from visit(value >> PFN_SHIFT, level - 1, gfn)

        return set(visit(root >> 3, root & 7, 0))

    def problems(self) -> list[str]:
        """What the model's own assertions and all audits say."""
        names = [f"actor {i}" for i in range(self.vm.config.actors)]
        return [str(each) for each in [*reported(self.vm, names), *audits(self.vm)]]


@contextmanager
def world(twin: bool, **options: Any) -> Iterator[World]:
    """A small VM, two entries a table unless said otherwise, at gfn 0."""
    shape = {
        "vcpus": 1,
        "pages": PAGES,
        "bits": 1,
        "levels": 4,
        "gfn_base": 0,
        "sample": 0,
        "tlb_bits": (2, 1, 1, 1),
        "pml_size": 4,
        "rcu_batch": 64,
        "tick_ms": NEVER,
    }
    vm = Vm(VmConfig(**{**shape, **options}))
    try:
        yield World(vm, twin)
    finally:
        # A failed assertion's traceback keeps views; the mapping goes with it.
        with suppress(BufferError):
            vm.close()
